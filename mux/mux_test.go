package mux

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"wstun/internal/netx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpLine is a Line for tests: a TCP conn.
type tcpLine struct{ net.Conn }

func (l tcpLine) WriteJoined(head, body []byte) (int, error) {
	return l.Write(append(append([]byte(nil), head...), body...))
}

func (l tcpLine) Close() error { return netx.Abort(l.Conn, nil) }

func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func sessions(t testing.TB, cfg Config) (client, server *Session) {
	t.Helper()
	a, b := tcpPair(t)
	server, err := Server(tcpLine{b}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	client, err = Client(tcpLine{a}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// pair makes both ends of a session.
type pair func(t testing.TB, cfg Config) (client, server *Session)

// ofEitherKind runs a test on sessions with yamux and on those of one stream.
func ofEitherKind(t *testing.T, test func(t *testing.T, sessions pair)) {
	t.Run("yamux", func(t *testing.T) { test(t, sessions) })
	t.Run("single", func(t *testing.T) { test(t, singles) })
}

// cut breaks what a session runs on.
func cut(s *Session) {
	switch l := s.line.(type) {
	case tcpLine:
		l.Close()
	case *carried:
		l.carrier.Close()
	}
}

// streams opens one stream and returns both of its ends.
func streams(t testing.TB, client, server *Session) (c, s *Stream) {
	t.Helper()
	got := make(chan *Stream, 1)
	go func() {
		r, err := server.Accept(context.Background())
		if err != nil {
			t.Error(err)
			got <- nil
			return
		}
		st, err := r.Grant("")
		if err != nil {
			t.Error(err)
		}
		got <- st
	}()
	conn, err := client.Dial(t.Context(), "tcp", "db:5432")
	if err != nil {
		t.Fatal(err)
	}
	if s = <-got; s == nil {
		t.FailNow()
	}
	t.Cleanup(func() { conn.Close(); s.Close() })
	return conn.(*Stream), s
}

func TestStreamIsANetConn(t *testing.T) {
	client, server := sessions(t, Config{})
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		c, s := streams(t, client, server)
		return c, s, func() { c.Close(); s.Close() }, nil
	})
}

func TestStreamWithoutYamuxIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		client, server := singles(t, Config{})
		c, s := streams(t, client, server)
		return c, s, func() { client.Close(); server.Close() }, nil
	})
}

func TestRequestSaysWhatIsAskedFor(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		for _, tt := range []struct{ network, address string }{
			{"tcp", "db.lab:5432"}, {"tcp", "[fd00::1]:22"}, {"udp", "dns:53"}, {"unix", "/run/app.sock"}, {"service", "lab7"},
		} {
			client, server := sessions(t, Config{})
			go func() {
				c, err := client.Dial(context.Background(), tt.network, tt.address)
				if err == nil {
					c.Close()
				}
			}()
			r, err := server.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.Network != tt.network || r.Address != tt.address {
				t.Errorf("got %s %s, want %v", r.Network, r.Address, tt)
			}
			st, err := r.Grant("")
			if err != nil {
				t.Fatal(err)
			}
			st.Close()
		}
	})
}

func TestRefusalTellsNoMoreThanItMay(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		for _, tt := range []struct {
			name string
			err  error
			is   error
			text string
		}{
			{"rules", errors.Join(errors.New("rule 7 says no"), netx.ErrDenied), netx.ErrDenied, "not allowed"},
			{"nobody listens", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, syscall.ECONNREFUSED, "connection refused"},
			{"no such name", &net.DNSError{Err: "no such host", Name: "secret.internal", Server: "10.0.0.2:53", IsNotFound: true}, nil, "no such host"},
			{"unreachable", syscall.EHOSTUNREACH, syscall.EHOSTUNREACH, "host or network unreachable"},
			{"too late", context.DeadlineExceeded, syscall.ETIMEDOUT, "timed out"},
			{"draining", netx.ErrDraining, netx.ErrDraining, "the server is about to stop"},
			{"anything else", errors.New("open /etc/shadow: permission denied"), nil, "failed"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				client, server := sessions(t, Config{})
				go func() {
					if r, err := server.Accept(context.Background()); err == nil {
						r.Refuse(tt.err)
					}
				}()
				_, err := client.Dial(t.Context(), "tcp", "x:1")
				var refusal *RefusedError
				if !errors.As(err, &refusal) || refusal.Text != tt.text || tt.is != nil && !errors.Is(err, tt.is) {
					t.Errorf("got %v", err)
				}
				waitEmpty(t, client, server)
			})
		}
	})
}

func TestEarlyBytesArriveBehindTheOpen(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		st, err := client.DialEarly(t.Context(), "tcp", "x:1")
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		want := bytes.Repeat([]byte("early"), 10_000)
		if _, err := st.Write(want); err != nil {
			t.Fatal(err)
		}
		r, err := server.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Grant("")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
			t.Error(err)
		}
	})
}

// The answer is there, and is no record.
func TestOpenerThatClosesWithoutReadingTheAnswerIsSettled(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		c, err := client.DialEarly(t.Context(), "tcp", "x:1")
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("all of it"))
		c.Close()
		r, err := server.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Grant("")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s); string(got) != "all of it" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		s.CloseWrite()
		s.Close()
		if err := c.Settled(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Settled(t.Context()); err != nil {
			t.Error(err)
		}
		waitEmpty(t, client, server)
	})
}

func TestOpenerHoldsMoreThanTheEarlyBytesBack(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		st, err := client.DialEarly(t.Context(), "tcp", "x:1")
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		r, err := server.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := st.Write(make([]byte, 200_000))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n > maxEarly {
			t.Errorf("%d bytes went out before the answer: %v", n, err)
		}
		r.Refuse(netx.ErrDenied)
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, netx.ErrDenied) {
			t.Errorf("read: %v", err)
		}
		if _, err := st.Write([]byte{1}); !errors.Is(err, netx.ErrDenied) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestEndOfOneDirectionLeavesTheOther(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		c, s := streams(t, client, server)
		c.Write([]byte("request"))
		c.CloseWrite()
		if got, err := io.ReadAll(s); string(got) != "request" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		want := make([]byte, 3<<20)
		rand.Read(want)
		go func() { s.Write(want); s.CloseWrite() }()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		c.Close()
		s.Close()
		if err := c.Settled(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestResetIsNoEnd(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		c, s := streams(t, client, server)
		s.Write([]byte("half an ans"))
		s.Abort(syscall.ECONNRESET)
		got, err := io.ReadAll(c)
		if string(got) != "half an ans" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
		c.Close()
		waitEmpty(t, client, server)
	})
}

// The peer does not read, so the window is full and no RST record fits behind
// what waits there.
func TestResetOvertakesAFullWindow(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		c, s := streams(t, client, server)
		io.WriteString(c, "a little")
		io.ReadFull(s, make([]byte, 8))
		fill(t, c)
		c.Abort(nil)
		if err := broken(t, s); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		s.Abort(s.Broken())
		waitEmpty(t, client, server)
	})
}

func waitEmpty(t *testing.T, ss ...*Session) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for _, s := range ss {
		for s.NumStreams() > 0 {
			select {
			case <-deadline:
				t.Fatalf("%d streams are left", s.NumStreams())
			case <-time.After(time.Millisecond):
			}
		}
	}
}

func TestLostSessionIsNoEnd(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		c, s := streams(t, client, server)
		s.Write([]byte("first half, "))
		io.ReadFull(c, make([]byte, 12))
		cut(server)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, ErrLost) {
			t.Errorf("write: %v", err)
		}
		if c.Broken() == nil {
			t.Error("not broken")
		}
		if _, err := client.Dial(t.Context(), "tcp", "x:1"); !errors.Is(err, ErrLost) {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestPeerThatWritesToAClosedStreamIsReset(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		c, s := streams(t, client, server)
		c.Close()
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %v", err)
		}
		var err error
		for range 1 << 20 {
			if _, err = s.Write([]byte("is anybody there?")); err != nil {
				break
			}
		}
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v", err)
		}
		s.Close()
		waitEmpty(t, client, server)
	})
}

func TestTooManyStreamsAreRefusedAndTheRestGoesOn(t *testing.T) {
	client, server := sessions(t, Config{MaxStreams: 3})
	c, s := streams(t, client, server)
	streams(t, client, server)
	streams(t, client, server)
	if _, err := client.Dial(t.Context(), "tcp", "x:1"); !errors.Is(err, netx.ErrLimit) {
		t.Errorf("got %v", err)
	}
	c.Write([]byte("x"))
	if _, err := s.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			r, err := server.Accept(context.Background())
			cancel() // the answer never comes
			if err == nil {
				defer r.Refuse(netx.ErrLimit)
			}
		}()
		if _, err := client.Dial(ctx, "tcp", "x:1"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		waitEmpty(t, client)
	})
}

func TestManyStreamsBothWays(t *testing.T) {
	client, server := sessions(t, Config{})
	var wg sync.WaitGroup
	for _, ends := range [][2]*Session{{client, server}, {server, client}} {
		for range 50 {
			wg.Go(func() {
				c, err := ends[0].DialEarly(context.Background(), "tcp", "x:1")
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				want := make([]byte, 200_000)
				rand.Read(want)
				go func() { c.Write(want); c.CloseWrite() }()
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
			wg.Go(func() {
				r, err := ends[1].Accept(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				s, err := r.Grant("")
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				io.Copy(struct{ io.Writer }{s}, s)
				s.CloseWrite()
			})
		}
	}
	wg.Wait()
	waitEmpty(t, client, server)
}
