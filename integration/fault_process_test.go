package integration

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"wstun/internal/impair"
)

// A server stops, in order or not; a client is killed, or held for a while.

// TestFaultServerDrains (F07): a server that is told to stop lets its streams
// end, while another serves the new ones; then it goes by itself.
func TestFaultServerDrains(t *testing.T) {
	t.Parallel()
	p := startBadPair(t, nil, nil)
	second := startServer(t, "--allow", p.far.addr)
	over := make(chan struct{})
	var talks []*talk
	for range full(100, 30) {
		talks = append(talks, p.talk(t, script{pace: 50 * time.Millisecond, over: over}))
	}
	for _, tk := range talks {
		tk.flows(t)
	}
	p.path.Retarget(second.addr)
	p.s.cmd.Process.Signal(syscall.SIGTERM)
	p.s.await(t, "stopping")
	p.c.await(t, "the server is about to stop")

	until := time.After(full(20*time.Second, 4*time.Second))
	served := 0
	for running := true; running; {
		p.talk(t, script{up: 10_000, down: 10_000}).endsWell(t)
		served++
		select {
		case <-until:
			running = false
		case <-p.s.done:
			t.Fatal("the server has stopped with streams that run")
		case <-time.After(100 * time.Millisecond):
		}
	}
	if n := second.count("relay ended"); n != served {
		t.Errorf("%d new connections, %d at the second server", served, n)
	}
	close(over)
	for _, tk := range talks {
		tk.endsWell(t)
	}
	ended := time.Now()
	if code := p.s.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if d := time.Since(ended); d > slack {
		t.Errorf("the server has stopped only %v after its last stream", d)
	} else {
		t.Logf("%d streams ended, %d were served elsewhere; exit %v after the last", len(talks), served, d.Round(time.Millisecond))
	}
	if p.s.count("stopped before everything had ended") > 0 || p.c.count("connection lost") > 0 {
		t.Error("something was cut off")
	}
}

// TestFaultDrainIsTooShort (F08): streams that do not end within the drain are
// reset, which is not an end.
func TestFaultDrainIsTooShort(t *testing.T) {
	t.Parallel()
	const drain = 2 * time.Second
	p := startBadPair(t, []string{"--drain-timeout", drain.String()}, nil)
	over := make(chan struct{})
	defer close(over)
	var talks []*talk
	for i := range full(100, 30) {
		pace := 20 * time.Millisecond
		if i%2 == 0 {
			pace = time.Hour
		}
		talks = append(talks, p.talk(t, script{pace: pace, over: over}))
	}
	for _, tk := range talks {
		tk.begins(t)
	}
	p.s.cmd.Process.Signal(syscall.SIGTERM)
	start := time.Now()
	code := p.s.exit(t)
	took := time.Since(start)
	if code != 0 || took > drain+6*time.Second || took < drain {
		t.Errorf("exit code %d after %v", code, took)
	}
	t.Logf("exit after %v", took.Round(time.Millisecond))
	p.s.await(t, "stopped before everything had ended")
	for _, tk := range talks {
		tk.isReset(t, true, true, patience)
	}
	if n := p.s.count("relay ended", "about to stop"); n < len(talks) {
		t.Errorf("%d relays of %d ended with that reason in the log", n, len(talks))
	}
}

// TestFaultServerKilled (F09): the server is killed and another is there at the
// same address. Nothing of the sessions is left; everybody learns it soon.
func TestFaultServerKilled(t *testing.T) {
	t.Parallel()
	clients := full(50, 10)
	f := newFar(t)
	s := startServer(t, "--allow", f.addr)
	over := make(chan struct{})
	defer close(over)
	var (
		pairs []*pair
		talks []*talk
	)
	for range clients {
		p := connectBadly(t, f, s)
		pairs = append(pairs, p)
		talks = append(talks, p.talk(t, script{pace: 100 * time.Millisecond, over: over}))
	}
	for i, p := range pairs {
		talks[i].flows(t)
		p.path.Refuse(true)
	}
	s.kill(t)
	for _, p := range pairs {
		p.c.await(t, "connection lost, resuming")
	}
	again := startServer(t, "--allow", f.addr)
	start := time.Now()
	for _, p := range pairs {
		p.path.Retarget(again.addr)
		p.path.Refuse(false)
	}
	var (
		wg            sync.WaitGroup
		mu            sync.Mutex
		resets, backs []time.Duration
	)
	for i, p := range pairs {
		wg.Go(func() {
			select {
			case <-talks[i].down.ended:
			case <-time.After(patience):
				return
			}
			reset := time.Since(start)
			back, ok := within(patience, func() bool { return p.c.count(" connected ") > 1 })
			if mu.Lock(); ok {
				resets, backs = append(resets, reset), append(backs, reset+back)
			}
			mu.Unlock()
		})
	}
	wg.Wait()
	t.Logf("local connections were reset after %s; clients were connected again after %s", percentiles(resets), percentiles(backs))
	if len(backs) < clients || backs[len(backs)-1] > 15*time.Second {
		t.Errorf("%d clients of %d are back", len(backs), clients)
	}
	for i, p := range pairs {
		talks[i].isReset(t, false, true, patience) // the target has an end from the kernel of a process that is killed
		p.talk(t, script{up: 1000, down: 1000}).endsWell(t)
	}
}

// TestFaultClientKilled (F10): the server keeps the session of a client that
// is gone for as long as it says, then its targets are reset.
func TestFaultClientKilled(t *testing.T) {
	t.Parallel()
	const window = 2 * time.Second
	p := startBadPair(t, []string{"--resume-window", window.String()}, nil)
	over := make(chan struct{})
	defer close(over)
	var talks []*talk
	for i := range 20 {
		talks = append(talks, p.talk(t, script{pace: time.Duration(1+i*i*i) * 10 * time.Millisecond, over: over}))
	}
	for _, tk := range talks {
		tk.begins(t)
	}
	p.c.kill(t)
	start := time.Now()
	for _, tk := range talks {
		tk.isReset(t, true, false, patience)
	}
	took := time.Since(start)
	t.Logf("the targets were reset after %v", took.Round(time.Millisecond))
	if took < window-slack || took > window+5*time.Second {
		t.Errorf("the targets were reset after %v, want %v", took, window)
	}
	p.s.await(t, "session lost")
	mustSoon(t, 5*time.Second, fmt.Sprintf("the server has its %d descriptors again", p.base[0]), func() bool {
		return p.s.descriptors(t) <= p.base[0]
	})
	p.s.fewGoroutines(t, goroutinesAtRest(t, nil)[0])
}

// TestFaultClientSuspended (F24): a machine that sleeps longer than the server
// waits for it, and wakes up.
func TestFaultClientSuspended(t *testing.T) {
	t.Parallel()
	for name, pace := range map[string]time.Duration{"busy": 20 * time.Millisecond, "idle": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startBadPair(t, nil, nil)
			over := make(chan struct{})
			tk := p.talk(t, script{pace: pace, over: over})
			if tk.begins(t); pace > time.Second {
				p.calm(t)
			} else {
				tk.flows(t)
			}
			p.c.cmd.Process.Signal(syscall.SIGSTOP)
			start := time.Now()
			p.s.await(t, "session detached")
			noticed := time.Since(start)
			lasts(t, full(120*time.Second, noticed+2*time.Second)-noticed)
			p.c.cmd.Process.Signal(syscall.SIGCONT)
			woken := time.Now()
			fresh := p.talk(t, script{up: 1000, down: 1000})
			fresh.endsWellIn(t, goesOn)
			if pace < time.Second {
				tk.goesOn(t, goesOn)
			}
			t.Logf("the server noticed after %v; all goes on %v after SIGCONT", noticed.Round(time.Millisecond), time.Since(woken).Round(time.Millisecond))
			close(over)
			tk.endsWell(t)
			p.c.await(t, "resumed after", "nothing lost")
			p.atRest(t)
		})
	}
}

// TestFaultSharedPath: what one client suffers another on the same server does
// not notice.
func TestFaultSharedPath(t *testing.T) {
	t.Parallel()
	f := newFar(t)
	s := startServer(t, "--allow", f.addr)
	bad, good := connectBadly(t, f, s), connectBadly(t, f, s)
	over := make(chan struct{})
	hurt, well := bad.talk(t, script{pace: 5 * time.Millisecond, over: over}), good.talk(t, script{pace: 5 * time.Millisecond, over: over})
	for range full(100, 20) {
		well.goesOn(t, goesOn)
		bad.path.Cut(impair.Reset)
		hurt.goesOn(t, patience)
	}
	close(over)
	hurt.endsWell(t)
	well.endsWell(t)
	if good.c.count("connection lost") > 0 {
		t.Error("the good one was disturbed")
	}
}
