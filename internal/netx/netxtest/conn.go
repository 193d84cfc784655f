package netxtest

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize bounds the bytes on their way in each direction; a write beyond
// waits for the peer to read.
const bufferSize = 64 << 10

// Conn is one end of a connection in memory. All methods may be called
// concurrently; concurrent writes do not mix.
type Conn struct {
	pair          *pair
	in, out       *half
	local, remote net.Addr

	// under pair.mu
	closed   bool
	reported bool // a read or write has returned the peer's reset
	read     deadline
	write    deadline
}

var _ net.Conn = (*Conn)(nil)

// pair is what both ends share. One lock and one condition serve both
// directions: tests need to understand it more than they need its speed.
type pair struct {
	mu      sync.Mutex
	changed sync.Cond
}

// half is one direction.
type half struct {
	buf     bytes.Buffer
	writing bool  // a write is under way: the next one waits
	ended   bool  // no more bytes come: EOF behind buf
	gone    bool  // the reader has closed
	reset   error // why the writer's end failed: reported behind buf
	stalled bool  // nothing of the above arrives
	cut     int   // bytes until the connection breaks; negative: never
}

// deadline is a deadline and the timer that wakes those who wait for it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

// Pipe returns the two ends of a connection. The caller closes both.
func Pipe() (a, b *Conn) {
	p := new(pair)
	p.changed.L = &p.mu
	ab, ba := &half{cut: -1}, &half{cut: -1}
	a = &Conn{pair: p, in: ba, out: ab, local: addr{"pipe", "a"}, remote: addr{"pipe", "b"}}
	b = &Conn{pair: p, in: ab, out: ba, local: a.remote, remote: a.local}
	return a, b
}

// Read returns what has arrived, io.EOF after the peer's CloseWrite or Close,
// and an error that is syscall.ECONNRESET after its Abort; bytes that were
// written before either come first.
func (c *Conn) Read(p []byte) (int, error) {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.read.passed():
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case c.in.stalled:
		case c.in.buf.Len() > 0:
			n, _ := c.in.buf.Read(p)
			c.pair.changed.Broadcast()
			return n, nil
		case c.in.reset != nil:
			c.reported = true
			return 0, c.opError("read", c.in.reset)
		case c.in.ended:
			return 0, io.EOF
		}
		c.pair.changed.Wait()
	}
}

// Write returns when all of p is in the buffer. It fails with
// syscall.ECONNRESET after the peer's Abort, and with syscall.EPIPE after its
// Close or this end's CloseWrite.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	mine := false
	defer func() {
		if mine {
			c.out.writing = false
			c.pair.changed.Broadcast()
		}
	}()
	for {
		if err := c.writeError(); err != nil {
			return n, c.opError("write", err)
		}
		if mine = mine || !c.out.writing; mine {
			c.out.writing = true
			n += c.out.take(p[n:])
			c.pair.changed.Broadcast()
			if c.out.cut == 0 {
				c.in.fail(nil)
				c.out.fail(nil)
			}
			if n == len(p) {
				return n, nil
			}
			if c.out.cut == 0 {
				continue
			}
		}
		c.pair.changed.Wait()
	}
}

// writeError is why nothing can be written now, nil if it can.
func (c *Conn) writeError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.write.passed():
		return os.ErrDeadlineExceeded
	case c.out.ended:
		return syscall.EPIPE
	case c.in.stalled: // the peer's end did not arrive either
		return nil
	case c.in.reset != nil:
		c.reported = true
		return c.in.reset
	case c.out.gone:
		return syscall.EPIPE
	}
	return nil
}

// take moves bytes of p into the buffer, as many as there is room for.
func (h *half) take(p []byte) int {
	n := min(len(p), bufferSize-h.buf.Len())
	if h.cut >= 0 {
		n = min(n, h.cut)
		h.cut -= n
	}
	h.buf.Write(p[:n])
	return n
}

func (h *half) fail(cause error) {
	if h.reset == nil {
		h.reset = &resetError{cause}
	}
}

// CloseWrite makes the peer read EOF behind the bytes written so far.
func (c *Conn) CloseWrite() error {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.out.ended = true
	c.pair.changed.Broadcast()
	return nil
}

// Close ends both directions. Unlike TCP's it is an end to the peer, never a
// reset, also when bytes were left unread: a test that wants a reset says so.
func (c *Conn) Close() error {
	return c.close(func() { c.out.ended = true })
}

// Abort closes c so that the peer's reads, behind the bytes written so far, and
// its writes fail with an error that is both syscall.ECONNRESET and cause.
func (c *Conn) Abort(cause error) error {
	return c.close(func() { c.out.fail(cause) })
}

func (c *Conn) close(end func()) error {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	end()
	c.closed = true
	c.in.gone = true
	c.in.buf.Reset()
	c.read.stop()
	c.write.stop()
	c.pair.changed.Broadcast()
	return nil
}

// Broken returns the reset that has come from the peer and that no read or
// write has returned yet.
func (c *Conn) Broken() error {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	if c.closed || c.reported || c.in.stalled {
		return nil
	}
	return c.in.reset
}

// Stall keeps everything that c sends from arriving, its ends and resets too:
// c's writes succeed until the buffer is full. Stall(false) lets it all go on.
func (c *Conn) Stall(on bool) {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	c.out.stalled = on
	c.pair.changed.Broadcast()
}

// CutAfter breaks the connection when n more bytes were written by c: the peer
// reads them and then a reset, c gets a reset. CutAfter(0) breaks it at the
// next write, a negative n never.
func (c *Conn) CutAfter(n int) {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	c.out.cut = n
}

func (c *Conn) LocalAddr() net.Addr  { return c.local }
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadline(t, &c.read, &c.write)
}

func (c *Conn) SetReadDeadline(t time.Time) error  { return c.setDeadline(t, &c.read) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.write) }

func (c *Conn) setDeadline(t time.Time, deadlines ...*deadline) error {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	for _, d := range deadlines {
		d.stop()
		d.at = t
		if !t.IsZero() {
			d.timer = time.AfterFunc(time.Until(t), c.wake)
		}
	}
	c.pair.changed.Broadcast()
	return nil
}

// wake takes the lock so that it cannot fall between a waiter's look at the
// clock and its Wait.
func (c *Conn) wake() {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	c.pair.changed.Broadcast()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

// resetError is a reset and, since memory has words for it, its cause.
type resetError struct{ cause error }

func (e *resetError) Error() string {
	if e.cause == nil {
		return syscall.ECONNRESET.Error()
	}
	return syscall.ECONNRESET.Error() + " (" + e.cause.Error() + ")"
}

func (e *resetError) Unwrap() []error {
	if e.cause == nil {
		return []error{syscall.ECONNRESET}
	}
	return []error{syscall.ECONNRESET, e.cause}
}
