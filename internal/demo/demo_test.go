package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"wstun/internal/netx/netxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chat runs f with a chat in a bubble, and ends it.
func chat(t *testing.T, f func(t *testing.T, dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		var n netxtest.Network
		ln, err := n.Listen(t.Context(), "tcp", "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		var c Chat
		go func() { done <- c.Serve(ctx, ln) }()
		f(t, func() net.Conn {
			conn, err := n.Dial(ctx, "tcp", "127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			return conn
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

type talker struct {
	net.Conn
	r *bufio.Reader
}

func enter(t *testing.T, c net.Conn) *talker {
	m := &talker{c, bufio.NewReader(c)}
	if l := m.hear(t); !strings.HasPrefix(l, "welcome to the wstun demo chat: you are guest-") {
		t.Errorf("welcomed with %q", l)
	}
	return m
}

func (m *talker) hear(t *testing.T) string {
	t.Helper()
	m.SetReadDeadline(time.Now().Add(time.Minute))
	l, err := m.r.ReadString('\n')
	if err != nil {
		t.Errorf("after %q: %v", l, err)
	}
	return strings.TrimSuffix(l, "\n")
}

func TestWhatOneSaysAllSee(t *testing.T) {
	chat(t, func(t *testing.T, dial func() net.Conn) {
		a := enter(t, dial())
		b := enter(t, dial())
		if l := a.hear(t); l != "guest-2 has come" {
			t.Errorf("%q", l)
		}
		io.WriteString(a, "hello\r\n")
		for _, m := range []*talker{a, b} {
			if l := m.hear(t); l != "guest-1: hello" {
				t.Errorf("%q", l)
			}
		}
		b.Close()
		if l := a.hear(t); l != "guest-2 has gone" {
			t.Errorf("%q", l)
		}
	})
}

func TestNobodyWritesOnTheTerminalsOfTheOthers(t *testing.T) {
	chat(t, func(t *testing.T, dial func() net.Conn) {
		a := enter(t, dial())
		io.WriteString(a, "\x1b[2Jr\xc2\x9bed\x00\xff \u00e9\x7f!\n\x07\n\nlast\n")
		if l := a.hear(t); l != "guest-1: [2Jred é!" {
			t.Errorf("%q", l)
		}
		if l := a.hear(t); l != "guest-1: last" { // empty lines are not passed on
			t.Errorf("%q", l)
		}
	})
}

func TestEndlessLineEndsItsMember(t *testing.T) {
	chat(t, func(t *testing.T, dial func() net.Conn) {
		a := enter(t, dial())
		go a.Write([]byte(strings.Repeat("x", 100<<10)))
		if got, err := io.ReadAll(a.r); len(got) > 0 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		a.Close()
	})
}

func TestMemberThatDoesNotReadHoldsTheOthersUpNoLongerThanItsTimeout(t *testing.T) {
	chat(t, func(t *testing.T, dial func() net.Conn) {
		a := enter(t, dial())
		dial() // never reads
		if l := a.hear(t); l != "guest-2 has come" {
			t.Errorf("%q", l)
		}
		start := time.Now()
		go func() {
			for range 100 {
				fmt.Fprintln(a, strings.Repeat("x", 2<<10))
			}
		}()
		heard := 0
		for heard < 100 {
			if strings.HasPrefix(a.hear(t), "guest-1: ") {
				heard++
			}
		}
		if took := time.Since(start); took > slowTimeout+time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestCheckMeasuresTwoMembers(t *testing.T) {
	chat(t, func(t *testing.T, dial func() net.Conn) {
		a, b := dial(), dial()
		if _, err := Check(a, b, 1<<20); err != nil {
			t.Error(err)
		}
		a.Close()
		b.Close()
	})
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	for _, tt := range []struct{ name, says, want string }{
		{"another service", "SSH-2.0-x\r\n", "no welcome"},
		{"nothing", "", "no welcome"},
		{"another line", "welcome\nguest-1: 000000 something else\n", "line 0 arrived as"},
		{"an early end", "welcome\n", "after line 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ends [2]net.Conn
				for i := range ends {
					near, far := netxtest.Pipe()
					ends[i] = near
					go io.Copy(io.Discard, struct{ io.Reader }{far})
					io.WriteString(far, tt.says)
					far.CloseWrite()
				}
				if _, err := Check(ends[0], ends[1], 10<<10); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v", err)
				}
				ends[0].Close()
				ends[1].Close()
			})
		})
	}
}

func TestCheckGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, fa := netxtest.Pipe()
		b, fb := netxtest.Pipe()
		io.WriteString(fa, "welcome\n")
		io.WriteString(fb, "welcome\n")
		start := time.Now()
		if _, err := Check(a, b, 1<<20); err == nil || time.Since(start) > time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		a.Close()
		b.Close()
	})
}

func TestPageIsThere(t *testing.T) {
	if !strings.Contains(string(Page), "<html") && !strings.Contains(string(Page), "<!doctype") {
		t.Errorf("%.100q", Page)
	}
}
