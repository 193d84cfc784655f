// Package line is the byte stream under a session: numbered, acknowledged,
// bounded in both directions, and carried by the messages of one [Carrier]
// after another.
//
// Both sides number the bytes of each direction with 64-bit offsets. A sender
// keeps what is not acknowledged; a receiver says how much more it takes. So
// neither side ever drops a byte or holds more than its window, and the reader
// of a carrier never waits for anybody. When a carrier breaks, the line is
// detached until its client attaches another; then both sides go on from where
// the other stopped. Liveness is the line's as well.
//
// docs/protocol.md is the normative text. What the bytes mean, how a carrier
// comes to be and who may have one is left to others: this package knows
// neither yamux nor HTTP nor policy.
package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A Carrier moves messages both ways: a WebSocket, or a pair of channels in a
// test. Next and WriteMessages are each called by one goroutine at a time.
type Carrier interface {
	// Next waits for the next message and returns it as a reader, which is
	// valid until the next call. It holds no buffer while it waits.
	Next() (io.Reader, error)

	// WriteMessages sends each of msgs as one message, in one piece as far
	// as it can, and blocks while the peer does not take them. It neither
	// keeps nor changes msgs.
	WriteMessages(msgs ...[]byte) error

	// Received returns a number that changes when bytes came, be it of a
	// message that is not complete yet.
	Received() uint32

	// Close ends the carrier at once and frees Next and WriteMessages. It
	// never blocks. It may be called more than once.
	Close() error

	// Abort is Close that throws away what is not sent: bytes of a carrier that
	// has a successor would be in its way. The error is of no use.
	Abort(error) error

	// Wait returns when nothing of a closed carrier runs any more.
	Wait()
}

// A DialFunc makes a carrier to the server of a line. ctx bounds the call only.
// An attempt of which nothing comes in is given up early, so it calls alive
// whenever something has: a proxy's answer, bytes of a handshake.
//
// An error that has a method RetryAfter() time.Duration says when to come back.
type DialFunc func(ctx context.Context, alive func()) (Carrier, error)

// Config is what a line may be told. The zero value is ready to use.
type Config struct {
	// Window is the most that this side keeps unacknowledged and the most
	// that it holds unread, in bytes. 0 means what the handshake's round trip
	// asks for, see [WindowFor]; less than 128 KiB is raised to that.
	Window int

	// PingAfter is how long a line waits for proof that its peer lives
	// before it asks. 0 means 12 s. ±15 % are added.
	PingAfter time.Duration

	// DeadAfter is how long after that question the carrier is given up,
	// and StallAfter the same while sent bytes wait for an acknowledgement.
	// 0 means 10 s and 8 s.
	DeadAfter, StallAfter time.Duration

	// Budget bounds the memory of all lines that share it; nil: nothing does.
	Budget *Budget

	// Redial makes the carriers behind the first, on a client. nil: the line
	// ends with its carrier.
	Redial DialFunc

	// MaxAge is after which age a client replaces a carrier that works, up
	// to a tenth earlier; 0: never.
	MaxAge time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	if c.Window != 0 {
		c.Window = max(c.Window, minWindow)
	}
	set(&c.PingAfter, 12*time.Second)
	set(&c.DeadAfter, 10*time.Second)
	set(&c.StallAfter, 8*time.Second)
	return c
}

// WindowFor returns the window that fills 1 Gbit/s, with a quarter to spare, on
// a path with this round trip, between 1 and 16 MiB.
func WindowFor(rtt time.Duration) int {
	const bytesPerSecond = 156_000_000
	return int(min(max(rtt.Seconds()*bytesPerSecond, 1<<20), 16<<20))
}

// minWindow is the least window of either side: a frame is never split to fit
// what is left of one.
const minWindow = 128 << 10

// Codes of CLOSE and GOAWAY; docs/protocol.md, "Codes".
const (
	CodeClean    uint16 = 0 // all is said
	CodeAborted  uint16 = 1 // the session is given up
	CodeShutdown uint16 = 2 // the process ends
	CodeProtocol uint16 = 3 // the peer broke the protocol
	CodeRevoked  uint16 = 4 // the principal may no longer
)

// Errors of a line that has ended, and of a carrier.
var (
	ErrLost    = errors.New("connection lost") // and what was on its way with it
	ErrDead    = errors.New("peer does not answer")
	ErrUnknown = errors.New("the server does not know the session any more")
	ErrRestart = errors.New("the server has restarted")
)

// A CloseError ends a line whose peer closed it with a code that is not clean.
type CloseError struct {
	Code   uint16
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("closed by the peer (code %d) %q", e.Code, e.Reason)
}

// A Conn is a line. It is a net.Conn whose two directions end apart, like
// TCP's. Methods may be called concurrently; one Read and one Write at a time
// get through.
type Conn struct {
	cfg Config
	out sender
	in  receiver

	mu      sync.Mutex
	changed sync.Cond // anything a Read, a Write or Drained waits for
	carriage
	err    error // why the line ended; nil while it lives
	closed bool  // Close was called: reads and writes fail, sending goes on
	linger bool  // the peer waits for our CLOSE_ACK and ends the carrier after it

	hurried bool // Abort was called twice: nothing is waited for
	late    bool // the end goes on without the carrier that it began on

	done   chan struct{}
	loops  sync.WaitGroup
	live   liveness
	hello  Session
	events events
}

var _ net.Conn = (*Conn)(nil)

// newConn returns a line without a carrier; begin gives it the first.
// peerWindow is how much the peer takes at first.
func newConn(cfg Config, s Session, peerWindow uint32) *Conn {
	if cfg.Window == 0 {
		cfg.Window = WindowFor(s.RTT)
	}
	c := &Conn{cfg: cfg, hello: s, done: make(chan struct{})}
	c.changed.L = &c.mu
	c.out.init(cfg.Window, uint64(peerWindow), cfg.Budget)
	c.in.init(cfg.Window, cfg.Budget)
	return c
}

// begin attaches the first carrier, behind whose first message the line runs.
func (c *Conn) begin(car Carrier, first []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Budget.take(sessionCost)
	c.live.start(c)
	c.loops.Go(c.flusher)
	c.attach(car, first, 0, 0)
}

// Session returns what the handshake agreed on.
func (c *Conn) Session() Session { return c.hello }

// CloseWrite says that no more bytes come. Reading goes on.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.out.ended = true
	c.changed.Broadcast()
	c.kick()
	return nil
}

// Drained waits until the peer has acknowledged all bytes and the end of both
// directions is known on both sides: then nothing was lost. It returns why the
// line ended instead, or the cause of ctx.
func (c *Conn) Drained(ctx context.Context) error { return c.await(ctx, c.drained) }

// await waits until holds does, which is called with the lock held.
func (c *Conn) await(ctx context.Context, holds func() bool) error {
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.waiting++ // hears of every acknowledgement
	for !holds() && c.err == nil && ctx.Err() == nil {
		c.changed.Wait()
	}
	c.out.waiting--
	if holds() {
		return nil
	}
	if c.err != nil {
		return c.err
	}
	return context.Cause(ctx)
}

func (c *Conn) drained() bool { return c.out.closeAcked && c.in.complete() }

// Acknowledged waits until the peer has acknowledged all bytes written so far.
// It returns why the line ended instead, or the cause of ctx.
func (c *Conn) Acknowledged(ctx context.Context) error {
	c.mu.Lock()
	end := c.out.end
	c.mu.Unlock()
	return c.await(ctx, func() bool { return c.out.una >= end })
}

// Done is closed when the line has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the line ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Wait returns when nothing of an ended line runs any more.
func (c *Conn) Wait() {
	<-c.done
	c.loops.Wait()
}

// LocalAddr and RemoteAddr are the same for all lines; the carrier knows more.
func (c *Conn) LocalAddr() net.Addr  { return addr{} }
func (c *Conn) RemoteAddr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "wstun" }
func (addr) String() string  { return "line" }
