package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wstun/internal/impair"
)

// What the path between client and server, and the two themselves, can suffer.
// Whatever it is, of every connection holds: what arrived is a prefix of what
// was sent; an end in order means that all of it arrived; what was lost shows
// as a reset; and afterwards nothing is left in the server or the client.
//
// CI runs fewer and shorter faults than `make soak`, which sets WSTUN_SOAK.

// soak reports whether the full counts and times are wanted.
func soak() bool { return os.Getenv("WSTUN_SOAK") != "" }

// full is n with WSTUN_SOAK, and ci without.
func full[T any](n, ci T) T {
	if soak() {
		return n
	}
	return ci
}

// slack is added to limits that are promised: the machine is not the tests' own.
const slack = 3 * time.Second

// A pair is a client that reaches its server through a bad path.
type pair struct {
	far  *far
	s    *server
	c    *client
	path *impair.Relay
	at   string // where the client listens for the target
	args []string
	own  bool // the server serves nobody else

	base [2]int // descriptors of server and client at rest
}

// startBadPair starts a server for the far and a client of it.
func startBadPair(t *testing.T, server, client []string) *pair {
	t.Helper()
	f := newFar(t)
	p := connectBadly(t, f, startServer(t, append([]string{"--allow", f.addr}, server...)...), client...)
	p.own = true
	return p
}

// connectBadly starts a client of s, and uses it once.
func connectBadly(t *testing.T, f *far, s *server, args ...string) *pair {
	t.Helper()
	path := impair.Listen(t, s.addr)
	c := startClient(t, append([]string{"-L", "127.0.0.1:0:" + f.addr, "ws://" + path.Addr()}, args...)...)
	p := &pair{far: f, s: s, c: c, path: path, at: c.local(t, f.addr), args: args}
	p.talk(t, script{up: 1000, down: 1000}).endsWell(t)
	p.base = [2]int{s.descriptors(t), c.descriptors(t)}
	return p
}

// atRest checks that nothing is left of what ran: descriptors, then goroutines,
// which ends both processes.
func (p *pair) atRest(t *testing.T) {
	t.Helper()
	p.settle(t)
	// A session of whose client nothing came is kept for 30 s.
	mustSoon(t, 30*time.Second+slack, "the server has one session", func() bool {
		return p.s.count("session opened")-p.s.count("session closed")-p.s.count("session lost") <= 1
	})
	base := goroutinesAtRest(t, p.args)
	p.s.fewGoroutines(t, base[0])
	p.c.fewGoroutines(t, base[1])
}

// fewGoroutines ends a process and checks that it had about as many goroutines
// as are usual at rest.
func (p *process) fewGoroutines(t *testing.T, usual int) {
	t.Helper()
	n := p.goroutines(t)
	if n > 0 && n <= usual+10 {
		return
	}
	origins := map[string]int{}
	for line := range strings.Lines(p.output()) {
		if by, ok := strings.CutPrefix(line, "created by "); ok {
			by, _, _ = strings.Cut(strings.TrimSpace(by), " ")
			origins[by]++
		}
	}
	t.Errorf("%s: %d goroutines are left, %d are usual: %v", p.name, n, usual, origins)
}

// calm waits until nothing is on its way: the relay of a pair that says nothing
// has carried nothing for a while.
func (p *pair) calm(t *testing.T) {
	t.Helper()
	last, since := int64(-1), time.Now()
	mustSoon(t, patience, "nothing moves on the path", func() bool {
		if n := p.path.Bytes(impair.Both); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
}

// settle checks that the descriptors are those of before, or soon will be.
func (p *pair) settle(t *testing.T) {
	t.Helper()
	const spare = 4 // another carrier, an answer to a request
	now := func() [2]int { return [2]int{p.s.descriptors(t), p.c.descriptors(t)} }
	if _, ok := within(5*time.Second, func() bool {
		n := now()
		return (!p.own || n[0] <= p.base[0]+spare) && n[1] <= p.base[1]+spare
	}); !ok {
		t.Errorf("server and client have %v descriptors open, before it were %v", now(), p.base)
	}
}

var rest struct {
	sync.Mutex
	of map[string][2]int
}

// goroutinesAtRest is how many goroutines a server and its client, with those
// arguments, have when they have served one connection.
func goroutinesAtRest(t *testing.T, client []string) [2]int {
	t.Helper()
	rest.Lock()
	defer rest.Unlock()
	key := strings.Join(client, " ")
	if n, ok := rest.of[key]; ok {
		return n
	}
	p := startBadPair(t, nil, client)
	p.settle(t)
	n := [2]int{p.s.goroutines(t), p.c.goroutines(t)}
	if rest.of == nil {
		rest.of = map[string][2]int{}
	}
	rest.of[key] = n
	t.Logf("goroutines at rest: server %d, client %d", n[0], n[1])
	return n
}

// kill ends a process as a crash does.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.shot = true
	p.cmd.Process.Kill()
	p.exit(t)
}

// said gives the lines with all of the words that were printed so far.
func (p *process) said(words ...string) (found []string) {
	for line := range strings.Lines(p.output()) {
		if contains(line, words...) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func (p *process) count(words ...string) int { return len(p.said(words...)) }

// within waits until a condition holds, for d at most, and says how long it took.
func within(d time.Duration, holds func() bool) (took time.Duration, ok bool) {
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(start) > d {
			return d, holds()
		}
		<-tick.C
	}
	return time.Since(start), true
}

// mustSoon is within for what must hold by then.
func mustSoon(t testing.TB, d time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	took, ok := within(d, holds)
	if !ok {
		t.Fatalf("not so after %v: %s", d, what)
	}
	return took
}

// lasts lets time pass, for a fault that has a length, or less if the test ends.
func lasts(t testing.TB, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// percentiles is what of a figure is said.
func percentiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	slices.Sort(d)
	at := func(p int) time.Duration { return d[(len(d)-1)*p/100].Round(time.Millisecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", at(50), at(99), at(100), len(d))
}
