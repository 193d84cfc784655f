package line

import (
	"context"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
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
	Single    bool          // it carries one stream
	Limits

	instance [8]byte // of the server's process
	key      []byte  // K: proves a resume; never leaves this process
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
	Single   bool // the session is to carry one stream
}

// Dial makes a new session on car, as its client. A Window of 0 is the least
// that WindowFor returns: the round trip is not known yet. ctx bounds the
// handshake. The line owns car from the start; if the handshake fails nothing
// of it runs any more. A refusal is a [*RejectError].
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
	car.Wait()
	if c != nil {
		c.Abort(CodeAborted, nil)
		c.Abort(CodeAborted, nil) // not even for the peer's sake
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
	chal, ch, err := challenged(car)
	if err != nil {
		return nil, err
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
	if h.Single {
		m.tlvs[tlvSingle] = []byte{1}
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
	s.Single, s.instance = h.Single, ch.instance
	s.key, err = sessionKey(priv, ch.pub[:], ch.nonce, m.nonce, w.sid, ch.instance, s.Principal)
	if err != nil {
		return nil, err
	}
	want := confirmation(s.key, chal, hel, wel[:len(wel)-len(w.confirm)])
	if !hmac.Equal(want, w.confirm[:]) {
		return nil, violation("WELCOME does not prove the key")
	}
	if w.wnd < minWindow {
		return nil, violation("a window of %d bytes, less than %d", w.wnd, minWindow)
	}
	if s.Ping > 0 {
		cfg.PingAfter = min(cfg.PingAfter, max(s.Ping, time.Second))
	}
	c := newConn(cfg, s, w.wnd)
	if cfg.Redial != nil {
		c.redial = newRedialer(c, cfg.Redial)
	}
	c.begin(car, nil)
	return c, nil
}

// challenged reads the server's first message.
func challenged(car Carrier) (msg []byte, ch challenge, err error) {
	if msg, err = receiveMessage(car); err != nil {
		return nil, ch, err
	}
	if ch, err = parseChallenge(msg); err != nil {
		return nil, ch, err
	}
	if ch.min > version || ch.max < version {
		return nil, ch, fmt.Errorf("the server speaks versions %d to %d, this program %d", ch.min, ch.max, version)
	}
	return msg, ch, nil
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
