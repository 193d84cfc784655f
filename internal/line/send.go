package line

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
)

const (
	queueMax  = 256 << 10 // bytes written and not yet on the carrier: what a keystroke may have to wait for
	batchMax  = 256 << 10 // bytes given to the carrier at once
	inlineMax = 4 << 10   // up to this much an idle line sends in the caller's goroutine
)

// A sender is the outgoing half of a line. Its fields are under the line's
// lock. Offsets: una ≤ bytes on the carrier ≤ end; the peer takes bytes below
// limit.
type sender struct {
	window int
	blocks int // held, of window/sendBlock

	segs []segment // from una to end, in order; segs[:head] are free, segs[next:] unsent
	head int
	next int
	cur  *block // the block being filled, from used on
	used int

	una, end, limit uint64
	maxSent         uint64
	unsent          int
	waiting         int // Writes that wait for room

	ended      bool // CloseWrite or Close: a CLOSE follows the data
	closeSent  bool
	closeAcked bool
	abort      *frame
	abortErr   error

	ping, pong *frame // one slot each: a newer one replaces an older
	closeAck   bool
	goAway     *frame
	ack        bool // an ACK is due

	sending bool // somebody is in pump, or the flusher has been told to be
	wake    chan struct{}

	deadline deadline
	msgs     [][]byte // scratch of pump: what goes out together
	pins     []*block
	control  []byte // scratch: encoded control frames
}

func (s *sender) init(window int, limit uint64) {
	s.window, s.limit = window, limit
	s.wake = make(chan struct{}, 1)
}

// Write sends p. It returns when p is kept by the line, which is before the
// peer has it, and blocks while the window or the queue is full.
func (c *Conn) Write(p []byte) (int, error) { return c.WriteJoined(nil, p) }

// WriteJoined is Write of head and body as one piece: as long as they fit a
// frame together they are not sent apart. It returns the bytes taken of both.
func (c *Conn) WriteJoined(head, body []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(head)+len(body) == 0 {
		return 0, c.writable()
	}
	for len(head)+len(body) > 0 {
		k := min(len(head)+len(body), sendBlock-dataHeaderLen)
		if err := c.waitRoom(k); err != nil {
			return n, err
		}
		room := c.out.extend(k)
		h := copy(room, head)
		head = head[h:]
		body = body[copy(room[h:], body):]
		n += k
		if k <= inlineMax && !c.out.sending {
			c.out.sending = true
			c.pump(true)
		} else {
			c.kick()
		}
	}
	return n, nil
}

func (c *Conn) writable() error {
	switch {
	case c.err != nil:
		return c.err
	case c.out.ended || c.closed:
		return net.ErrClosed
	case c.out.deadline.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) waitRoom(k int) error {
	for {
		if err := c.writable(); err != nil {
			return err
		}
		if c.out.room(k) {
			return nil
		}
		c.out.waiting++
		c.changed.Wait()
		c.out.waiting--
	}
}

// kick has the flusher send what there is. Called with the lock held.
func (c *Conn) kick() {
	if c.out.sending {
		return // whoever sends looks again before it stops
	}
	c.out.sending = true
	c.out.notify()
}

func (s *sender) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (c *Conn) flusher() {
	for range c.out.wake {
		c.mu.Lock()
		c.pump(false)
		over := c.err != nil
		c.mu.Unlock()
		if over {
			return
		}
	}
}

// pump sends until nothing is left; c.mu is held and c.out.sending is ours. A
// Write that sends inline does one round and leaves the rest to the flusher.
func (c *Conn) pump(inline bool) {
	for round := 0; ; round++ {
		if inline && round > 0 && c.err == nil {
			if c.sendable() {
				c.out.notify()
			} else {
				c.idle()
			}
			return
		}
		if !inline && c.out.unsent > 0 && c.out.unsent < 2*sendBlock {
			// Let the writers that are about to run add to this round: worth
			// a tenth of a bulk transfer's cost.
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		if c.err != nil {
			c.out.sending = false
			c.out.notify() // the flusher ends
			return
		}
		c.collect()
		if len(c.out.msgs) == 0 {
			c.idle()
			return
		}
		last := c.out.abort != nil
		c.mu.Unlock()
		err := c.car.WriteMessages(c.out.msgs...)
		c.mu.Lock()
		clear(c.out.msgs)
		for _, b := range c.out.pins {
			c.out.unref(b)
		}
		switch {
		case last:
			c.end(c.out.abortErr)
		case err != nil:
			c.lost(err)
		}
		if c.out.waiting > 0 {
			c.changed.Broadcast()
		}
	}
}

// idle is called when everything is sent. A closed line that has nothing left
// to say and to hear ends here; if the peer still waits for our CLOSE_ACK, it
// is the peer that ends the carrier, so that the CLOSE_ACK is not lost.
func (c *Conn) idle() {
	c.out.sending = false
	switch {
	case !c.closed || !c.drained():
	case c.linger:
		c.live.closeBy(lingerTimeout)
	default:
		c.end(net.ErrClosed)
	}
}

// sendable reports whether collect would find something.
func (c *Conn) sendable() bool {
	s := &c.out
	return s.pong != nil || s.ping != nil || s.closeAck || s.goAway != nil || s.ack || s.abort != nil ||
		s.next < len(s.segs) && s.allowed(&s.segs[s.next]) || c.closeDue()
}

func (s *sender) allowed(g *segment) bool { return g.off+uint64(g.size()) <= s.limit }

func (c *Conn) closeDue() bool {
	return c.out.ended && !c.out.closeSent && c.out.next == len(c.out.segs)
}

// collect fills c.out.msgs with what goes out next, in order of urgency, and
// pins its blocks.
func (c *Conn) collect() {
	s := &c.out
	s.msgs, s.pins, s.control = s.msgs[:0], s.pins[:0], s.control[:0]
	s.control = growTo(s.control, 512) // so that the messages below stay in place
	if s.abort != nil {
		c.add(s.abort)
		return
	}
	for _, f := range []**frame{&s.pong, &s.ping, &s.goAway} {
		if *f != nil {
			c.add(*f)
			*f = nil
		}
	}
	if s.closeAck {
		s.closeAck = false
		c.add(&frame{typ: frameCloseAck})
	}
	c.collectData()
	if c.closeDue() {
		s.closeSent = true
		c.add(&frame{typ: frameClose, arg: s.end, code: CodeClean})
	}
	if s.ack && len(s.msgs) == 0 {
		c.add(&frame{typ: frameAck})
	}
	if len(s.msgs) > 0 {
		s.ack = false
		c.in.acked()
	}
}

func growTo(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, 0, n)
	}
	return b
}

func (c *Conn) add(f *frame) {
	f.ack, f.wnd = c.in.rcv, c.in.wnd()
	at := len(c.out.control)
	c.out.control = f.append(c.out.control)
	c.out.msgs = append(c.out.msgs, c.out.control[at:])
}

func (c *Conn) collectData() {
	s := &c.out
	for n := 0; s.next < len(s.segs) && n < batchMax; s.next++ {
		g := &s.segs[s.next]
		if !s.allowed(g) {
			break
		}
		var flags byte
		if s.waiting > 0 || 4*s.blocks >= 3*s.window/sendBlock {
			flags = flagAckNow
		}
		h := g.blk.b[g.start:]
		putHeader(h, frameData, flags, c.in.wnd(), c.in.rcv)
		binary.BigEndian.PutUint64(h[headerLen:], g.off)
		g.blk.refs++
		s.pins = append(s.pins, g.blk)
		s.msgs = append(s.msgs, g.blk.b[g.start:g.end])
		n += g.size()
		s.unsent -= g.size()
		s.maxSent = max(s.maxSent, g.off+uint64(g.size()))
		c.live.sent() // not before: a peer that gives no credit is slow, not dead
	}
}

// acknowledge takes the peer's ack and limit.
func (c *Conn) acknowledge(ack uint64, wnd uint32) error {
	s := &c.out
	if ack > s.maxSent {
		return violation("%d bytes acknowledged, %d sent", ack, s.maxSent)
	}
	if limit := ack + uint64(wnd); limit > s.limit {
		s.limit = limit
		if c.sendable() {
			c.kick()
		}
	}
	if ack <= s.una {
		return nil
	}
	s.una = ack
	c.live.proof(s.una < s.maxSent)
	for s.head < s.next {
		g := &s.segs[s.head]
		if g.off+uint64(g.size()) > ack {
			break
		}
		s.unref(g.blk)
		g.blk = nil
		s.head++
	}
	s.compact()
	if s.waiting > 0 {
		c.changed.Broadcast()
	}
	return nil
}
