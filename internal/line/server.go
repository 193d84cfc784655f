package line

import (
	"context"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Server is the accepting side of handshakes, for one process: it has the
// sessions that carriers can come back to.
type Server struct {
	Agent  string
	Limits Limits
	Config Config

	// StreamWindow overrides that of Limits by the session's round trip; may
	// be nil.
	StreamWindow func(rtt time.Duration) uint32

	// MaxDetached bounds the sessions of one principal that wait for a
	// carrier; one more takes the place of the oldest. 0: only the budget does.
	MaxDetached int

	instance [8]byte
	nobody   []byte // a key for sessions that do not exist
	draining atomic.Bool

	mu       sync.Mutex
	sessions map[[16]byte]*Conn
	graves   graveyard
	thinning bool
	again    bool
	running  sync.WaitGroup
}

// NewServer returns a Server with an instance id of its own, by which clients
// tell a restart from a lost connection.
func NewServer(agent string, l Limits, cfg Config) *Server {
	s := &Server{Agent: agent, Limits: l, Config: cfg.withDefaults(), nobody: make([]byte, 32), sessions: map[[16]byte]*Conn{}}
	rand.Read(s.instance[:])
	rand.Read(s.nobody)
	if cfg.Budget != nil {
		cfg.Budget.full = s.thinOut
	}
	return s
}

// Drain refuses new sessions from here on. Those that are there may still be
// resumed, within 10 s, since a client that has vanished must not keep the
// server from stopping.
func (s *Server) Drain() {
	s.draining.Store(true)
	for _, c := range s.all() {
		c.hasten()
	}
}

// Wait returns when nothing of an idle server runs any more.
func (s *Server) Wait() { s.running.Wait() }

// Accept makes a new session on car for principal, or resumes one of theirs:
// then the line is one that an earlier call returned. ctx bounds the handshake.
// The line owns car from the start; if the handshake fails nothing of it runs
// any more.
func (s *Server) Accept(ctx context.Context, car Carrier, principal string) (c *Conn, resumed bool, err error) {
	stop := context.AfterFunc(ctx, func() { car.Close() })
	defer stop()
	c, resumed, err = s.accept(car, principal)
	if err == nil {
		return c, resumed, nil
	}
	var reject *RejectError
	if errors.As(err, &reject) {
		car.WriteMessages(reject.encode()) // as far as it goes: the client sees the end in any case
	}
	car.Close()
	car.Wait()
	return nil, false, handshakeError(ctx, err)
}

func (s *Server) accept(car Carrier, principal string) (c *Conn, resumed bool, err error) {
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, false, err
	}
	ch := challenge{min: version, max: version, instance: s.instance}
	rand.Read(ch.nonce[:])
	copy(ch.pub[:], priv.PublicKey().Bytes())
	chal := ch.encode()
	sent := time.Now()
	if err := car.WriteMessages(chal); err != nil {
		return nil, false, err
	}
	msg, err := receiveMessage(car)
	if err != nil {
		return nil, false, err
	}
	if len(msg) > 0 && msg[0] == msgResume {
		c, err := s.resume(car, principal, chal, msg)
		return c, true, err
	}
	h, err := parseHello(msg)
	switch {
	case err != nil:
		return nil, false, err
	case s.draining.Load():
		return nil, false, &RejectError{Code: RejectDraining, After: drainRetry, Reason: "about to stop"}
	case h.wnd < minWindow:
		return nil, false, &RejectError{Code: RejectPolicy, Reason: fmt.Sprintf("a window of less than %d bytes", minWindow)}
	}
	w, ses := s.welcome(h, principal, time.Since(sent))
	ses.key, err = sessionKey(priv, h.pub[:], ch.nonce, h.nonce, w.sid, ch.instance, principal)
	if err != nil {
		return nil, false, err
	}
	wel := w.encode()
	wel = append(wel, confirmation(ses.key, chal, msg, wel)...)
	return s.open(car, ses, int(w.wnd), h.wnd, wel), false, nil
}

// drainRetry is when a client may ask a server that stops once more.
const drainRetry = time.Second

// welcome grants a session.
func (s *Server) welcome(h hello, principal string, rtt time.Duration) (welcome, Session) {
	window, limits := s.Config.Window, s.Limits
	if window == 0 {
		window = WindowFor(rtt)
	}
	if s.Config.Budget.exceeded() {
		window = minWindow
	}
	if s.StreamWindow != nil {
		limits.StreamWindow = s.StreamWindow(rtt)
	}
	w := welcome{
		wnd:          uint32(window),
		resumeWindow: uint32(limits.ResumeWindow / time.Second),
		ping:         uint16(limits.Ping / time.Second),
		maxStreams:   limits.MaxStreams,
		streamWindow: limits.StreamWindow,
		tlvs:         tlvs{tlvAgent: []byte(s.Agent), tlvPrincipal: []byte(principal)},
	}
	rand.Read(w.sid[:])
	ses := Session{ID: w.sid, Principal: principal, Agent: h.tlvs.text(tlvAgent), Label: h.tlvs.text(tlvLabel), RTT: rtt, Limits: limits, instance: s.instance}
	copy(ses.ClientID[:], h.tlvs[tlvClientID])
	if v := h.tlvs[tlvSingle]; len(v) > 0 && v[0] != 0 {
		ses.Single = true
	}
	return w, ses
}

// open makes the line of a new session, on which WELCOME goes first.
func (s *Server) open(car Carrier, ses Session, window int, peerWindow uint32, welcome []byte) *Conn {
	cfg := s.Config
	cfg.Window = window
	c := newConn(cfg, ses, peerWindow)
	c.forget, c.orphaned = s.forget, s.thinOut
	s.mu.Lock()
	s.sessions[ses.ID] = c
	s.mu.Unlock()
	if s.draining.Load() { // since accept looked
		c.hasten()
	}
	c.begin(car, welcome)
	return c
}

// resume attaches car to the session that msg asks for. Whatever is not so is
// answered alike and after the same work: always one HMAC.
func (s *Server) resume(car Carrier, principal string, chal, msg []byte) (*Conn, error) {
	m, mac, err := parseResume(msg)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	c, grave := s.sessions[m.sid], s.graves.find(m.sid)
	s.mu.Unlock()
	key, owner := s.nobody, ""
	switch {
	case c != nil:
		key, owner = c.hello.key, c.hello.Principal
	case grave != nil:
		key, owner = grave.key, grave.principal
	}
	proven := hmac.Equal(mac, resumption(key, byClient, chal, msg[:len(msg)-len(mac)]))
	if !proven || owner != principal || c == nil && grave == nil {
		return nil, errUnknown
	}
	if c != nil {
		err := c.takeOver(car, m, func(answer []byte) []byte {
			return append(answer, resumption(key, byServer, chal, msg, answer)...)
		})
		if err != errUnknown {
			return c, err
		}
		s.mu.Lock() // it has ended in this moment, perhaps in order
		grave = s.graves.find(m.sid)
		s.mu.Unlock()
		if grave == nil {
			return nil, errUnknown
		}
	}
	e := &RejectError{Code: RejectClosed, final: grave.final, Reason: "closed"}
	e.mac = make([]byte, macLen)
	e.mac = resumption(key, byGrave, chal, msg, e.encode()[:6+8])
	return nil, e
}

var errUnknown = &RejectError{Code: RejectUnknown, Reason: "no such session"}

// takeOver attaches car, on whose far end the client has what m says. Fencing
// the old carrier, saying what had come until then and attaching the new one
// are one step.
func (c *Conn) takeOver(car Carrier, m resume, sign func([]byte) []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return errUnknown
	case m.epoch <= c.epoch:
		return &RejectError{Code: RejectStaleEpoch, Reason: "a later attempt was there first"}
	case m.rcv > c.out.maxSent || m.rcv > math.MaxInt64:
		reject := &RejectError{Code: RejectCorrupt, Reason: fmt.Sprintf("%d bytes received of %d sent", m.rcv, c.out.maxSent)}
		c.end(fmt.Errorf("%w: %w", ErrLost, reject))
		return reject
	}
	detached := c.at == nil
	c.epoch = m.epoch
	c.fence()
	answer := resumed{epoch: m.epoch, rcv: c.in.rcv, wnd: c.in.grant()}
	c.attach(car, sign(answer.encode()), m.rcv, m.wnd)
	c.resumed(detached)
	return nil
}
