package client

import (
	"context"
	"errors"
	"io"
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
	"wstun/internal/logtest"
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

	window  time.Duration
	running sync.WaitGroup

	mu       sync.Mutex
	answer   int // of HTTP, in place of a session; 0: a session
	body     string
	lines    *line.Server
	lived    []*farSession
	carriers []*wsconn.Conn
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
	return newFarThatKeeps(t, 0)
}

// newFarThatKeeps is newFar with sessions that can be resumed for so long.
func newFarThatKeeps(t testing.TB, window time.Duration) *far {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return farOn(t, ln, window)
}

func farOn(t testing.TB, ln net.Listener, window time.Duration) *far {
	f := &far{sessions: make(chan *farSession, 16), window: window}
	f.restart()
	ts := &httptest.Server{Listener: ln, Config: &http.Server{Handler: f}}
	ts.Start()
	f.url, _ = url.Parse(strings.Replace(ts.URL, "http", "ws", 1))
	t.Cleanup(func() { ts.Close(); f.restart(); f.running.Wait() })
	return f
}

func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	answer, text, lines := f.answer, f.body, f.lines
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
	f.mu.Lock()
	f.carriers = append(f.carriers, ws)
	f.mu.Unlock()
	f.running.Go(func() { f.serve(lines, ws) })
}

func (f *far) serve(lines *line.Server, ws *wsconn.Conn) {
	l, resumed, err := lines.Accept(context.Background(), ws, "alice")
	if err != nil || resumed {
		return
	}
	defer l.Wait()
	s, err := mux.Server(l, mux.Config{Single: l.Session().Single})
	if err != nil {
		return
	}
	defer s.Close()
	far := &farSession{s, l, make(chan struct{})}
	f.mu.Lock()
	f.lived = append(f.lived, far)
	f.mu.Unlock()
	f.sessions <- far
	select {
	case <-s.Done():
	case <-far.cuts:
		ws.Abort(nil)
	}
}

// cut resets every TCP conn there is, and leaves the sessions alone.
func (f *far) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ws := range f.carriers {
		ws.Abort(nil)
	}
	f.carriers = nil
}

// restart forgets all sessions, as a new process does.
func (f *far) restart() {
	f.cut()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.lived {
		s.line.Abort(line.CodeAborted, nil)
	}
	f.lived = nil
	f.lines = line.NewServer("far/1", line.Limits{ResumeWindow: f.window}, line.Config{})
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
	log   *logtest.Buffer
	done  chan error
}

const local = "127.0.0.1:5900"

// newClient returns a client with one forward, from local to vnc:5900.
func newClient(t testing.TB, u *url.URL, change func(*Config)) *running {
	t.Helper()
	log, text := logtest.New()
	r := &running{done: make(chan error, 1), log: text}
	fs, err := ParseForward(local + ":vnc:5900")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{URL: u, Network: &r.local, Forwards: fs, Agent: "wstun/test", Log: log}
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
	r.log.Await(t, "forwarding")
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
