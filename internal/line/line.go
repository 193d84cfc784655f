// Package line is the byte stream under a session: numbered, acknowledged,
// bounded in both directions, and carried by the messages of a [Carrier].
//
// Both sides number the bytes of each direction with 64-bit offsets. A sender
// keeps what is not acknowledged; a receiver says how much more it takes. So
// neither side ever drops a byte or holds more than its window, and the reader
// of a carrier never waits for anybody. Liveness is the line's as well.
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

	// Close ends the carrier at once and frees Next and WriteMessages. It
	// never blocks. It may be called more than once.
	Close() error
}

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
	// 0 means 10 s and 30 s.
	DeadAfter, StallAfter time.Duration
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
	set(&c.StallAfter, 30*time.Second)
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

// Flags of GOAWAY.
const (
	NewSession byte = 1 // open new streams on a fresh session
	Redial     byte = 2 // attach a new carrier while this one works
)

// Errors of a line that has ended.
var (
	ErrLost = errors.New("connection lost") // the carrier broke
	ErrDead = errors.New("peer does not answer")
)

// A CloseError ends a line whose peer closed it with a code that is not clean.
type CloseError struct {
	Code   uint16
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("closed by the peer (code %d) %q", e.Code, e.Reason)
}

// A Conn is a line, attached to a carrier. It is a net.Conn whose two
// directions end apart, like TCP's. Methods may be called concurrently; one
// Read and one Write at a time get through.
type Conn struct {
	cfg Config
	out sender
	in  receiver

	mu      sync.Mutex
	changed sync.Cond // anything a Read, a Write or Drained waits for
	car     Carrier
	err     error // why the line ended; nil while it lives
	closed  bool  // Close was called: reads and writes fail, sending goes on
	linger  bool  // the peer waits for our CLOSE_ACK and ends the carrier after it
	done    chan struct{}
	loops   sync.WaitGroup
	live    liveness
	hello   Session

	onGoAway func(GoAway)
}

// A GoAway is the peer's request to move on.
type GoAway struct {
	Code     uint16
	Deadline time.Duration // until the peer ends the line
	Flags    byte
}

var _ net.Conn = (*Conn)(nil)

// newConn returns a line that runs on car until it ends, and owns car.
// peerWindow is how much the peer takes at first.
func newConn(cfg Config, car Carrier, s Session, peerWindow uint32) *Conn {
	if cfg.Window == 0 {
		cfg.Window = WindowFor(s.RTT)
	}
	c := &Conn{cfg: cfg, car: car, hello: s, done: make(chan struct{})}
	c.changed.L = &c.mu
	c.out.init(cfg.Window, uint64(peerWindow))
	c.in.init(cfg.Window)
	c.mu.Lock() // the timer may fire at once
	c.live.start(c)
	c.mu.Unlock()
	c.loops.Go(c.flusher)
	c.loops.Go(c.reader)
	return c
}

// Session returns what the handshake agreed on.
func (c *Conn) Session() Session { return c.hello }

// OnGoAway sets what is called, on the line's own goroutine, when the peer
// says GOAWAY. It must not block. Set it before the first Read.
func (c *Conn) OnGoAway(f func(GoAway)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onGoAway = f
}

// GoAway tells the peer to move on; it does nothing else.
func (c *Conn) GoAway(g GoAway) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := frame{typ: frameGoAway, code: g.Code}
	f.millis, f.flags = uint32(g.Deadline.Milliseconds()), g.Flags
	c.out.goAway = &f
	c.kick()
}

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
func (c *Conn) Drained(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.drained() && c.err == nil && ctx.Err() == nil {
		c.changed.Wait()
	}
	if c.drained() {
		return nil
	}
	if c.err != nil {
		return c.err
	}
	return context.Cause(ctx)
}

func (c *Conn) drained() bool { return c.out.closeAcked && c.in.complete() }

// closeTimeout bounds how long a line goes on behind Close.
const closeTimeout = 5 * time.Second

// Close ends both directions and returns at once: reads and writes fail with
// net.ErrClosed, bytes already written are still sent for up to 5 s. Wait for
// Drained first to know that they arrived.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.err != nil {
		c.in.discard()
		return nil
	}
	c.out.ended = true
	c.in.discard()
	c.live.closeBy(closeTimeout)
	c.changed.Broadcast()
	c.kick()
	return nil
}

// Abort ends the line now. The peer is told the code and the cause as far as
// they can be sent without waiting.
func (c *Conn) Abort(code uint16, cause error) {
	if cause == nil {
		cause = net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abort(code, cause)
}

// abort is Abort with the lock held. The flusher sends the CLOSE, if it is not
// held up in a write, and ends the line after it; else the timer does.
func (c *Conn) abort(code uint16, cause error) {
	if c.err != nil || c.out.abort != nil {
		return
	}
	reason := cause.Error()
	c.out.abort = &frame{typ: frameClose, arg: c.out.end, code: code, body: []byte(reason[:min(len(reason), maxReason)])}
	c.out.abortErr = cause
	c.closed = true
	c.in.discard()
	c.live.closeBy(abortTimeout)
	c.changed.Broadcast()
	c.kick()
}

const abortTimeout = time.Second

// end ends the line for good, with the lock held. What has been received can
// still be read.
func (c *Conn) end(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.car.Close()
	c.live.stop()
	c.out.drop()
	c.changed.Broadcast()
	close(c.done)
	c.kick()
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
