package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"wstun/internal/impair"
)

// The path goes dark, or is slow, and comes back or does not.

// TestFaultHole (F03): the path is dark for a while, both ways or one, with
// data in flight or without. Up to 5 s of it nobody notices; what is longer is
// noticed in time, and when the path is back the stream goes on.
func TestFaultHole(t *testing.T) {
	t.Parallel()
	f := newFar(t)
	s := startServer(t, "--allow", f.addr)
	t.Run("of", func(t *testing.T) {
		for _, h := range holes() {
			t.Run(h.name(), func(t *testing.T) {
				t.Parallel()
				if h.busy {
					h.busyTalk(t, connectBadly(t, f, s, h.args...))
				} else {
					h.idleTalk(t, connectBadly(t, f, s, h.args...))
				}
			})
		}
	})
	s.fewGoroutines(t, goroutinesAtRest(t, nil)[0])
}

type hole struct {
	dir    impair.Direction
	length time.Duration
	busy   bool
	mode   string
	args   []string
}

func (h hole) name() string {
	dir := map[impair.Direction]string{impair.Both: "both ways", impair.ToServer: "to the server", impair.ToClient: "to the client"}[h.dir]
	what := map[bool]string{true: "busy", false: "idle"}[h.busy]
	return fmt.Sprintf("%v %s, %s, %s", h.length, dir, what, h.mode)
}

func holes() (list []hole) {
	lengths := full([]time.Duration{1, 5, 20, 60, 600}, []time.Duration{1, 5, 20})
	for _, length := range lengths {
		for _, dir := range []impair.Direction{impair.Both, impair.ToServer, impair.ToClient} {
			for _, busy := range []bool{false, true} {
				list = append(list, hole{dir, length * time.Second, busy, "mux", nil})
			}
		}
	}
	for _, busy := range []bool{false, true} {
		list = append(list, hole{impair.Both, 20 * time.Second, busy, "no-mux", []string{"--no-mux"}})
	}
	return list
}

// How soon a dead connection is noticed, with data in flight and without; how
// soon a session goes on once the path is back, of which 5 s are promised; and
// how long a hole may be that is none.
const (
	noticeBusy = 10 * time.Second
	noticeIdle = 25 * time.Second
	goesOn     = 10 * time.Second
	stall      = 5 * time.Second
)

// busyTalk is a hole under a talk that says something all the time.
func (h hole) busyTalk(t *testing.T, p *pair) {
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over) })
	defer end()
	tk := p.talk(t, script{pace: 20 * time.Millisecond, over: over})
	tk.flows(t)

	lost := p.during(t, h)
	if h.length <= stall && lost >= 0 {
		t.Errorf("a hole of %v: the connection was given up after %v", h.length, lost)
	}
	if h.length >= 2*noticeBusy && (lost < 0 || lost > noticeBusy+slack) {
		t.Errorf("noticed after %v, want %v", lost, noticeBusy)
	}
	back := tk.goesOn(t, goesOn)
	t.Logf("noticed after %v; both directions move %v after the path was back", lost, back)
	end()
	tk.endsWell(t)
	p.settle(t)
}

// idleTalk is a hole under a talk that says nothing meanwhile.
func (h hole) idleTalk(t *testing.T, p *pair) {
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over) })
	defer end()
	quiet := p.talk(t, script{pace: time.Hour, over: over})
	quiet.begins(t)
	p.calm(t)

	lost := p.during(t, h)
	if h.length <= stall && lost >= 0 {
		t.Errorf("a hole of %v: the connection was given up after %v", h.length, lost)
	}
	if h.length > noticeIdle && h.dir == impair.Both && (lost < 0 || lost > noticeIdle+slack) {
		t.Errorf("noticed after %v, want %v", lost, noticeIdle)
	}
	start := time.Now()
	p.talk(t, script{up: 10_000, down: 10_000}).endsWellIn(t, goesOn)
	t.Logf("noticed after %v; a new connection was served %v after the path was back", lost, time.Since(start))
	end()
	quiet.endsWellIn(t, goesOn)
	p.settle(t)
}

// during makes the hole and returns, when it is over, after what time the
// client had noticed; -1: it had not. The server may be who notices.
func (p *pair) during(t *testing.T, h hole) (lost time.Duration) {
	t.Helper()
	p.path.Hole(h.dir, true)
	start := time.Now()
	lost, noticed := within(h.length, func() bool { return p.c.count("connection lost, resuming") > 0 })
	lasts(t, h.length-time.Since(start))
	p.path.Hole(h.dir, false)
	if !noticed {
		return -1
	}
	return lost.Round(time.Millisecond)
}

// flows waits until something has come through both ways.
func (tk *talk) flows(t *testing.T) {
	t.Helper()
	mustSoon(t, patience, "both directions have begun", func() bool { return tk.up.got.Load() > 0 && tk.down.got.Load() > 0 })
}

// goesOn waits until what both ends say from now on is heard.
func (tk *talk) goesOn(t *testing.T, d time.Duration) time.Duration {
	t.Helper()
	up, down := tk.up.given.Load()+1, tk.down.given.Load()+1
	return mustSoon(t, d, "both directions go on", func() bool {
		return tk.up.got.Load() >= up && tk.down.got.Load() >= down
	}).Round(time.Millisecond)
}

// TestFaultHoleLongerThanTheWindow (F04): when the session is given up, both
// ends of its streams are reset, and a client that finds the path again works.
func TestFaultHoleLongerThanTheWindow(t *testing.T) {
	t.Parallel()
	const window = 5 * time.Second
	p := startBadPair(t, []string{"--resume-window", window.String()}, nil)
	over := make(chan struct{})
	var talks []*talk
	for i := range 20 {
		pace := 20 * time.Millisecond
		if i > 0 {
			pace = time.Hour // one moves, the others do not
		}
		talks = append(talks, p.talk(t, script{pace: pace, over: over}))
	}
	for _, tk := range talks {
		tk.begins(t)
	}
	p.path.Hole(impair.Both, true)
	start := time.Now()
	for _, tk := range talks {
		tk.isReset(t, true, true, window+10*time.Second+slack-time.Since(start))
	}
	t.Logf("all %d were reset after %v", 2*len(talks), time.Since(start).Round(time.Millisecond))
	close(over)
	p.path.Hole(impair.Both, false)
	p.c.awaitN(t, 2, " connected ")
	p.talk(t, script{up: 10_000, down: 10_000}).endsWell(t)
	p.atRest(t)
}

// TestFaultSlowLink (F06): at 64 kbit/s a transfer goes on, at more than half
// of what the link carries, and the connection is not given up.
func TestFaultSlowLink(t *testing.T) {
	t.Parallel()
	const rate = 8000
	p := startBadPair(t, nil, nil)
	p.path.Rate(impair.ToServer, rate)
	p.path.Rate(impair.ToClient, rate)
	tk := p.talk(t, script{up: 64 << 20, down: 64 << 20})
	start := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	up, down := steady{name: "up"}, steady{name: "down"}
	for length := full(10*time.Minute, time.Minute); time.Since(start) < length; <-tick.C {
		up.look(t, tk.up.got.Load())
		down.look(t, tk.down.got.Load())
	}
	took := time.Since(start).Seconds()
	for _, way := range []*steady{&up, &down} {
		share := float64(way.n) / took / rate
		if t.Logf("%s: %d bytes in %.0f s, %.0f %% of the rate, longest pause %v", way.name, way.n, took, 100*share, way.longest); share < 0.5 {
			t.Errorf("%s: %.0f %% of the rate, want half at least", way.name, 100*share)
		}
	}
	if n := p.c.count("connection lost"); n > 2 {
		t.Errorf("the connection was given up %d times", n)
	}
	for _, line := range p.c.said("connection lost") {
		t.Log(line)
	}
	p.path.Rate(impair.Both, 0)
	tk.endsWellIn(t, 2*patience)
	p.settle(t)
}

// steady watches a count that should grow.
type steady struct {
	name    string
	n       int64
	since   time.Time
	longest time.Duration
}

func (s *steady) look(t *testing.T, n int64) {
	t.Helper()
	now := time.Now()
	if s.since.IsZero() || n > s.n {
		s.n, s.since = n, now
	}
	s.longest = max(s.longest, now.Sub(s.since).Round(time.Second))
	if n < s.n || s.longest > patience {
		t.Fatalf("%s: %d bytes since %v", s.name, s.n, s.longest)
	}
}
