package line

import "time"

// How much may be on its way. The window is what the peer has room for; on a
// slow carrier as much would wait in the kernels' buffers for minutes, with the
// peer's acknowledgements behind its own bytes, and the carrier would be given
// up. So the bytes under way are halved while they take long to be
// acknowledged, and doubled while they do not. One of them at a time is timed.

const (
	soon      = time.Second     // far below the time after which a carrier is given up
	late      = 4 * time.Second // half of it
	minFlight = 32 << 10
	newFlight = 64 << 10 // of a new line; TCP below begins with less
)

// A flight is the limit, and the byte that is timed.
type flight struct {
	limit  int
	mark   uint64 // behind that byte
	marked time.Time
}

// allowed reports whether size bytes from offset from on may be sent: the peer
// takes them, and not too much is under way. Something always is.
func (s *sender) allowed(from uint64, size int) bool {
	end := from + uint64(size)
	return end <= s.limit && (from == s.una || end-s.una <= uint64(s.flight.limit))
}

// crowded reports whether size more bytes make what is under way so much that
// the next ones may soon have to wait.
func (s *sender) crowded(size int) bool {
	return 4*(int(s.sent-s.una)+size) >= 3*s.flight.limit
}

// timed begins to time what has just been sent, unless something is timed.
func (s *sender) timed() {
	if s.flight.marked.IsZero() {
		s.flight.mark, s.flight.marked = s.sent, time.Now()
	}
}

// landed is called when the peer has acknowledged more, at now.
func (s *sender) landed(now time.Time) {
	f := &s.flight
	if f.marked.IsZero() {
		return
	}
	took := now.Sub(f.marked)
	switch {
	case took > late:
		f.limit = max(min(f.limit, int(s.sent-s.una))/2, minFlight)
		f.marked = time.Time{}
	case s.una < f.mark:
	case took < soon && f.limit < s.window:
		f.limit = min(2*f.limit, s.window)
		fallthrough
	default:
		f.marked = time.Time{}
	}
}

// crashed is called when the carrier is lost with what was under way.
func (s *sender) crashed() {
	f := &s.flight
	if !f.marked.IsZero() && time.Since(f.marked) > late {
		f.limit = max(min(f.limit, int(s.sent-s.una))/4, minFlight)
	}
	f.marked = time.Time{}
}
