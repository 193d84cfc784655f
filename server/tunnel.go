package server

import (
	"context"
	"encoding/hex"
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
	if !s.takesCarriers() {
		return errDraining
	}
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

// takesCarriers counts one more connection of a client's, unless none can be of
// use: a server that drains still has those of its sessions come back.
func (s *Server) takesCarriers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.draining && len(s.sessions) == 0 {
		return false
	}
	s.rest.Add(1)
	return true
}

// serveTunnel makes a session of ws, which it owns, and serves it; or it gives
// ws to a session that has lost its own.
func (s *Server) serveTunnel(ws *wsconn.Conn, p access.Principal) {
	defer s.rest.Done()
	log := s.cfg.Log.With("user", p.Name)
	ctx, cancel := context.WithTimeout(s.life, upgradeTimeout)
	defer cancel()
	l, resumed, err := s.lines.Accept(ctx, ws, p.Name)
	if err != nil {
		log.Warn("session refused", "from", ws.RemoteAddr(), "why", err)
		return
	}
	if resumed {
		return // to its own goroutine
	}
	id := l.Session().ID
	log = log.With("session", hex.EncodeToString(id[:4]))
	defer s.await(l)
	told := log
	l.OnEvent(func(e line.Event) { s.tell(told, e) })
	log = log.With("from", ws.RemoteAddr())
	// A peer that begins with half a frame holds yamux up.
	stop := context.AfterFunc(ctx, func() { l.Abort(line.CodeAborted, context.Cause(ctx)) })
	m, err := mux.Server(l, mux.Config{StreamWindow: l.Session().StreamWindow, MaxStreams: maxStreams, Single: l.Session().Single})
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
	if hello.Single {
		opened = opened.With("streams", 1)
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

// await returns when nothing of a line that was closed runs any more. A client
// that has lost its connection may come back to hear that all has arrived, as
// long as the server lives.
func (s *Server) await(l *line.Conn) {
	stop := context.AfterFunc(s.life, func() { l.Abort(line.CodeShutdown, netx.ErrDraining) })
	defer stop()
	l.Wait()
}

// tell logs what happens to a session's connection.
func (s *Server) tell(log *slog.Logger, e line.Event) {
	switch e.Kind {
	case line.Detached:
		log.Info("session detached", "why", e.Err, "kept for", e.After)
	case line.Resumed:
		log.Info("session resumed", "from", e.Carrier.(*wsconn.Conn).RemoteAddr(), "after", e.After.Round(time.Millisecond))
	case line.Moved:
		log.Info("session moved", "from", e.Carrier.(*wsconn.Conn).RemoteAddr())
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
	if !ses.line.Attached() {
		return // nobody would hear it
	}
	moment, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	ses.Idle(moment)
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
