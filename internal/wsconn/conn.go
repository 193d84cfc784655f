// Package wsconn makes a WebSocket a conn: of bytes, for a browser, whose
// message borders mean nothing, and of messages, for a session's line.
//
// It owns the TCP conn under the WebSocket, since the library's Close may wait
// for ever and its contexts and deadlines kill the connection. Who may connect
// and what the bytes are for is left to others.
package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"wstun/internal/netx"
)

// Close codes of RFC 6455 §7.4.1 that this program sends.
const (
	NormalClosure = 1000
	GoingAway     = 1001
	Policy        = 1008
	InternalError = 1011
)

// A Conn is a WebSocket. One goroutine may read, one write, and any end it.
type Conn struct {
	ws      *websocket.Conn
	wire    *wire
	topConn net.Conn // the wire or the TLS above it; on a server
	rtt     time.Duration

	writing sync.Mutex // held while data is written: the close frame comes after it

	r      io.Reader // of the current message
	peeked [1]byte   // its first byte, if have
	have   bool
	more   bool // a frame has begun, and the last read of it was not short

	peerClosed atomic.Bool // a Close frame came
	finishing  atomic.Bool // Finish was called: ours goes out, or has
	dead       atomic.Bool // Close, Abort or Drop was called
	ended      sync.Once
	running    sync.WaitGroup
}

var _ net.Conn = (*Conn)(nil)

// background is the context of every read and write: one that can be done
// would cost a callback per frame, and kill the connection.
var background = context.Background()

func newConn(ws *websocket.Conn, w *wire) *Conn {
	return &Conn{ws: ws, wire: w}
}

// Subprotocol returns what was agreed on; empty: nothing.
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// RTT returns how long the server took to answer the handshake, on a client:
// a round trip and a little.
func (c *Conn) RTT() time.Duration { return c.rtt }

// SetMessageLimit makes larger messages end the connection. There is no limit
// before it is called.
func (c *Conn) SetMessageLimit(n int64) { c.ws.SetReadLimit(n) }

// Ready waits for the next message, or more of the present one, so that a
// caller need not hold a buffer meanwhile.
func (c *Conn) Ready() error {
	if c.have || c.more {
		return nil
	}
	if c.r != nil { // its frame is read; perhaps another of the message follows
		n, err := c.r.Read(c.peeked[:])
		if c.have = n > 0; c.have {
			return nil
		}
		if err != io.EOF {
			return c.readErr(err)
		}
		c.r = nil
	}
	_, r, err := c.ws.Reader(background)
	if err != nil {
		return c.readErr(err)
	}
	c.r, c.more = r, true
	return nil
}

// Read returns bytes of binary and text messages alike. io.EOF means that the
// peer sent a Close frame; an end of TCP without one is an error.
func (c *Conn) Read(p []byte) (n int, err error) {
	for n == 0 && len(p) > 0 {
		if err := c.Ready(); err != nil {
			return 0, err
		}
		if c.have {
			p[0], c.have, c.more = c.peeked[0], false, true
			return 1, nil // the rest of the frame comes with the next call
		}
		n, err = c.r.Read(p)
		c.more = n == len(p)
		if err == io.EOF { // an empty message, or its end
			c.r, c.more = nil, false
		} else if err != nil {
			return n, c.readErr(err)
		}
	}
	return n, nil
}

func (c *Conn) readErr(err error) error {
	var ce websocket.CloseError
	switch {
	case errors.As(err, &ce):
		c.peerClosed.Store(true)
		return io.EOF
	case c.finishing.Load():
		return io.EOF // nothing that comes behind our Close frame is of use
	case c.dead.Load():
		return net.ErrClosed
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errNoClose
	}
	var op *net.OpError
	if errors.As(err, &op) { // less what the library was doing, and the addresses
		return op.Err
	}
	return err
}

var errNoClose = noCloseError{}

// A noCloseError is the end of TCP, in order, in place of a Close frame.
type noCloseError struct{}

func (noCloseError) Error() string { return "the connection ended without a WebSocket close" }

// Unwrap says that it is an end and not a failure.
func (noCloseError) Unwrap() error { return io.ErrUnexpectedEOF }

// PeerClosed reports whether the peer has sent a Close frame.
func (c *Conn) PeerClosed() bool { return c.peerClosed.Load() }

// Write sends p as one binary message.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.WriteMessages(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteMessages sends each of msgs as a binary message, all together. It
// returns when the kernel has them.
func (c *Conn) WriteMessages(msgs ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.finishing.Load() || c.dead.Load() {
		return net.ErrClosed
	}
	if err := c.wire.begin(); err != nil {
		return err
	}
	var failed error
	for _, m := range msgs {
		if failed = c.ws.Write(background, websocket.MessageBinary, m); failed != nil {
			break
		}
	}
	if err := c.wire.flush(); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("%w: %w", ErrEnded, failed)
	}
	return nil
}

// ErrEnded is wrapped by the error of a write that failed because the peer
// ended the WebSocket, and not because of TCP. The reader learns how.
var ErrEnded = errors.New("the WebSocket has ended")

// Next waits for the next message. Its reader is valid until the next call; a
// rest that was not read is skipped.
func (c *Conn) Next() (io.Reader, error) {
	if c.r != nil {
		if _, err := io.Copy(io.Discard, c.r); err != nil {
			return nil, c.readErr(err)
		}
		c.r = nil
	}
	typ, r, err := c.ws.Reader(background)
	if err != nil {
		return nil, c.readErr(err)
	}
	if typ != websocket.MessageBinary {
		return nil, fmt.Errorf("a %v where a binary one belongs", typ)
	}
	c.r = r
	return r, nil
}

// Traffic returns two counters that change when bytes were received and sent.
func (c *Conn) Traffic() (received, sent uint32) { return c.wire.rx.Load(), c.wire.tx.Load() }

// Received returns a counter that changes when bytes were received.
func (c *Conn) Received() uint32 { return c.wire.rx.Load() }

// Ping sends a ping frame unless something is being written, and reports
// whether it did. Only a server's Conn may: its frames are not masked. Not the
// library's Ping, which waits for the answer; that shows in Traffic.
func (c *Conn) Ping() bool {
	if !c.writing.TryLock() {
		return false
	}
	defer c.writing.Unlock()
	if c.finishing.Load() || c.dead.Load() || c.peerClosed.Load() {
		return false
	}
	_, err := c.topConn.Write([]byte{0x89, 0}) // RFC 6455 §5.5.2, no payload
	return err == nil
}

// Timeouts of an ending.
const (
	flushQuiet  = 30 * time.Second // without a byte moving
	abortWithin = 5 * time.Second  // for a data write under way to let go
)

// Finish ends the connection with a Close frame of this code and reason, of at
// most 123 bytes, behind everything written. Data that the peer sends from
// then on is discarded. It does not wait; Wait does. A write under way is
// given a few seconds, and then the connection is cut.
func (c *Conn) Finish(code int, reason string) {
	if c.dead.Load() || c.finishing.Swap(true) {
		return
	}
	c.running.Go(func() {
		cut := time.AfterFunc(abortWithin, func() { c.end(true) })
		c.writing.Lock() // the last data write has returned
		cut.Stop()
		c.writing.Unlock()
		defer c.wire.expect(flushQuiet, func() { c.end(true) })()
		// The library's Close may wait for ever for the rest of a half-sent
		// frame; that ends with the socket.
		err := c.ws.Close(websocket.StatusCode(code), reason)
		// RFC 6455 §7.1.1: once both have said Close, it is the server that
		// ends TCP. A peer that has not may still be sending.
		heard := err == nil || websocket.CloseStatus(err) != -1 || c.peerClosed.Load()
		if c.wire.idle() == nil && !heard {
			c.wire.discard(flushQuiet)
		}
		c.end(false)
	})
}

// Close ends the connection at once: what the kernel has is still sent, no
// Close frame is. It never blocks.
func (c *Conn) Close() error {
	if c.finishing.Load() {
		return nil // Finish ends it
	}
	c.dead.Store(true)
	c.end(false)
	return nil
}

// Abort resets the connection. It never blocks.
func (c *Conn) Abort(error) error {
	c.dead.Store(true)
	c.end(true)
	return nil
}

// Drop ends the TCP conn now, whatever is under way. It never blocks.
func (c *Conn) Drop() {
	c.dead.Store(true)
	c.end(false)
}

// end lets go of the TCP conn, and then of the library's part.
func (c *Conn) end(reset bool) {
	c.ended.Do(func() {
		if reset {
			netx.Abort(c.wire.Conn, nil)
		} else {
			c.wire.Conn.Close()
		}
		c.wire.fail(net.ErrClosed)
		// It takes the locks of a reader and a writer, which leave now.
		c.running.Go(func() { c.ws.CloseNow() })
	})
}

// Wait returns when the connection has ended and nothing of it runs any more.
// Call it after Finish, Close or Abort.
func (c *Conn) Wait() {
	c.running.Wait()
	c.wire.running.Wait()
}

// Unsent returns how many bytes the kernel still holds for the peer, where it
// tells.
func (c *Conn) Unsent() int { return unsentBytes(c.wire.Conn) }

// Broken returns a reset that no read has met.
func (c *Conn) Broken() error { return netx.Broken(c.wire.Conn) }

// LocalAddr and RemoteAddr are those of the TCP conn.
func (c *Conn) LocalAddr() net.Addr  { return c.wire.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr { return c.wire.RemoteAddr() }

// SetDeadline and its kin set the deadlines of the TCP conn: one that passes
// ends the connection.
func (c *Conn) SetDeadline(t time.Time) error      { return c.wire.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.wire.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.wire.SetWriteDeadline(t) }
