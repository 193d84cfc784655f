package line

import (
	"net"
	"slices"
	"time"
)

// What a server keeps of sessions that have no carrier, and of those that have
// ended.

// forget is called with the lock of a line that has ended.
func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, c.hello.ID)
	if c.err == net.ErrClosed && c.drained() && c.hello.ResumeWindow > 0 {
		s.graves.dig(c.hello.ID, grave{c.hello.key, c.hello.Principal, c.in.final, time.Now().Add(c.hello.ResumeWindow)})
	}
}

// Sessions returns how many sessions there are, and how many of them have no
// carrier.
func (s *Server) Sessions() (all, detached int) {
	cs := s.all()
	for _, c := range cs {
		if !c.Attached() {
			detached++
		}
	}
	return len(cs), detached
}

func (s *Server) all() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	cs := make([]*Conn, 0, len(s.sessions))
	for _, c := range s.sessions {
		cs = append(cs, c)
	}
	return cs
}

// thinOut ends detached sessions, the oldest first, where they are too many or
// memory is short. It may be called with locks held and does not wait.
func (s *Server) thinOut() {
	if s.Config.Budget == nil && s.MaxDetached == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.again = true; s.thinning {
		return
	}
	s.thinning = true
	s.running.Go(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for s.again {
			s.again = false
			s.mu.Unlock()
			s.thin()
			s.mu.Lock()
		}
		s.thinning = false
	})
}

func (s *Server) thin() {
	type waiting struct {
		c     *Conn
		since time.Time
	}
	var list []waiting
	count := map[string]int{}
	for _, c := range s.all() {
		c.mu.Lock()
		if c.waits() {
			list = append(list, waiting{c, c.since})
			count[c.hello.Principal]++
		}
		c.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b waiting) int { return a.since.Compare(b.since) })
	for _, w := range list {
		who := w.c.hello.Principal
		switch {
		case s.MaxDetached > 0 && count[who] > s.MaxDetached:
			w.c.evict("more sessions of the same user wait")
			count[who]--
		case s.Config.Budget.exceeded():
			w.c.evict("memory is short")
		}
	}
}

// waits reports whether a line has no carrier any more. One that is about to
// get its first does not wait.
func (c *Conn) waits() bool { return c.at == nil && c.err == nil && !c.since.IsZero() }

// evict ends a line that has no carrier.
func (c *Conn) evict(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits() {
		c.in.discard() // what is not read is no less memory
		c.end(&evictedError{why, c.why})
	}
}

// An evictedError is why a detached line was not kept.
type evictedError struct {
	why  string
	lost error
}

func (e *evictedError) Error() string { return "not kept, since " + e.why + ": " + e.lost.Error() }

// Unwrap says that it is a loss.
func (e *evictedError) Unwrap() error { return ErrLost }

// A grave is what is left of a session that ended in order: enough to tell its
// client so, whose last acknowledgement may have been lost.
type grave struct {
	key       []byte
	principal string
	final     uint64 // how much of the client's was accepted
	until     time.Time
}

// maxGraves bounds them; the oldest go first.
const maxGraves = 16 << 10

type graveyard struct {
	of    map[[16]byte]grave
	order [][16]byte // the oldest first
}

func (g *graveyard) dig(id [16]byte, v grave) {
	if g.of == nil {
		g.of = map[[16]byte]grave{}
	}
	for len(g.order) > 0 && (len(g.order) >= maxGraves || time.Now().After(g.of[g.order[0]].until)) {
		delete(g.of, g.order[0])
		g.order = g.order[1:]
	}
	g.of[id] = v
	g.order = append(g.order, id)
}

func (g *graveyard) find(id [16]byte) *grave {
	v, ok := g.of[id]
	if !ok || time.Now().After(v.until) {
		return nil
	}
	return &v
}
