package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wstun/internal/line"
	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
	"wstun/internal/wsconn"
	"wstun/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A far is a wstun server as far as a client can tell. Its sessions are handed
// to the test, which answers what is asked of them.
type far struct {
	url      *url.URL
	sessions chan *farSession

	mu     sync.Mutex
	answer int // of HTTP, in place of a session; 0: a session
	body   string
}

type farSession struct {
	*mux.Session
	line *line.Conn
	cuts chan struct{}
}

// cut has the TCP conn reset.
func (s *farSession) cut() { close(s.cuts) }

func newFar(t testing.TB) *far {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return farOn(t, ln)
}

func farOn(t testing.TB, ln net.Listener) *far {
	f := &far{sessions: make(chan *farSession, 16)}
	lines := line.NewServer("far/1", line.Limits{}, line.Config{})
	var running sync.WaitGroup
	ts := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		answer, text := f.answer, f.body
		f.mu.Unlock()
		if answer != 0 {
			w.Header().Set("Retry-After", "1")
			http.Error(w, text, answer)
			return
		}
		ws, err := wsconn.Accept(w, r, "wstun.v1")
		if err != nil {
			return
		}
		running.Go(func() {
			defer ws.Wait()
			l, err := lines.Accept(context.Background(), ws, "alice")
			if err != nil {
				return
			}
			defer l.Wait()
			s, err := mux.Server(l, mux.Config{})
			if err != nil {
				return
			}
			defer s.Close()
			far := &farSession{s, l, make(chan struct{})}
			f.sessions <- far
			select {
			case <-s.Done():
			case <-far.cuts:
				ws.Abort(nil)
			}
		})
	})}}
	ts.Start()
	f.url, _ = url.Parse(strings.Replace(ts.URL, "http", "ws", 1))
	t.Cleanup(func() { ts.Close(); running.Wait() })
	return f
}

// say makes every further handshake end with this answer; 0: with a session.
func (f *far) say(status int, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer, f.body = status, text
}

// grant accepts one stream.
func (s *farSession) grant(t testing.TB) *mux.Stream {
	t.Helper()
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st, err := r.Grant("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Abort(nil) })
	return st
}

// A running is a client that runs, with the network that its forward is on.
type running struct {
	*Client
	local netxtest.Network
	log   logBuffer
	done  chan error
}

type logBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until the log has s.
func (l *logBuffer) await(t testing.TB, s string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		if strings.Contains(l.b.String(), s) {
			l.mu.Unlock()
			return
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %q in the log:\n%s", s, l)
		}
	}
}

const local = "127.0.0.1:5900"

// newClient returns a client with one forward, from local to vnc:5900.
func newClient(t testing.TB, u *url.URL, change func(*Config)) *running {
	t.Helper()
	r := &running{done: make(chan error, 1)}
	fs, err := ParseForward(local + ":vnc:5900")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{URL: u, Network: &r.local, Forwards: fs, Agent: "wstun/test", Log: slog.New(slog.NewTextHandler(&r.log, nil))}
	if change != nil {
		change(&cfg)
	}
	r.Client = New(cfg)
	return r
}

// start runs r until the test ends.
func (r *running) start(t testing.TB) *running {
	t.Helper()
	go func() { r.done <- r.Run() }()
	r.log.await(t, "forwarding")
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.Shutdown(ctx)
		select {
		case <-r.done:
		case <-time.After(20 * time.Second):
			t.Errorf("Run does not return")
		}
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

func (r *running) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := r.local.Dial(t.Context(), "tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func isReset(t testing.TB, c net.Conn, who string) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, net.ErrClosed) {
		t.Errorf("%s: no reset but %v", who, err)
	}
}

var _ netx.Network = (*netxtest.Network)(nil)
