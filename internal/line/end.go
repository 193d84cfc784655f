package line

import (
	"net"
	"time"
)

// How a line ends: in order, or given up.

// closeTimeout bounds how long a line goes on behind Close.
const closeTimeout = 5 * time.Second

// Close ends both directions and returns at once: reads and writes fail with
// net.ErrClosed, bytes already written are still sent for up to 5 s, and on a
// server whose client has ended before for as long as it may come back. Wait for
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
	if c.redial != nil || c.window == 0 || !c.in.complete() {
		c.live.closeBy(closeTimeout)
	} // else the client has ended as well, and comes back to hear that all has arrived
	c.in.discard()
	c.changed.Broadcast()
	c.kick()
	return nil
}

// Abort ends the line now: reads and writes fail. The peer is told the code and
// the cause as far as they can be sent without waiting; a client that has no
// carrier goes on looking for one for a while, so that the peer need not keep
// what nobody wants. A second Abort ends that.
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
	switch {
	case c.err != nil:
		return
	case c.out.abort != nil:
		c.hurried = true
		if c.at == nil {
			c.end(c.out.abortErr)
			return
		}
		c.live.closeBy(abortTimeout)
		return
	case c.at == nil && c.redial == nil:
		c.end(cause)
		return
	}
	reason := cause.Error()
	c.out.abort = &frame{typ: frameClose, arg: c.out.end, code: code, body: []byte(reason[:min(len(reason), maxReason)])}
	c.out.abortErr = cause
	c.closed = true
	c.in.discard()
	if c.at != nil {
		c.live.closeBy(abortTimeout)
	} else {
		c.live.closeBy(lateAbort)
	}
	c.changed.Broadcast()
	c.kick()
}

const (
	abortTimeout = time.Second      // for the peer to read the CLOSE and end the carrier
	lateAbort    = 30 * time.Second // for another carrier, if that one is dead
)

// abortsLate reports whether an aborted line goes on, to say CLOSE on another
// carrier: where nothing is said the server keeps what nobody wants.
func (c *Conn) abortsLate() bool {
	return c.redial != nil && c.window > 0 && !c.hurried && !c.late && c.out.abort.code != CodeProtocol
}

// overtime is called when a line that was closed or aborted has used up its
// time.
func (c *Conn) overtime() {
	switch {
	case c.out.abort == nil:
		c.end(net.ErrClosed)
	case c.at != nil && c.abortsLate():
		c.abortLater(ErrDead)
	default:
		c.end(c.out.abortErr)
	}
}

func (c *Conn) abortLater(err error) {
	c.late = true
	c.live.deadline = time.Now().Add(lateAbort)
	c.detach(err)
}

// end ends the line for good, with the lock held. What has been received can
// still be read.
func (c *Conn) end(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.at != nil {
		c.at.car.Close() // not Abort: a CLOSE or a CLOSE_ACK may be on its way
	}
	c.fence()
	c.live.stop()
	c.out.drop()
	c.cfg.Budget.give(sessionCost)
	c.changed.Broadcast()
	close(c.done)
	if !c.out.sending {
		c.out.sending = true
		c.out.notify() // the flusher ends
	}
	if c.redial != nil {
		c.redial.stop()
	}
	if c.forget != nil {
		c.forget(c)
	}
}
