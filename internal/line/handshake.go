package line

import (
	"context"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Session is what a handshake has agreed on.
type Session struct {
	ID        [16]byte
	Principal string        // who the server takes the client for
	Agent     string        // the peer's program and version
	Label     string        // what the client calls itself; on the server only
	ClientID  [16]byte      // on the server; zero: not said
	RTT       time.Duration // of one handshake message and its answer
	Limits

	key []byte // K: proves a resume; never leaves this process
}

// Limits are what a server tells its clients.
type Limits struct {
	ResumeWindow time.Duration // how long a session outlives its carrier; 0: not at all
	Ping         time.Duration // how often to ask for proof; 0: as the client likes
	MaxStreams   uint32
	StreamWindow uint32 // bytes that the server takes of one stream unread
}

// Hello is what a client says of itself.
type Hello struct {
	Agent    string
	Label    string
	ClientID [16]byte
}

// Dial makes a new session on car, as its client. A Window of 0 is the least
// that WindowFor returns: the round trip is not known yet. ctx bounds the handshake,
// after which the Conn owns car; if it fails, car is closed. A refusal is a
// [*RejectError].
func Dial(ctx context.Context, car Carrier, h Hello, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	if cfg.Window == 0 {
		cfg.Window = WindowFor(0)
	}
	defer context.AfterFunc(ctx, func() { car.Close() })()
	c, err := dial(car, h, cfg)
	if err == nil && ctx.Err() == nil {
		return c, nil
	}
	car.Close()
	if c != nil {
		c.Wait()
	}
	return nil, handshakeError(ctx, err)
}

func handshakeError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("handshake: %w", context.Cause(ctx))
	}
	return fmt.Errorf("handshake: %w", err)
}

func dial(car Carrier, h Hello, cfg Config) (*Conn, error) {
	chal, err := receiveMessage(car)
	if err != nil {
		return nil, err
	}
	ch, err := parseChallenge(chal)
	if err != nil {
		return nil, err
	}
	if ch.min > version || ch.max < version {
		return nil, fmt.Errorf("the server speaks versions %d to %d, this program %d", ch.min, ch.max, version)
	}
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	m := hello{wnd: uint32(cfg.Window), tlvs: tlvs{tlvAgent: []byte(h.Agent)}}
	if h.Label != "" {
		m.tlvs[tlvLabel] = []byte(h.Label)
	}
	if h.ClientID != [16]byte{} {
		m.tlvs[tlvClientID] = h.ClientID[:]
	}
	rand.Read(m.nonce[:])
	copy(m.pub[:], priv.PublicKey().Bytes())
	hel := m.encode()
	sent := time.Now()
	if err := car.WriteMessages(hel); err != nil {
		return nil, err
	}
	wel, err := receiveMessage(car)
	if err != nil {
		return nil, err
	}
	rtt := time.Since(sent)
	w, err := parseWelcome(wel)
	if err != nil {
		return nil, err
	}
	s := w.session(rtt)
	s.key, err = sessionKey(priv, ch.pub[:], ch.nonce, m.nonce, w.sid, ch.instance, s.Principal)
	if err != nil {
		return nil, err
	}
	want := confirmation(s.key, chal, hel, wel[:len(wel)-len(w.confirm)])
	if subtle.ConstantTimeCompare(want, w.confirm[:]) != 1 {
		return nil, violation("WELCOME does not prove the key")
	}
	if w.wnd < minWindow {
		return nil, violation("a window of %d bytes, less than %d", w.wnd, minWindow)
	}
	if s.Ping > 0 {
		cfg.PingAfter = min(cfg.PingAfter, max(s.Ping, time.Second))
	}
	return newConn(cfg, car, s, w.wnd), nil
}

// session is what a client takes from w.
func (w *welcome) session(rtt time.Duration) Session {
	return Session{
		ID: w.sid, Principal: string(w.tlvs[tlvPrincipal]), Agent: w.tlvs.text(tlvAgent), RTT: rtt,
		Limits: Limits{
			ResumeWindow: time.Duration(w.resumeWindow) * time.Second,
			Ping:         time.Duration(w.ping) * time.Second,
			MaxStreams:   w.maxStreams, StreamWindow: w.streamWindow,
		},
	}
}

// Server is the accepting side of handshakes, for one process.
type Server struct {
	Agent  string
	Limits Limits
	Config Config

	// StreamWindow overrides that of Limits by the session's round trip; may
	// be nil.
	StreamWindow func(rtt time.Duration) uint32

	instance [8]byte
}

// NewServer returns a Server with an instance id of its own, by which clients
// tell a restart from a lost connection.
func NewServer(agent string, l Limits, cfg Config) *Server {
	s := &Server{Agent: agent, Limits: l, Config: cfg.withDefaults()}
	rand.Read(s.instance[:])
	return s
}

// Accept makes a new session on car for principal. ctx bounds the handshake,
// after which the Conn owns car; if it fails, car is closed.
func (s *Server) Accept(ctx context.Context, car Carrier, principal string) (*Conn, error) {
	defer context.AfterFunc(ctx, func() { car.Close() })()
	c, err := s.accept(car, principal)
	if err == nil && ctx.Err() == nil {
		return c, nil
	}
	var reject *RejectError
	if errors.As(err, &reject) {
		car.WriteMessages(reject.encode()) // as far as it goes: the client sees the end in any case
	}
	car.Close()
	if c != nil {
		c.Wait()
	}
	return nil, handshakeError(ctx, err)
}

func (s *Server) accept(car Carrier, principal string) (*Conn, error) {
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	ch := challenge{min: version, max: version, instance: s.instance}
	rand.Read(ch.nonce[:])
	copy(ch.pub[:], priv.PublicKey().Bytes())
	chal := ch.encode()
	sent := time.Now()
	if err := car.WriteMessages(chal); err != nil {
		return nil, err
	}
	hel, err := receiveMessage(car)
	if err != nil {
		return nil, err
	}
	rtt := time.Since(sent)
	if len(hel) > 0 && hel[0] == msgResume {
		return nil, &RejectError{Code: RejectUnknown, Reason: "no such session"}
	}
	h, err := parseHello(hel)
	if err != nil {
		return nil, err
	}
	if h.wnd < minWindow {
		return nil, &RejectError{Code: RejectPolicy, Reason: fmt.Sprintf("a window of less than %d bytes", minWindow)}
	}
	if v := h.tlvs[tlvSingle]; len(v) > 0 && v[0] != 0 {
		return nil, &RejectError{Code: RejectPolicy, Reason: "sessions of a single stream are not served here"}
	}
	cfg, limits := s.Config, s.Limits
	if cfg.Window == 0 {
		cfg.Window = WindowFor(rtt)
	}
	if s.StreamWindow != nil {
		limits.StreamWindow = s.StreamWindow(rtt)
	}
	w := welcome{
		wnd:          uint32(cfg.Window),
		resumeWindow: uint32(limits.ResumeWindow / time.Second),
		ping:         uint16(limits.Ping / time.Second),
		maxStreams:   limits.MaxStreams,
		streamWindow: limits.StreamWindow,
		tlvs:         tlvs{tlvAgent: []byte(s.Agent), tlvPrincipal: []byte(principal)},
	}
	rand.Read(w.sid[:])
	ses := Session{ID: w.sid, Principal: principal, Agent: h.tlvs.text(tlvAgent), Label: h.tlvs.text(tlvLabel), RTT: rtt, Limits: limits}
	copy(ses.ClientID[:], h.tlvs[tlvClientID])
	ses.key, err = sessionKey(priv, h.pub[:], ch.nonce, h.nonce, w.sid, ch.instance, principal)
	if err != nil {
		return nil, err
	}
	wel := w.encode()
	wel = append(wel, confirmation(ses.key, chal, hel, wel)...)
	if err := car.WriteMessages(wel); err != nil {
		return nil, err
	}
	return newConn(cfg, car, ses, h.wnd), nil
}

// receiveMessage reads one message of a handshake.
func receiveMessage(car Carrier) ([]byte, error) {
	r, err := car.Next()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxHandshake+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxHandshake {
		return nil, violation("a handshake message of more than %d bytes", maxHandshake)
	}
	return b, nil
}

// sessionKey derives K, which both sides can and nobody on the way can.
func sessionKey(priv *ecdh.PrivateKey, peer []byte, nonceS, nonceC [32]byte, sid [16]byte, instance [8]byte, principal string) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, violation("public key: %v", err)
	}
	ikm, err := priv.ECDH(pub)
	if err != nil {
		return nil, violation("public key: %v", err)
	}
	who := sha256.Sum256([]byte(principal))
	salt := append(nonceS[:], nonceC[:]...)
	info := "wstun1" + string(sid[:]) + string(instance[:]) + string(who[:])
	return hkdf.Key(sha256.New, ikm, salt, info, 32)
}

// confirmation is the server's proof over all that was said.
func confirmation(key []byte, messages ...[]byte) []byte {
	transcript := sha256.New()
	for _, m := range messages {
		transcript.Write(m)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("wstun1 W"))
	mac.Write(transcript.Sum(nil))
	return mac.Sum(nil)
}
