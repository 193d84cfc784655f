package integration

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"wstun/internal/impair"
)

// The path is cut: once, at any byte; again and again; or as a matter of course.

var resumedPattern = regexp.MustCompile(`resumed after ([0-9.a-zµ]+), nothing lost`)

// resumedAfter is how long a client was without a connection, each time.
func (c *client) resumedAfter(t testing.TB) (all []time.Duration) {
	t.Helper()
	for _, m := range resumedPattern.FindAllStringSubmatch(c.output(), -1) {
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// Endings that the client is told of, and those that it has to find out itself,
// which takes it 8 s.
var (
	toldEndings = []impair.Ending{impair.Reset, impair.ResetClient, impair.FIN, impair.FINClient}
	deafEndings = []impair.Ending{impair.Silence, impair.ResetServer, impair.FINServer}
)

// TestFaultCutAtAnyByte (F01): small exchanges on connections that are cut at
// random bytes, in the handshake or behind it, in every way.
func TestFaultCutAtAnyByte(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			workers, cuts := full(25, 10), full(40, 10)
			if mode.args != nil {
				cuts /= 5
			}
			f := newFar(t)
			s := startServer(t, "--allow", f.addr)
			var (
				mu      sync.Mutex
				resumed []time.Duration
				took    []time.Duration
			)
			t.Run("cuts", func(t *testing.T) {
				for i := range workers {
					t.Run(fmt.Sprint(i), func(t *testing.T) {
						t.Parallel()
						p := connectBadly(t, f, s, mode.args...)
						for n := range cuts {
							d := p.cutOnce(t, (n+i)%cuts == 0)
							mu.Lock()
							took = append(took, d)
							mu.Unlock()
						}
						mu.Lock()
						resumed = append(resumed, p.c.resumedAfter(t)...)
						mu.Unlock()
					})
				}
			})
			t.Logf("an exchange across a cut took %s; resumed after %s", percentiles(took), percentiles(resumed))
		})
	}
}

// cutOnce makes an exchange that moves to another connection, which is cut.
func (p *pair) cutOnce(t *testing.T, deaf bool) time.Duration {
	t.Helper()
	const size = 32 << 10
	how := toldEndings[rand.IntN(len(toldEndings))]
	if deaf {
		how = deafEndings[rand.IntN(len(deafEndings))]
	}
	dir := []impair.Direction{impair.ToServer, impair.ToClient, impair.Both}[rand.IntN(3)]
	at := rand.Int64N(2000) // the handshake and a little more
	if rand.IntN(2) == 0 {
		at = rand.Int64N(size)
	}
	what := fmt.Sprintf("cut %v at byte %d, direction %v", how, at, dir)
	before := p.path.Cuts()
	p.path.CutAt(dir, at, how)
	start := time.Now()
	tk := p.talk(t, script{up: size, down: size})
	p.path.Cut(impair.Reset)
	if err := tk.complete(2 * patience); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	took := time.Since(start)
	if p.args != nil {
		return took // the cut may be that of a connection made for a later stream
	}
	p.path.Await("the cut of this exchange, "+what, func() bool { return p.path.Cuts() >= before+2 })
	return took
}

// TestFaultFirstConnectionIsCut: a client whose first connection breaks, at
// whatever byte, is no client that was refused.
func TestFaultFirstConnectionIsCut(t *testing.T) {
	t.Parallel()
	f := newFar(t)
	s := startServer(t, "--allow", f.addr)
	for i := range full(300, 12) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			path := impair.Listen(t, s.addr)
			how, at := toldEndings[rand.IntN(len(toldEndings))], rand.Int64N(700)
			path.CutAt(impair.ToClient, at, how)
			c := launchClient(t, "-L", "127.0.0.1:0:"+f.addr, "ws://"+path.Addr())
			tk, err := f.talk(c.local(t, f.addr), script{up: 10_000, down: 10_000})
			if err != nil {
				t.Fatal(err)
			}
			if err := tk.complete(patience); err != nil {
				t.Errorf("cut %v at byte %d: %v", how, at, err)
			}
		})
	}
}

// Modes are the two ways of a client to use WebSockets.
var modes = []struct {
	name string
	args []string
}{{"mux", nil}, {"no-mux", []string{"--no-mux"}}}

// TestFaultCutsAllTheTime (F02): no connection lives longer than 17 ms, and all
// bytes of four streams arrive, both ways at once.
func TestFaultCutsAllTheTime(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			size := full[int64](96, 8) << 20
			if mode.args != nil {
				size /= 4
			}
			p := startBadPair(t, nil, mode.args)
			p.path.CutEvery(3*time.Millisecond, 17*time.Millisecond, impair.Reset)
			start := time.Now()
			var talks []*talk
			for range 4 {
				talks = append(talks, p.talk(t, script{up: size, down: size}))
			}
			// One direction of these has ended long before the other.
			talks = append(talks, p.talk(t, script{up: size}), p.talk(t, script{down: size}))
			for _, tk := range talks {
				tk.endsWellIn(t, full(30*time.Minute, 2*time.Minute))
			}
			took := time.Since(start)
			p.path.CutEvery(0, 0, impair.Reset)
			t.Logf("4 × %d MiB each way, and one each, in %v, %d cuts of %d connections; resumed after %s", size>>20, took.Round(time.Millisecond),
				p.path.Cuts(), p.path.Conns(), percentiles(p.c.resumedAfter(t)))
			p.talk(t, script{up: 1000, down: 1000}).endsWell(t)
			p.atRest(t)
		})
	}
}

// TestFaultCarriersAreReplaced: with --carrier-max-age 1s a transfer goes over
// many connections, and nobody says that one was lost.
func TestFaultCarriersAreReplaced(t *testing.T) {
	t.Parallel()
	p := startBadPair(t, nil, []string{"--carrier-max-age", "1s"})
	over := make(chan struct{})
	tk := p.talk(t, script{pace: time.Millisecond, over: over})
	n := full(60, 6)
	mustSoon(t, time.Duration(2*n)*time.Second+patience, fmt.Sprintf("%d other connections", n), func() bool {
		return p.c.count("moved to a new connection") >= n
	})
	close(over)
	tk.endsWell(t)
	if strings.Contains(p.c.output(), "connection lost") || p.s.count("session detached") > 0 {
		t.Error("a connection was lost")
	}
	t.Logf("%v over %d connections", tk, p.path.Conns())
	p.atRest(t)
}
