package line

import (
	"encoding/binary"
	"net"
	"runtime"
	"time"
)

// What takes a line's frames to its carrier: one goroutine at a time, a writer's
// own or the flusher.

// kick has the flusher send what there is. Called with the lock held.
func (c *Conn) kick() {
	if c.out.sending || c.at == nil {
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
		if inline && round > 0 && c.err == nil && c.at != nil {
			if c.sendable() {
				c.out.notify()
			} else {
				c.idle()
			}
			return
		}
		if n := c.out.unsent(); !inline && n > 0 && n < 2*sendBlock {
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
		at := c.at
		c.collect()
		if len(c.out.msgs) == 0 {
			c.idle()
			return
		}
		last, detach := c.out.abort != nil, c.out.detach
		c.mu.Unlock()
		err := at.car.WriteMessages(c.out.msgs...)
		c.mu.Lock()
		clear(c.out.msgs)
		c.out.unpin()
		switch {
		case last && c.at == at && err == nil:
			// The peer ends the carrier when it has read the CLOSE, which a
			// reset of the carrier could overtake; or the timer does.
			c.out.abortSent = true
		case err != nil:
			c.lost(at, err) // with a CLOSE as well: it may belong on another carrier
		case detach != nil: // one that came during the write is not said yet
			if c.out.detach == detach {
				c.out.detach = nil
			}
			if c.at == at { // the peer ends it, or the timer does
				at.leaveBy = time.Now().Add(abortTimeout)
				c.live.look(abortTimeout)
			}
		}
		if c.out.waiting > 0 {
			c.changed.Broadcast()
		}
	}
}

// unpin lets go of what a write has used.
func (s *sender) unpin() {
	for _, b := range s.pins {
		s.unref(b)
	}
	if s.parts != nil {
		sendBlocks.Put(s.parts)
		s.parts, s.partsLen = nil, 0
	}
}

// idle is called when everything is sent. A closed line that has nothing left
// to say and to hear ends here; if the peer still waits for our CLOSE_ACK, it
// is the peer that ends the carrier, so that the CLOSE_ACK is not lost.
func (c *Conn) idle() {
	c.out.sending = false
	switch {
	case !c.closed || !c.drained():
	case c.at == nil && c.late: // another one is on its way, for what this one has not said
	case c.linger && c.at != nil:
		c.live.closeBy(lingerTimeout)
	default:
		c.end(net.ErrClosed)
	}
}

// sendable reports whether collect would find something.
func (c *Conn) sendable() bool {
	s := &c.out
	if s.abortSent || !c.at.leaveBy.IsZero() {
		return false
	}
	return s.pong != nil || s.ping != nil || s.closeAck || s.goAway != nil || s.ack || s.abort != nil || s.detach != nil ||
		s.next < len(s.segs) && s.allowed(s.part()) || c.closeDue()
}

// part returns how much of segs[next] the next frame carries, and from where.
func (s *sender) part() (from uint64, size int) {
	g := &s.segs[s.next]
	from = max(s.sent, g.off)
	return from, min(int(g.off+uint64(g.size())-from), s.chunk)
}

func (c *Conn) closeDue() bool {
	return c.out.ended && !c.out.closeAcked && !c.at.closeSent && c.out.next == len(c.out.segs)
}

// collect fills c.out.msgs with what goes out next, in order of urgency, and
// pins its blocks. It leaves it empty if there is nothing, or no carrier.
func (c *Conn) collect() {
	s := &c.out
	s.msgs, s.pins, s.control = s.msgs[:0], s.pins[:0], s.control[:0]
	if c.at == nil || s.abortSent || !c.at.leaveBy.IsZero() {
		return
	}
	s.control = growTo(s.control, 512) // so that the messages below stay in place
	c.greet()
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
		s.closeSent, c.at.closeSent = true, true
		c.live.sent()
		c.add(&frame{typ: frameClose, arg: s.end, code: CodeClean})
	}
	if s.ack && len(s.msgs) == 0 {
		c.add(&frame{typ: frameAck})
	}
	if s.detach != nil {
		c.add(s.detach)
	}
	if len(s.msgs) > 0 {
		s.ack = false
		c.in.acked()
	}
}

// greet begins a carrier with what the handshake still owes, and with an ACK.
func (c *Conn) greet() {
	if c.at.greeted {
		return
	}
	c.at.greeted = true
	if c.at.first != nil {
		c.out.msgs = append(c.out.msgs, c.at.first)
		c.at.first = nil
	}
	c.add(&frame{typ: frameAck})
}

func growTo(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, 0, n)
	}
	return b
}

func (c *Conn) add(f *frame) {
	f.ack, f.wnd = c.in.rcv, c.in.grant()
	at := len(c.out.control)
	c.out.control = f.append(c.out.control)
	c.out.msgs = append(c.out.msgs, c.out.control[at:])
}

func (c *Conn) collectData() {
	s := &c.out
	for n := 0; s.next < len(s.segs) && n < batchMax; {
		g := &s.segs[s.next]
		from, size := s.part()
		if !s.allowed(from, size) {
			break
		}
		frame := g.blk.b[g.start:g.end]
		if size < g.size() {
			if frame = s.copyPart(g, from, size); frame == nil {
				break
			}
		} else {
			g.blk.refs++
			s.pins = append(s.pins, g.blk)
		}
		var flags byte
		if s.waiting > 0 || 4*s.blocks >= 3*s.bound() || s.crowded(size) {
			flags = flagAckNow
		}
		putHeader(frame, frameData, flags, c.in.grant(), c.in.rcv)
		binary.BigEndian.PutUint64(frame[headerLen:], from)
		s.msgs = append(s.msgs, frame)
		n += size
		s.sent = from + uint64(size)
		s.maxSent = max(s.maxSent, s.sent)
		if s.sent == g.off+uint64(g.size()) {
			s.next++
		}
		c.at.sent = true
		s.timed()
		c.live.sent() // not before: a peer that gives no credit is slow, not dead
	}
}

// copyPart returns room for a frame with size bytes of g from offset from on,
// which are in it; nil: there is none left in this round. The header's place in
// g belongs to the whole of it.
func (s *sender) copyPart(g *segment, from uint64, size int) []byte {
	if s.parts == nil {
		s.parts = sendBlocks.Get().(*block)
	}
	at, end := s.partsLen, s.partsLen+dataHeaderLen+size
	if end > len(s.parts.b) {
		return nil
	}
	s.partsLen = end
	frame := s.parts.b[at:end]
	begin := g.start + dataHeaderLen + int(from-g.off)
	copy(frame[dataHeaderLen:], g.blk.b[begin:begin+size])
	return frame
}
