package line

import "time"

// Flags of GOAWAY.
const (
	NewSession byte = 1 // open new streams on a fresh session
	Redial     byte = 2 // attach a new carrier while this one works
)

// A GoAway is the peer's request to move on.
type GoAway struct {
	Code     uint16
	Deadline time.Duration // until the peer ends the line
	Flags    byte
}

// away is what this side has asked for.
type away struct {
	GoAway
	by time.Time
}

// GoAway asks the peer to move on; it does nothing else. The peer hears it on
// a later carrier again, since it may have missed it.
func (c *Conn) GoAway(g GoAway) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.away = &away{g, time.Now().Add(g.Deadline)}
	c.out.sayAway()
	c.kick()
}

func (s *sender) sayAway() {
	f := frame{typ: frameGoAway, code: s.away.Code}
	f.millis, f.flags = uint32(max(time.Until(s.away.by), 0).Round(time.Millisecond).Milliseconds()), s.away.Flags
	s.goAway = &f
}

// sayAwayAgain is for a new carrier, which is what Redial asks for.
func (s *sender) sayAwayAgain() {
	s.goAway = nil
	if s.away == nil {
		return
	}
	if s.away.Flags &^= Redial; s.away.Flags == 0 {
		s.away = nil
		return
	}
	s.sayAway()
}

// wentAway is the peer's GOAWAY.
func (c *Conn) wentAway(f *frame) {
	if f.flags&Redial != 0 && c.redial != nil && c.window > 0 {
		c.redial.renewFor()
	}
	c.say(Event{Kind: GoingAway, GoAway: GoAway{f.code, time.Duration(f.millis) * time.Millisecond, f.flags}})
}

// Detach ends the present carrier on purpose. The client comes back with
// another, not before retry.
func (c *Conn) Detach(code uint16, retry time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil || c.window == 0 {
		return
	}
	f := frame{typ: frameDetach, code: code}
	f.millis = uint32(retry.Milliseconds())
	c.out.detach = &f
	c.kick()
}

// A detachError is the end of a carrier that the peer ended on purpose.
type detachError struct{ retry time.Duration }

func (e *detachError) Error() string { return "the peer has ended this carrier" }

// RetryAfter is when it wants the next one.
func (e *detachError) RetryAfter() time.Duration { return e.retry }
