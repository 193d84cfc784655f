package line

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// liveness decides whether the peer lives, by proof: progress of what it
// acknowledges, or an answer to a PING. Bytes received prolong the wait only
// threefold, since a path may have gone dark in one direction. Its fields are
// under the line's lock; one timer per line.
type liveness struct {
	c        *Conn
	timer    *time.Timer
	looks    time.Time     // when timer fires
	after    time.Duration // PingAfter with its jitter
	patience int           // doubles each time that a carrier is given up without progress
	lastRx   time.Time
	counted  uint32        // the carrier's Received when it was last looked at
	lastOK   time.Time     // of the last proof
	waiting  time.Time     // since when sent bytes wait without progress; zero: none do
	pingAt   time.Time     // of the PING under way; zero: none
	pingBy   time.Duration // how long its answer may take
	pingID   uint64
	renewAt  time.Time // when the carrier is old enough to be replaced; zero: never
	deadline time.Time // of Close; zero: not closed
}

func (l *liveness) start(c *Conn) {
	l.c = c
	l.patience = 1
	l.after = time.Duration(float64(c.cfg.PingAfter) * (0.85 + 0.3*rand.Float64()))
	l.timer = time.AfterFunc(time.Hour, l.check)
}

// attached begins anew with a new carrier.
func (l *liveness) attached() {
	now := time.Now()
	l.lastRx, l.lastOK = now, now
	l.counted = l.c.at.car.Received()
	l.waiting, l.pingAt, l.renewAt = time.Time{}, time.Time{}, time.Time{}
	if age := l.c.cfg.MaxAge; age > 0 {
		l.renewAt = now.Add(time.Duration(float64(age) * (0.9 + 0.1*rand.Float64())))
	}
	l.look(l.next(now))
}

// detached waits for another carrier.
func (l *liveness) detached() { l.look(l.c.window - time.Since(l.c.since)) }

// look has check called in d, or when a closed line is over.
func (l *liveness) look(d time.Duration) {
	if !l.deadline.IsZero() {
		d = min(d, max(time.Until(l.deadline), 0))
	}
	l.looks = time.Now().Add(d)
	l.timer.Reset(d)
}

func (l *liveness) stop() {
	l.timer.Stop()
	for _, t := range []*time.Timer{l.c.in.timer, l.c.in.deadline.timer, l.c.out.deadline.timer} {
		if t != nil {
			t.Stop()
		}
	}
}

// received notes a frame.
func (l *liveness) received() {
	l.lastRx = time.Now()
	l.counted = l.c.at.car.Received()
}

// sent notes that bytes wait for an acknowledgement from now on.
func (l *liveness) sent() {
	if l.waiting.IsZero() {
		l.waiting = time.Now()
		if stall := l.limit(l.c.cfg.StallAfter); l.looks.Sub(l.waiting) > stall {
			l.look(stall)
		}
	}
}

// proof notes progress; more says that sent bytes still wait.
func (l *liveness) proof(more bool) {
	l.lastOK = l.lastRx
	l.c.at.proved = true
	l.waiting, l.pingAt = time.Time{}, time.Time{}
	l.patience = 1
	if more {
		l.waiting = l.lastRx
	}
}

func (l *liveness) pong(id uint64) {
	if !l.pingAt.IsZero() && id == l.pingID {
		if l.lastRx.Sub(l.pingAt) < l.c.cfg.DeadAfter/2 { // the carrier is not the slow one it was
			l.patience = max(l.patience/2, 1)
		}
		l.pingAt = time.Time{}
		l.lastOK = l.lastRx
		l.c.at.proved = true
	}
}

// closeBy bounds the rest of the line's life; it never prolongs it.
func (l *liveness) closeBy(d time.Duration) {
	at := time.Now().Add(d)
	if l.deadline.IsZero() || at.Before(l.deadline) {
		l.deadline = at
		l.look(d)
	}
}

// ask sends a PING that is to be answered within so long. If one is under way
// whose answer is due earlier it is that one, again: to ask often must not put
// off the end of a dead carrier.
func (l *liveness) ask(within time.Duration) {
	now := time.Now()
	if l.pingAt.IsZero() || now.Add(within).Before(l.pingAt.Add(l.pingBy)) {
		l.pingAt, l.pingBy, l.pingID = now, within, rand.Uint64()
	}
	l.c.out.ping = &frame{typ: framePing, arg: l.pingID}
	l.c.kick()
	l.look(min(time.Until(l.looks), within))
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
	switch {
	case !l.deadline.IsZero() && !now.Before(l.deadline):
		c.overtime()
	case c.at != nil && !c.at.leaveBy.IsZero() && !now.Before(c.at.leaveBy):
		c.at.car.Close() // not Abort: DETACH may be on its way
		c.lost(c.at, errDetached)
	case c.at == nil && now.Sub(c.since) >= c.window:
		c.expire()
	case c.at == nil:
		l.look(c.window - now.Sub(c.since))
	default:
		l.attend(now)
	}
}

// attend is check for a line that has a carrier.
func (l *liveness) attend(now time.Time) {
	c := l.c
	if n := c.at.car.Received(); n != l.counted {
		l.counted, l.lastRx = n, now // perhaps a part of a message that takes long
	}
	if what, since := l.overdue(now); what != "" {
		if !c.at.proved { // bytes that came in are no reason to ask for answers so soon again
			l.patience = min(2*l.patience, 16)
		}
		c.lost(c.at, fmt.Errorf("%w: %s for %v", ErrDead, what, now.Sub(since).Round(time.Second)))
		return
	}
	if !l.renewAt.IsZero() && !now.Before(l.renewAt) && c.redial != nil {
		l.renewAt = time.Time{}
		c.redial.renew()
	}
	if l.pingAt.IsZero() && now.Sub(l.lastOK) >= l.after {
		l.ask(l.limit(c.cfg.DeadAfter))
	}
	l.look(l.next(now))
}

// limit is d, or more after carriers on which nothing moved in that time: a
// slow one must not be given up again and again.
func (l *liveness) limit(d time.Duration) time.Duration {
	return max(min(d*time.Duration(l.patience), maxPatience), d)
}

const maxPatience = 2 * time.Minute

// overdue names what has been missing for too long, and since when.
func (l *liveness) overdue(now time.Time) (what string, since time.Time) {
	late := func(since time.Time, limit time.Duration) bool {
		if since.IsZero() || now.Sub(since) < limit {
			return false
		}
		return now.Sub(l.lastRx) >= limit || now.Sub(since) >= 3*limit
	}
	switch {
	case late(l.pingAt, l.pingBy):
		return "no answer to a ping", l.pingAt
	case late(l.waiting, l.limit(l.c.cfg.StallAfter)):
		return "nothing acknowledged", l.waiting
	}
	return "", time.Time{}
}

// next returns when to look again.
func (l *liveness) next(now time.Time) time.Duration {
	at := l.lastOK.Add(l.after)
	if !l.pingAt.IsZero() {
		at = l.pingAt.Add(l.pingBy)
	}
	if !l.waiting.IsZero() {
		if stall := l.waiting.Add(l.limit(l.c.cfg.StallAfter)); stall.Before(at) {
			at = stall
		}
	}
	if !l.renewAt.IsZero() && l.renewAt.Before(at) {
		at = l.renewAt
	}
	if leave := l.c.at.leaveBy; !leave.IsZero() && leave.Before(at) {
		at = leave
	}
	if d := at.Sub(now); d > 0 {
		return d
	}
	return time.Second // it is past, and was prolonged by received bytes
}
