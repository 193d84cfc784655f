package mux

import (
	"os"
	"sync"
	"time"
)

// A gate lets an opener send up to maxEarly bytes before the answer to its
// OPEN, and holds the rest back until then.
type gate struct {
	opened chan struct{}
	once   sync.Once
	sent   int
}

func (g *gate) init() { g.opened = make(chan struct{}) }

// open lets everything through, from now on.
func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// pass waits until n more bytes may be sent on s. A write deadline that is set
// while it waits is not seen; the stream's end is.
func (g *gate) pass(s *Stream, n int) error {
	if s.replied == nil {
		return nil
	}
	select {
	case <-g.opened:
		return s.writable()
	default:
	}
	if g.sent += n; g.sent <= maxEarly {
		return nil
	}
	var late <-chan time.Time
	s.mu.Lock()
	by := s.writeBy
	s.mu.Unlock()
	if !by.IsZero() {
		t := time.NewTimer(time.Until(by))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-g.opened:
		return s.writable()
	case <-late:
		g.sent -= n
		return os.ErrDeadlineExceeded
	}
}
