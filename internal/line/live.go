package line

import (
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// liveness decides whether the peer lives, by proof: progress of what it
// acknowledges, or an answer to a PING. Bytes received prolong the wait only
// threefold, since a path may have gone dark in one direction. Its fields are
// under the line's lock; one timer per line.
type liveness struct {
	c        *Conn
	timer    *time.Timer
	after    time.Duration // PingAfter with its jitter
	lastRx   time.Time
	lastOK   time.Time // of the last proof
	waiting  time.Time // since when sent bytes wait without progress; zero: none do
	pingAt   time.Time // of the PING under way; zero: none
	pingID   uint64
	deadline time.Time // of Close; zero: not closed
}

func (l *liveness) start(c *Conn) {
	l.c = c
	l.after = time.Duration(float64(c.cfg.PingAfter) * (0.85 + 0.3*rand.Float64()))
	l.lastRx = time.Now()
	l.lastOK = l.lastRx
	l.timer = time.AfterFunc(l.after, l.check)
}

func (l *liveness) stop() {
	l.timer.Stop()
	for _, t := range []*time.Timer{l.c.in.timer, l.c.in.deadline.timer, l.c.out.deadline.timer} {
		if t != nil {
			t.Stop()
		}
	}
}

func (l *liveness) received() { l.lastRx = time.Now() }

// sent notes that bytes wait for an acknowledgement from now on. A stall is
// noticed by the next check, which comes within PingAfter anyway.
func (l *liveness) sent() {
	if l.waiting.IsZero() {
		l.waiting = time.Now()
	}
}

// proof notes progress; more says that sent bytes still wait.
func (l *liveness) proof(more bool) {
	l.lastOK = l.lastRx
	l.waiting = time.Time{}
	if more {
		l.waiting = l.lastRx
	}
}

func (l *liveness) pong(id uint64) {
	if !l.pingAt.IsZero() && id == l.pingID {
		l.pingAt = time.Time{}
		l.lastOK = l.lastRx
	}
}

// closeBy bounds the rest of the line's life; it never prolongs it.
func (l *liveness) closeBy(d time.Duration) {
	at := time.Now().Add(d)
	if l.deadline.IsZero() || at.Before(l.deadline) {
		l.deadline = at
		l.timer.Reset(d)
	}
}

// check is the timer's func: it asks, gives up, or waits on.
func (l *liveness) check() {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	now := time.Now()
	if !l.deadline.IsZero() {
		if now.Before(l.deadline) {
			l.timer.Reset(l.deadline.Sub(now))
			return
		}
		err := c.out.abortErr
		if err == nil {
			err = net.ErrClosed
		}
		c.end(err)
		return
	}
	if what, since := l.overdue(now); what != "" {
		c.end(fmt.Errorf("%w: %w: %s for %v", ErrLost, ErrDead, what, now.Sub(since).Round(time.Second)))
		return
	}
	if l.pingAt.IsZero() && now.Sub(l.lastOK) >= l.after {
		l.pingAt = now
		l.pingID = rand.Uint64()
		c.out.ping = &frame{typ: framePing, arg: l.pingID}
		c.kick()
	}
	l.timer.Reset(l.next(now))
}

// overdue names what has been missing for too long, and since when.
func (l *liveness) overdue(now time.Time) (what string, since time.Time) {
	late := func(since time.Time, limit time.Duration) bool {
		if since.IsZero() || now.Sub(since) < limit {
			return false
		}
		return now.Sub(l.lastRx) >= limit || now.Sub(since) >= 3*limit
	}
	switch {
	case late(l.pingAt, l.c.cfg.DeadAfter):
		return "no answer to a ping", l.pingAt
	case late(l.waiting, l.c.cfg.StallAfter):
		return "nothing acknowledged", l.waiting
	}
	return "", time.Time{}
}

// next returns when to look again.
func (l *liveness) next(now time.Time) time.Duration {
	at := l.lastOK.Add(l.after)
	if !l.pingAt.IsZero() {
		at = l.pingAt.Add(l.c.cfg.DeadAfter)
	}
	if !l.waiting.IsZero() {
		if stall := l.waiting.Add(l.c.cfg.StallAfter); stall.Before(at) {
			at = stall
		}
	}
	// One that is past, and was prolonged by received bytes, is looked at every second.
	return max(at.Sub(now), time.Second)
}

// A deadline makes reads or writes of a line fail from a moment on.
type deadline struct {
	timer  *time.Timer
	set    int // counts SetDeadlines, so that a late timer is void
	passed bool
}

func (d *deadline) store(c *Conn, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.set++
	d.passed = false
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		c.changed.Broadcast()
		return nil
	}
	n := d.set
	d.timer = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.set == n {
			d.passed = true
			c.changed.Broadcast()
		}
	})
	return nil
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline makes reads fail with os.ErrDeadlineExceeded from t on. The
// line lives on; a zero t lets them wait again.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.deadline.store(c, t) }

// SetWriteDeadline is the same for writes. What a Write that failed so had
// taken is sent.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.deadline.store(c, t) }
