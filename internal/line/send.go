package line

import (
	"net"
	"os"
	"time"
)

const (
	queueMax  = 256 << 10 // bytes written and not yet on the carrier: what a keystroke may have to wait for
	batchMax  = 256 << 10 // bytes given to the carrier at once
	inlineMax = 4 << 10   // up to this much an idle line sends in the caller's goroutine
)

// A sender is the outgoing half of a line. Its fields are under the line's
// lock. Offsets: una ≤ sent ≤ maxSent ≤ end; the peer takes bytes below limit.
// With a new carrier sent goes back to una.
type sender struct {
	window int
	blocks int // held, of window/sendBlock
	budget *Budget

	segs []segment // from una to end, in order; segs[:head] are free, segs[next:] hold the bytes from sent on
	head int
	next int
	cur  *block // the block being filled, from used on
	used int

	una, sent, end, limit uint64
	maxSent               uint64
	chunk                 int // the most that a DATA frame carries, less than a segment on carriers that die young
	unhalved              int // chunk before it was halved for a carrier of which nothing was heard; 0: it was not
	flight                flight
	waiting               int // Writes that wait for room, and others for acknowledgements

	ended      bool // CloseWrite or Close: a CLOSE follows the data
	closeSent  bool
	closeAcked bool
	abort      *frame
	abortSent  bool
	abortErr   error

	ping, pong *frame // one slot each: a newer one replaces an older
	closeAck   bool
	goAway     *frame
	away       *away // what goAway said last
	detach     *frame
	ack        bool // an ACK is due

	sending bool // somebody is in pump, or the flusher has been told to be
	wake    chan struct{}

	deadline deadline
	msgs     [][]byte // scratch of pump: what goes out together
	pins     []*block
	control  []byte // scratch: encoded control frames
	parts    *block // scratch: frames of parts of segments
	partsLen int    // of it in use
}

// minChunk is the least that a carrier which lives long enough for nothing is
// asked to carry at once.
const minChunk = 1 << 10

// newChunk is what a DATA frame carries at first: not known to be slow is not
// yet known to be fast. It doubles as acknowledgements come.
const newChunk = 16 << 10

func (s *sender) init(window int, limit uint64, b *Budget) {
	s.window, s.limit, s.budget = window, limit, b
	s.chunk = newChunk
	s.flight.limit = min(newFlight, window)
	s.wake = make(chan struct{}, 1)
}

// rewind is for a new carrier, whose far end has accepted the bytes below
// peerRcv and takes wnd more.
func (s *sender) rewind(peerRcv uint64, wnd uint32) {
	if peerRcv > s.una {
		s.chunk = max(s.chunk, s.unhalved) // the last carrier did move something
		s.free(peerRcv)
	}
	s.unhalved = 0
	s.sent, s.next = s.una, s.head
	s.limit = max(s.limit, peerRcv+uint64(wnd))
	s.ping, s.pong, s.detach = nil, nil, nil
	s.ack = true
	s.abortSent = false
	s.sayAwayAgain()
}

func (s *sender) unsent() int { return int(s.end - s.sent) }

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
		if k <= inlineMax && !c.out.sending && c.at != nil {
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
	c.at.moved += int(ack - s.una)
	c.at.acked += int(ack - s.una)
	c.resize(int(ack - s.una))
	s.free(ack)
	s.landed(c.live.lastRx)
	c.live.proof(s.waits(c.at))
	if c.sendable() {
		c.kick()
	}
	if s.waiting > 0 {
		c.changed.Broadcast()
	}
	return nil
}

// resize fits the DATA frames to the time that the peer took to acknowledge n
// more bytes. A carrier so slow that one frame takes as long as a peer may be
// silent would else be given up again and again.
func (c *Conn) resize(n int) {
	s := &c.out
	if c.live.waiting.IsZero() {
		return // it had them from the carrier before
	}
	switch took := time.Since(c.live.waiting); {
	case took > c.cfg.StallAfter/2:
		s.chunk, c.at.quick = max(s.chunk/2, minChunk), 0
	case took > soon:
		c.at.quick = 0
	case s.chunk < sendBlock:
		c.at.quick += n
	}
	for c.at.quick >= 4*s.chunk {
		c.at.quick -= 4 * s.chunk
		s.chunk = min(2*s.chunk, sendBlock)
	}
}

// waits reports whether something that was sent on at has no answer.
func (s *sender) waits(at *attachment) bool {
	return s.una < s.maxSent || at.closeSent && !s.closeAcked
}

// free lets go of the bytes below ack. Some of them may not have been sent on
// this carrier: the peer had them from the one before.
func (s *sender) free(ack uint64) {
	s.una = ack
	s.sent = max(s.sent, ack)
	for s.head < len(s.segs) {
		g := &s.segs[s.head]
		if g.off+uint64(g.size()) > ack {
			break
		}
		s.unref(g.blk)
		g.blk = nil
		s.head++
	}
	s.next = max(s.next, s.head)
	s.compact()
}
