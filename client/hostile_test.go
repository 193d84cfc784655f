package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
	"wstun/internal/relay"
	"wstun/mux"
)

// A watched network counts what is dialled on it.
type watched struct {
	netx.Network
	dials atomic.Int64
}

func (w *watched) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.dials.Add(1)
	return w.Network.Dial(ctx, network, address)
}

func TestWhatTheServerAsksForIsRefusedAndNothingIsDialled(t *testing.T) {
	f := newFar(t)
	var w *watched
	newClient(t, f.url, func(c *Config) {
		w = &watched{Network: c.Network}
		c.Network = w
	}).start(t)
	s := <-f.sessions
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := s.Dial(ctx, "tcp", "127.0.0.1:22")
	var refusal *mux.RefusedError
	if !errors.As(err, &refusal) || refusal.Status != mux.Denied {
		t.Errorf("got %v", err)
	}
	var many sync.WaitGroup
	for _, to := range []struct{ network, address string }{
		{"tcp", "169.254.169.254:80"}, {"udp", "localhost:53"}, {"unix", "/run/docker.sock"}, {"service", "shell"},
	} {
		for range 50 {
			many.Go(func() {
				_, err := s.Dial(ctx, to.network, to.address)
				var refusal *mux.RefusedError
				if !errors.As(err, &refusal) || refusal.Status != mux.Denied && refusal.Status != mux.Limit {
					t.Errorf("%s: %v", to, err)
				}
			})
		}
	}
	many.Wait()
	if n := w.dials.Load(); n > 0 {
		t.Errorf("%d dials", n)
	}
}

func TestServerWhoseSessionsDieAtOnceIsNotStormed(t *testing.T) {
	f := newFar(t)
	newClient(t, f.url, nil).start(t)
	sessions := 0
	for over := time.After(time.Second); ; {
		select {
		case s := <-f.sessions:
			sessions++
			s.Dial(t.Context(), "tcp", "x:1") // it is answered by a client that is up
			s.cut()
			continue
		case <-over:
		}
		break
	}
	// Pauses of a quarter of a second that grow: four on average.
	if sessions < 1 || sessions > 20 {
		t.Errorf("%d sessions in a second", sessions)
	}
}

// A terminal is standard input and output, joined with a target in memory. It
// must run in a bubble.
type terminal struct {
	keyboard *io.PipeWriter
	screen   bytes.Buffer // to be read when it has ended
	target   *netxtest.Conn
	ended    chan error
}

func newTerminal() *terminal {
	term := &terminal{ended: make(chan error, 1)}
	in, keyboard := io.Pipe()
	term.keyboard = keyboard
	far, target := netxtest.Pipe()
	term.target = target
	go func() {
		var run relay.Relay
		term.ended <- run.Run(context.Background(), newStdio(in, writeCloser{&term.screen}), far)
	}()
	return term
}

// A program that reads on after it has said all there is to say, such as a
// shell's "exec >&-; cat > file".
func TestInputThatIsThereWhenTheFarEndEndsIsNotLost(t *testing.T) {
	for name, pause := range map[string]time.Duration{"at once": 0, "piece by piece": inputGrace - 100*time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				term := newTerminal()
				io.WriteString(term.target, "bye")
				netx.CloseWrite(term.target)
				synctest.Wait() // the end is known
				want := bytes.Repeat([]byte("input"), 50_000)
				go func() {
					for p := want; len(p) > 0; p = p[5_000:] {
						time.Sleep(pause)
						term.keyboard.Write(p[:5_000])
					}
					time.Sleep(pause)
					term.keyboard.Close()
				}()
				if got, err := io.ReadAll(term.target); !bytes.Equal(got, want) || err != nil {
					t.Errorf("the target got %d bytes of %d, %v", len(got), len(want), err)
				}
				if err := <-term.ended; err != nil || term.screen.String() != "bye" {
					t.Errorf("%q, %v", term.screen.String(), err)
				}
			})
		})
	}
}

// Nobody knows whether more would have come, so the target must not take what
// it got for everything.
func TestInputThatGoesOnLaterIsCutOffByAResetAndNotByAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		term := newTerminal()
		netx.CloseWrite(term.target)
		io.WriteString(term.keyboard, "the first half")
		io.ReadFull(term.target, make([]byte, 14))
		start := time.Now()
		if _, err := term.target.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the target sees %v", err)
		}
		if err := <-term.ended; !errors.Is(err, errInputLeft) {
			t.Errorf("the relay: %v", err)
		}
		if took := time.Since(start); took > 2*inputGrace {
			t.Errorf("after %v", took)
		}
		if _, err := io.WriteString(term.keyboard, "the second"); err == nil {
			t.Error("more is taken")
		}
	})
}

func TestProgramThatSaysNothingKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		term := newTerminal()
		io.WriteString(term.target, "logout")
		time.Sleep(24 * time.Hour) // nobody types, and that is fine
		select {
		case err := <-term.ended:
			t.Fatalf("ended: %v", err)
		default:
		}
		start := time.Now()
		netx.CloseWrite(term.target)
		<-term.ended
		if took := time.Since(start); took > 2*inputGrace || term.screen.String() != "logout" {
			t.Errorf("after %v: %q", took, term.screen.String())
		}
		term.keyboard.Close()
	})
}

func TestStdioSendsAllItsInputThoughTheFarEndHasEndedBefore(t *testing.T) {
	f := newFar(t)
	want := strings.Repeat("input", 500_000)
	out := runStdio(newClient(t, f.url, nil), strings.NewReader(want))
	st := (<-f.sessions).grant(t)
	netx.CloseWrite(st)
	if got, err := io.ReadAll(st); string(got) != want || err != nil {
		t.Errorf("the target got %d bytes of %d, %v", len(got), len(want), err)
	}
	st.Close()
	if got, err := out(); got != "" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// To the target's relay the loss of a session is a reset as well.
func TestStdioThatEndsBeforeItsInputResetsTheTarget(t *testing.T) {
	f := newFar(t)
	in, keyboard := io.Pipe()
	defer keyboard.Close()
	out := runStdio(newClient(t, f.url, nil), in)
	st := (<-f.sessions).grant(t)
	netx.CloseWrite(st)
	io.WriteString(keyboard, "the first half")
	got, err := io.ReadAll(st)
	if reset := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, mux.ErrLost); string(got) != "the first half" || !reset {
		t.Errorf("the target got %q, %v", got, err)
	}
	if _, err := out(); err != nil {
		t.Error(err)
	}
}
