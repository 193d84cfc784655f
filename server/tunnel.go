package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"wstun/internal/access"
	"wstun/internal/line"
	"wstun/internal/netx"
	"wstun/internal/relay"
	"wstun/internal/wsconn"
	"wstun/mux"
)

// A session is one client's tunnel.
type session struct {
	*mux.Session
	line  *line.Conn
	p     access.Principal
	dials chan struct{} // a slot for each dial in flight
	log   *slog.Logger
}

// acceptTunnel answers 101 to a client and leaves the rest to a goroutine.
func (s *Server) acceptTunnel(w http.ResponseWriter, r *http.Request, p access.Principal, offered []string) error {
	if !slices.Contains(offered, tunnelProtocol) {
		return &httpError{status: http.StatusBadRequest, text: "this server speaks " + tunnelProtocol}
	}
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return errDraining
	}
	s.rest.Add(1)
	s.mu.Unlock()
	ws, err := wsconn.Accept(w, r, tunnelProtocol)
	if err != nil {
		s.rest.Done()
		s.cfg.Log.Debug("handshake failed", "from", r.RemoteAddr, "why", err)
		return nil // answered
	}
	ws.SetMessageLimit(line.MaxMessage)
	go s.serveTunnel(ws, p)
	return nil
}

// serveTunnel makes a session of ws, which it owns, and serves it.
func (s *Server) serveTunnel(ws *wsconn.Conn, p access.Principal) {
	defer s.rest.Done()
	defer ws.Wait()
	log := s.cfg.Log.With("user", p.Name, "from", ws.RemoteAddr())
	ctx, cancel := context.WithTimeout(s.life, upgradeTimeout)
	defer cancel()
	l, err := s.lines.Accept(ctx, ws, p.Name)
	if err != nil {
		log.Warn("session refused", "why", err)
		return
	}
	defer l.Wait()
	// A peer that begins with half a frame holds yamux up.
	stop := context.AfterFunc(ctx, func() { l.Abort(line.CodeAborted, context.Cause(ctx)) })
	m, err := mux.Server(l, mux.Config{StreamWindow: l.Session().StreamWindow, MaxStreams: maxStreams})
	stop()
	if err != nil {
		log.Warn("session failed", "why", err)
		return
	}
	ses := &session{m, l, p, make(chan struct{}, maxDials), log}
	hello := l.Session()
	opened := log.With("client", hello.Agent)
	if hello.Label != "" {
		opened = opened.With("label", hello.Label)
	}
	opened.Info("session opened")
	start := time.Now()
	s.serveSession(ses)
	m.Close()
	took := time.Since(start).Round(time.Millisecond)
	if err := l.Err(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, netx.ErrDraining) {
		log.Warn("session lost", "after", took, "why", err)
	} else {
		log.Info("session closed", "after", took)
	}
}

// serveSession answers requests until the session or the server ends.
func (s *Server) serveSession(ses *session) {
	s.mu.Lock()
	s.sessions[ses] = struct{}{}
	if s.draining {
		ses.line.GoAway(line.GoAway{Code: line.CodeShutdown, Flags: line.NewSession})
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, ses)
	}()
	for {
		r, err := ses.Accept(s.life)
		if err == nil {
			s.admit(ses, r)
			continue
		}
		if abortLife(s.life, err) {
			// Relays have been aborted by the same event; their RST records
			// are on the line before this CLOSE.
			s.waitStreams(ses)
			ses.line.Abort(line.CodeShutdown, netx.ErrDraining)
		}
		return
	}
}

// waitStreams gives aborted streams a moment to say so.
func (s *Server) waitStreams(ses *session) {
	timeout := time.After(time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ses.NumStreams() > 0 {
		select {
		case <-tick.C:
		case <-timeout:
			return
		case <-ses.Done():
			return
		}
	}
}

// admit starts serving r, or refuses it.
func (s *Server) admit(ses *session, r *mux.Request) {
	if !s.begin() {
		r.Refuse(netx.ErrDraining)
		return
	}
	go func() {
		defer s.relays.Done()
		s.open(ses, r)
	}()
}

// open dials what a client asks for and relays.
func (s *Server) open(ses *session, r *mux.Request) {
	log := ses.log.With("to", r.Address, "via", "tunnel")
	if r.Network != "tcp" {
		log = log.With("network", r.Network)
	}
	start := time.Now()
	target, err := s.dialFor(ses, r)
	if err != nil {
		log.Warn("dial failed", "why", err)
		r.Refuse(err)
		return
	}
	st, err := r.Grant("") // an address would say more of this network than the client may know
	if err != nil {
		netx.Abort(target, err)
		log.Warn("dial for nobody", "why", err)
		return
	}
	run := relay.Relay{HalfOpen: s.cfg.HalfOpen}
	err = run.Run(s.life, st, target)
	logRelay(log, &run, start, err, map[net.Conn]string{st: "client", target: "target"})
}

// dialFor dials a request's target, in turn. It is given up when the session
// ends, since nobody is left to use it.
func (s *Server) dialFor(ses *session, r *mux.Request) (net.Conn, error) {
	select {
	case ses.dials <- struct{}{}:
		defer func() { <-ses.dials }()
	case <-ses.Done():
		return nil, ses.Err()
	}
	if r.Network != "tcp" && r.Network != "unix" {
		return nil, netx.ErrNetwork
	}
	ctx, cancel := context.WithCancel(s.life)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-ses.Done():
			cancel()
		case <-stop:
		}
	}()
	return access.Guard(s.cfg.Network, s.cfg.Policy, ses.p).Dial(ctx, r.Network, r.Address)
}
