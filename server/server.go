// Package server accepts WebSockets and dials targets for them.
//
// A request is judged from the outside in: Host and Origin, who sent it, what
// it is for, whether that is allowed. All of it comes before the 101, so that
// nobody unknown reaches a parser of frames. Then a browser's WebSocket is
// relayed to its target, and a tunnel's becomes a session whose streams are.
// Rules and users are package access's, bytes package relay's.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"wstun/internal/access"
	"wstun/internal/line"
	"wstun/internal/netx"
	"wstun/internal/wsconn"
	"wstun/mux"
)

// Config says what a server serves, and for whom. Log is required, the zero
// value of the rest serves nobody anything.
type Config struct {
	Policy  *access.Policy
	Network netx.Network // what targets are dialled on; nil: this host
	Routes  Routes
	Web     *os.Root // static files; nil: none. The caller closes it after Shutdown.

	ResumeWindow time.Duration // how long a session without a connection is kept; 0: not at all
	Memory       int64         // bytes that sessions may hold together, for what is on its way; 0: no bound
	MaxDetached  int           // sessions of one user that wait for a connection; 0: as many as Memory lets be

	Subprotocol  string        // of browsers, besides "binary"; empty: none
	PingInterval time.Duration // how long nothing is written to a browser before it is asked whether it lives; 0: never
	HalfOpen     time.Duration // how long a half-closed stream may be silent; 0: for ever
	Agent        string        // this program and its version, told to clients
	Log          *slog.Logger
}

// A Listener is where a server accepts, and how.
type Listener struct {
	net.Listener
	TLS   *tls.Config // nil: plain
	Front access.Front
}

// A Server serves until Shutdown. Its methods may be called concurrently.
type Server struct {
	cfg   Config
	lines *line.Server
	files http.Handler

	life context.Context // of every connection; its cause is what they are told
	end  context.CancelCauseFunc

	mu       sync.Mutex
	draining bool
	drain    chan struct{} // closed when draining
	over     bool          // nothing at all is accepted any more
	https    []*http.Server
	sessions map[*session]struct{}
	browsers map[*browser]*pulse
	relays   sync.WaitGroup // what Shutdown waits for
	rest     sync.WaitGroup // what it ends then
}

// Limits of a request before its 101, of which an unknown client can hold up
// no more.
const (
	upgradeTimeout  = 10 * time.Second // from accept to 101, and again to the session
	idleTimeout     = 10 * time.Second
	maxHeader       = 12 << 10 // net/http adds 4 KiB to it
	maxDials        = 32       // in flight, per session
	busyRetry       = "5"      // seconds
	browserHalfOpen = 30 * time.Second
)

// New returns a server that does nothing until Serve.
func New(cfg Config) *Server {
	if cfg.Network == nil {
		cfg.Network = &netx.Host{}
	}
	if cfg.Policy == nil {
		cfg.Policy = &access.Policy{}
	}
	limits := line.Limits{ResumeWindow: cfg.ResumeWindow, Ping: 12 * time.Second, MaxStreams: maxStreams}
	var memory *line.Budget
	if cfg.Memory > 0 {
		memory = line.NewBudget(cfg.Memory)
	}
	s := &Server{
		cfg:      cfg,
		lines:    line.NewServer(cfg.Agent, limits, line.Config{Budget: memory}),
		drain:    make(chan struct{}),
		sessions: map[*session]struct{}{},
		browsers: map[*browser]*pulse{},
	}
	s.lines.StreamWindow = mux.WindowFor
	s.lines.MaxDetached = cfg.MaxDetached
	if cfg.Web != nil {
		s.files = files(cfg.Web)
	}
	s.life, s.end = context.WithCancelCause(context.Background())
	return s
}

// Serve accepts connections from l until Shutdown, and closes it. The error is
// nil after Shutdown.
func (s *Server) Serve(l Listener) error {
	ln := wsconn.Listener(l.Listener)
	if l.TLS != nil {
		ln = tls.NewListener(ln, l.TLS)
	}
	hs := &http.Server{
		Handler:           &front{s, l.Front},
		ReadHeaderTimeout: upgradeTimeout, // covers the TLS handshake as well
		ReadTimeout:       upgradeTimeout, // of a body, which net/http would wait for
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		ConnState:         hurry(),

		DisableGeneralOptionsHandler: true, // OPTIONS * is judged like all else
	}
	hs.Protocols.SetHTTP1(true)
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return ln.Close()
	}
	if len(s.https) == 0 && s.cfg.PingInterval > 0 {
		s.rest.Go(s.sweep)
	}
	s.https = append(s.https, hs)
	s.mu.Unlock()
	err := hs.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// hurry returns a hook that ends connections whose first request is not
// complete in time: net/http would give the TLS handshake and the header that
// much each.
func hurry() func(net.Conn, http.ConnState) {
	var timers sync.Map // of net.Conn to *time.Timer
	return func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			timers.Store(c, time.AfterFunc(upgradeTimeout, func() { netx.Abort(c, nil) }))
		} else if t, ok := timers.LoadAndDelete(c); ok {
			t.(*time.Timer).Stop()
		}
	}
}

// Shutdown takes nothing new, tells clients to move on, and lets what runs go
// on until it ends or ctx is done; what is left then is aborted. Sessions that
// lose their connection meanwhile may come back. It returns when nothing of the
// server runs any more, with the cause of ctx if that cut anything off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.lines.Drain()
	s.mu.Lock()
	if !s.draining {
		s.draining = true
		close(s.drain)
	}
	deadline := time.Minute
	if d, ok := ctx.Deadline(); ok {
		deadline = time.Until(d)
	}
	for ses := range s.sessions {
		ses.line.GoAway(line.GoAway{Code: line.CodeShutdown, Deadline: deadline, Flags: line.NewSession})
	}
	s.mu.Unlock()

	done := make(chan struct{})
	s.rest.Go(func() { s.relays.Wait(); close(done) })
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	for _, hs := range s.https {
		s.rest.Go(func() {
			if hs.Shutdown(ctx) != nil {
				hs.Close()
			}
		})
	}
	s.end(netx.ErrDraining)
	s.rest.Wait()
	s.lines.Wait()
	return err
}

// begin counts one more relay, unless the server drains.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.relays.Add(1)
	return true
}

// maxStreams bounds the streams of one session.
const maxStreams = 16_384
