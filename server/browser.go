package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"wstun/internal/access"
	"wstun/internal/netx"
	"wstun/internal/relay"
	"wstun/internal/wsconn"
	"wstun/mux"
)

// A browser is a WebSocket as one end of a relay. Its protocol has no
// half-close and no reset; a Close frame with code and reason says both.
type browser struct {
	*wsconn.Conn
}

var _ net.Conn = (*browser)(nil)

// CloseWrite says that the target has ended: all of it was sent before.
func (b *browser) CloseWrite() error {
	b.Finish(wsconn.NormalClosure, "the target closed the connection")
	return nil
}

// Abort says why the connection fails, in words that a page can show and that
// name no address. If it is the browser that failed there is nobody to tell.
func (b *browser) Abort(cause error) error {
	var fault *relay.Fault
	switch {
	case errors.As(cause, &fault) && fault.Of == net.Conn(b):
		return b.Conn.Abort(cause)
	case errors.As(cause, &fault) && errors.Is(fault, syscall.ECONNRESET):
		b.Finish(wsconn.InternalError, "the target reset the connection")
	case errors.Is(cause, netx.ErrDraining):
		b.Finish(wsconn.GoingAway, "the server is stopping")
	case errors.Is(cause, relay.ErrHalfOpen):
		b.Finish(wsconn.Policy, "nothing came for too long")
	default:
		b.Finish(wsconn.InternalError, "the connection to the target failed")
	}
	return nil
}

// Write drops what comes for a browser that has said Close: it may go on being
// the source of what the target still has to read.
func (b *browser) Write(p []byte) (int, error) {
	n, err := b.Conn.Write(p)
	if errors.Is(err, wsconn.ErrEnded) {
		return len(p), nil
	}
	return n, err
}

// lastWords is how long a browser may take to hear why the server ends.
const lastWords = time.Second

// dialReason says why a target could not be reached.
func dialReason(err error) (code int, reason string) {
	switch {
	case errors.Is(err, netx.ErrDenied):
		return wsconn.Policy, "this target is not allowed"
	case errors.Is(err, netx.ErrLimit):
		return wsconn.Policy, "too many connections"
	case errors.Is(err, syscall.ECONNREFUSED):
		return wsconn.InternalError, "the target refused the connection"
	}
	return wsconn.InternalError, "the target cannot be reached: " + mux.Reason(err)
}

// acceptBrowser answers 101 to a request that may have its target, and leaves
// the rest to a goroutine of its own, so that net/http's buffers go.
func (s *Server) acceptBrowser(w http.ResponseWriter, r *http.Request, p access.Principal, offered []string) error {
	proto, err := s.subprotocol(offered)
	if err != nil {
		return err
	}
	t, err := s.target(r, p)
	if err != nil {
		return err
	}
	if !s.begin() {
		return errDraining
	}
	ws, err := wsconn.Accept(w, r, proto)
	if err != nil {
		s.relays.Done()
		s.cfg.Log.Debug("handshake failed", "from", r.RemoteAddr, "why", err)
		return nil // answered
	}
	go s.serveBrowser(&browser{ws}, t, p)
	return nil
}

// subprotocol picks the answer to what a browser offers: it fails its own side
// if something was offered and nothing is picked. A credential is not echoed.
func (s *Server) subprotocol(offered []string) (string, error) {
	names := slices.DeleteFunc(slices.Clone(offered), func(o string) bool { return strings.HasPrefix(o, bearerPrefix) })
	for _, o := range names {
		if o == "binary" || s.cfg.Subprotocol != "" && o == s.cfg.Subprotocol {
			return o, nil
		}
	}
	switch {
	case len(names) > 0:
		return "", unknownProtocol(names)
	case len(offered) > 0:
		return "", &httpError{status: http.StatusBadRequest, text: "a bearer subprotocol must be offered beside \"binary\", which is answered"}
	}
	return "", nil
}

// serveBrowser dials the target and relays. It owns b.
func (s *Server) serveBrowser(b *browser, t access.Target, p access.Principal) {
	defer s.relays.Done()
	defer context.AfterFunc(s.life, func() { time.AfterFunc(lastWords, b.Drop) })()
	defer b.Wait()
	s.watch(b)
	defer s.unwatch(b)
	log := s.cfg.Log.With("user", p.Name, "from", b.RemoteAddr(), "to", t.String(), "via", "browser")
	start := time.Now()
	target, err := access.Guard(s.cfg.Network, s.cfg.Policy, p).Dial(s.life, t.Network, t.Address())
	if err != nil {
		log.Warn("dial failed", "why", err)
		b.Finish(dialReason(err))
		return
	}
	run := relay.Relay{HalfOpen: browserHalfOpen}
	err = run.Run(s.life, b, target)
	logRelay(log, &run, start, err, map[net.Conn]string{b: "browser", target: "target"})
}

// watch and unwatch have the sweep ask whether b lives.
func (s *Server) watch(b *browser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.browsers[b] = &pulse{}
}

func (s *Server) unwatch(b *browser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.browsers, b)
}

// A pulse is what the sweep knows of a browser.
type pulse struct {
	rx, tx  uint32
	quiet   time.Duration // nothing was written
	waiting time.Duration // since a ping, nothing has come
	pinged  bool
	asked   bool // by a frame; if not, a write that had been blocked was question enough
	unsent  int  // then
}

// pongTimeout is how long a browser may leave a ping unanswered.
const pongTimeout = 60 * time.Second

// sweep asks browsers to which nothing was written for a while whether they
// live: one timer for all.
func (s *Server) sweep() {
	tick := max(s.cfg.PingInterval/5, 100*time.Millisecond)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.life.Done():
			return
		}
		s.mu.Lock()
		for b, pulse := range s.browsers {
			pulse.beat(b, tick, s.cfg.PingInterval)
		}
		s.mu.Unlock()
	}
}

func (p *pulse) beat(b *browser, tick, interval time.Duration) {
	rx, tx := b.Traffic()
	if tx != p.tx {
		p.quiet = 0
	} else {
		p.quiet += tick
	}
	switch {
	case rx != p.rx, p.pinged && !p.asked && tx != p.tx: // it answers, or the write went on
		p.pinged, p.waiting = false, 0
	case p.pinged && b.Unsent() < p.unsent: // it still takes what was sent before
		p.unsent, p.waiting = b.Unsent(), 0
	case p.pinged:
		p.waiting += tick
	}
	p.rx, p.tx = rx, tx
	switch {
	case p.waiting >= pongTimeout:
		b.Conn.Abort(nil)
	case p.quiet >= interval:
		p.quiet = 0
		sent := b.Ping() // or a write has been blocked for all that time, which asks as much
		if !p.pinged {
			p.pinged, p.asked, p.waiting, p.unsent = true, false, 0, b.Unsent()
		}
		p.asked = p.asked || sent
	}
}

// abortLife reports whether err is what ended everything.
func abortLife(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
}
