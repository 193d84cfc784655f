package line

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

const (
	ackEvery = 256 << 10              // bytes received after which an ACK goes out alone
	ackDelay = 100 * time.Millisecond // after which one goes out for the first byte
)

// A receiver is the incoming half of a line; its fields are under the line's
// lock.
type receiver struct {
	window int
	budget *Budget
	queue  []chunk // received and not read
	held   int     // bytes in queue
	rcv    uint64  // accepted into the queue, in order
	told   uint64  // rcv of the last frame sent
	limit  uint64  // rcv+wnd of the last frame sent: what the peer may reach

	closed   bool   // a CLOSE came
	final    uint64 // where the peer's bytes end
	dropping bool   // nobody reads any more
	timer    *time.Timer
	timing   bool

	deadline deadline
}

// A chunk is received bytes: a part of a pooled block.
type chunk struct {
	b          *[receiveBlock]byte
	start, end int
}

func (r *receiver) init(window int, b *Budget) {
	r.window, r.budget = window, b
	r.limit = uint64(window) // as the handshake said
}

// wnd is how much more the peer may send: what fits the window, or, where
// memory is short, the least that it needs, and never less than it was granted.
func (r *receiver) wnd() uint32 {
	room := r.window - r.held
	if r.budget.exceeded() {
		room = max(min(room, minWindow-r.held), int(r.limit-r.rcv))
	}
	return uint32(room)
}

// step is how far the limit must be able to move for the peer to be told.
func (r *receiver) step() uint64 {
	if r.budget.exceeded() {
		return minWindow / 4 // of what it is granted then; a quarter of window might never come
	}
	return uint64(r.window / 4)
}

// complete reports whether the peer's end is known and everything before it
// has arrived.
func (r *receiver) complete() bool { return r.closed && r.rcv == r.final }

// grant is wnd for a message that goes out: what it says holds from here on,
// also if memory is short a moment later or the message is lost.
func (r *receiver) grant() uint32 {
	n := r.wnd()
	r.limit = max(r.limit, r.rcv+uint64(n))
	return n
}

// acked notes that frames with the present ack are on their way on the current
// carrier.
func (r *receiver) acked() { r.told = r.rcv }

// Read waits for bytes. It returns io.EOF once the peer has said that no more
// come and all were read; never because a carrier broke.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.in
	for {
		switch {
		case c.out.abort != nil:
			return 0, c.out.abortErr
		case c.closed:
			return 0, net.ErrClosed
		case r.deadline.passed:
			return 0, os.ErrDeadlineExceeded
		case len(r.queue) > 0:
			return c.take(p), nil
		case r.complete() && !r.dropping:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.err
		case len(p) == 0:
			return 0, nil
		}
		c.changed.Wait()
	}
}

func (c *Conn) take(p []byte) int {
	r := &c.in
	q := &r.queue[0]
	n := copy(p, q.b[q.start:q.end])
	q.start += n
	r.held -= n
	if q.start == q.end {
		r.put(q.b)
		k := copy(r.queue, r.queue[1:])
		r.queue[k] = chunk{}
		r.queue = r.queue[:k]
	}
	if r.rcv+uint64(r.wnd())-r.limit >= r.step() && !r.closed && c.err == nil {
		c.out.ack = true // the window has opened
		c.kick()
	}
	return n
}

// discard drops what waits to be read, now and from now on.
func (r *receiver) discard() {
	r.dropping = true
	for _, q := range r.queue {
		r.put(q.b)
	}
	r.queue, r.held = nil, 0
}

// put gives a block of the queue back.
func (r *receiver) put(b *[receiveBlock]byte) {
	receiveBlocks.Put(b)
	r.budget.give(receiveBlock)
}

// reader takes frames from a carrier until it breaks. It waits for nobody
// else, so acknowledgements and pongs always get through.
func (c *Conn) reader(at *attachment) {
	for {
		m, err := at.car.Next()
		if err == nil {
			err = c.receive(at, m)
		}
		if err != nil {
			c.mu.Lock()
			if c.at == at && errors.Is(err, ErrProtocol) {
				c.abort(CodeProtocol, err)
			} else {
				c.lost(at, err)
			}
			c.mu.Unlock()
			break
		}
	}
	<-at.over // a CLOSE may be on its way
	at.car.Wait()
}

// receive reads one message into a block and applies it.
func (c *Conn) receive(at *attachment, m io.Reader) error {
	b := receiveBlocks.Get().(*[receiveBlock]byte)
	n := 0
	for {
		if n == len(b) {
			receiveBlocks.Put(b)
			return violation("a message of more than %d bytes", MaxMessage)
		}
		k, err := m.Read(b[n:])
		n += k
		if err == io.EOF {
			break
		}
		if err != nil {
			receiveBlocks.Put(b)
			return err
		}
	}
	f, err := parseFrame(b[:n])
	if err != nil {
		receiveBlocks.Put(b)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := false
	if err = errVoid; c.at == at && c.err == nil {
		kept, err = c.handle(&f, chunk{b, n - len(f.body), n})
	}
	if !kept {
		receiveBlocks.Put(b)
	}
	return err
}

// errVoid ends the reader of a carrier that is not the current one any more.
var errVoid = errors.New("another carrier has taken its place")

// errDetached is why a side that has said DETACH is detached.
var errDetached = errors.New("ended on purpose")

// handle applies f, whose body is in q, and reports whether it kept q's block.
func (c *Conn) handle(f *frame, q chunk) (kept bool, err error) {
	c.live.received()
	c.confirmed = true
	if err := c.acknowledge(f.ack, f.wnd); err != nil {
		return false, err
	}
	if f.ackNow {
		c.out.ack = true
		defer c.kick()
	}
	switch f.typ {
	case frameData:
		return c.data(f.arg, q)
	case framePing:
		c.out.pong = &frame{typ: framePong, arg: f.arg}
		c.kick()
	case framePong:
		c.live.pong(f.arg)
	case frameClose:
		return false, c.peerClosed(f)
	case frameCloseAck:
		if !c.out.closeSent {
			return false, violation("CLOSE_ACK for no CLOSE")
		}
		c.out.closeAcked = true
		c.live.proof(c.out.waits(c.at))
		c.changed.Broadcast()
		c.kick()
	case frameGoAway:
		c.wentAway(f)
	case frameDetach:
		return false, &detachError{time.Duration(f.millis) * time.Millisecond}
	}
	return false, nil
}

// data appends the part of a DATA frame that is new.
func (c *Conn) data(off uint64, q chunk) (kept bool, err error) {
	r := &c.in
	if off > r.rcv {
		return false, c.missing(off)
	}
	if end := off + uint64(q.end-q.start); end > r.limit {
		return false, violation("bytes up to %d, allowed %d", end, r.limit)
	}
	skip := r.rcv - off
	if skip >= uint64(q.end-q.start) {
		return false, nil
	}
	q.start += int(skip)
	c.at.moved += q.end - q.start
	r.rcv += uint64(q.end - q.start)
	if r.closed && r.rcv > r.final {
		return false, violation("bytes behind the CLOSE")
	}
	if !r.dropping {
		kept = r.keep(q)
		c.changed.Broadcast()
	}
	if r.rcv-r.told >= ackEvery {
		c.out.ack = true
		c.kick()
	} else {
		c.delayAck()
	}
	return kept, nil
}

// keep queues q. Bytes that fit behind the last chunk are copied there, so
// that many small frames do not pin a block each.
func (r *receiver) keep(q chunk) (kept bool) {
	n := q.end - q.start
	r.held += n
	if len(r.queue) > 0 {
		last := &r.queue[len(r.queue)-1]
		if receiveBlock-last.end >= n {
			copy(last.b[last.end:], q.b[q.start:q.end])
			last.end += n
			return false
		}
	}
	if q.start > receiveBlock/2 { // a repeated frame with little that is new: make room behind it
		q.start, q.end = 0, copy(q.b[:], q.b[q.start:q.end])
	}
	r.queue = append(r.queue, q)
	r.budget.take(receiveBlock)
	return true
}

func (c *Conn) delayAck() {
	r := &c.in
	if r.timing {
		return
	}
	r.timing = true
	if r.timer == nil {
		r.timer = time.AfterFunc(ackDelay, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			r.timing = false
			if r.rcv > r.told && c.err == nil {
				c.out.ack = true
				c.kick()
			}
		})
		return
	}
	r.timer.Reset(ackDelay)
}

func (c *Conn) peerClosed(f *frame) error {
	switch {
	case f.code != CodeClean:
		c.end(&CloseError{f.code, string(f.body)})
		return nil
	case f.arg > c.in.rcv:
		return c.missing(f.arg)
	case f.arg < c.in.rcv:
		return violation("CLOSE at %d, received %d", f.arg, c.in.rcv)
	}
	c.in.closed, c.in.final = true, f.arg
	c.linger = c.out.closeAcked
	c.out.closeAck = true
	c.changed.Broadcast()
	c.kick()
	return nil
}

// lingerTimeout is how long a drained line waits for the peer to end the
// carrier.
const lingerTimeout = time.Second
