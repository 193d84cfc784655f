package integration

import (
	"syscall"
	"testing"
	"time"

	"wstun/internal/impair"
)

// What happens to streams, and to the two processes, while there is no path.

// away ends the path of a pair; nothing gets through until back.
func (p *pair) away(t *testing.T) {
	t.Helper()
	p.path.Refuse(true)
	p.path.Cut(impair.Reset)
	p.c.await(t, "connection lost, resuming")
	p.s.await(t, "session detached")
}

func (p *pair) back() { p.path.Refuse(false) }

// TestFaultEndsWhileAway: what an end of a stream does while there is no path
// the other end learns when there is one again: an end in order, with all that
// was said before; or a reset.
func TestFaultEndsWhileAway(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			p := startBadPair(t, nil, mode.args)
			ended, never := make(chan struct{}), make(chan struct{})
			defer close(never)
			inOrder := p.talk(t, script{pace: 5 * time.Millisecond, over: ended})
			userGoes := p.talk(t, script{pace: time.Hour, over: never})
			targetGoes := p.talk(t, script{pace: time.Hour, over: never})
			inOrder.flows(t)
			userGoes.begins(t)
			targetGoes.begins(t)
			p.away(t)
			given := inOrder.up.given.Load()
			mustSoon(t, patience, "the user says more", func() bool { return inOrder.up.given.Load() > given })
			close(ended)
			reset(userGoes.user)
			reset(targetGoes.far)
			p.back()
			inOrder.endsWell(t)
			userGoes.isReset(t, true, false, patience)
			targetGoes.isReset(t, false, true, patience)
			p.talk(t, script{up: 1000, down: 1000}).endsWell(t)
			p.atRest(t)
		})
	}
}

// TestFaultStopWhileAway: a client and a server that are told to stop while
// there is no path do not wait for it longer than for anything else.
func TestFaultStopWhileAway(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		talks bool
		limit time.Duration
	}{{"without streams", false, 5 * time.Second}, {"with a stream", true, 10 * time.Second}} {
		for who, of := range map[string]func(*pair) *process{
			"client": func(p *pair) *process { return p.c.process },
			"server": func(p *pair) *process { return p.s.process },
		} {
			t.Run(who+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				drain := []string{"--drain-timeout", "2s"}
				p := startBadPair(t, drain, drain)
				over := make(chan struct{})
				defer close(over)
				if tt.talks {
					tk := p.talk(t, script{pace: time.Hour, over: over})
					tk.begins(t)
					defer tk.isReset(t, who == "server", who == "client", patience)
				}
				p.away(t)
				start := time.Now()
				of(p).cmd.Process.Signal(syscall.SIGTERM)
				code := of(p).exit(t)
				if d := time.Since(start); code != 0 || d > tt.limit {
					t.Errorf("exit code %d after %v", code, d)
				} else {
					t.Logf("exit after %v", d.Round(time.Millisecond))
				}
			})
		}
	}
}
