package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"wstun/internal/line"
	"wstun/internal/netx"
	"wstun/internal/relay"
	"wstun/internal/wsconn"
	"wstun/mux"
)

const (
	tunnelProtocol   = "wstun.v1"
	handshakeTimeout = 10 * time.Second // proxy, TLS and upgrade; and again to the session
)

// A tunnel is a session with what it runs on.
type tunnel struct {
	*mux.Session
	line  *line.Conn
	away  chan struct{}   // closed when the server wants new streams elsewhere
	taken chan struct{}   // closed when a connection has the session for itself
	said  map[string]bool // why it could not be resumed, as logged since it was lost

	refusing sync.WaitGroup
}

// carrier makes a WebSocket to the server, with the credentials of now. It is a
// line.DialFunc; an error that is the server's or a proxy's answer is a *Error.
func (c *Client) carrier(ctx context.Context, alive func()) (line.Carrier, error) {
	ws, err := c.dial(ctx, alive)
	if err != nil {
		return nil, c.explain(err)
	}
	return ws, nil
}

func (c *Client) dial(ctx context.Context, alive func()) (*wsconn.Conn, error) {
	header := c.cfg.Header.Clone()
	if c.cfg.Credentials != nil {
		auth, err := c.cfg.Credentials()
		if err != nil {
			return nil, err
		}
		if header == nil {
			header = http.Header{}
		}
		header.Set("Authorization", auth)
	}
	ws, err := wsconn.Dial(ctx, c.cfg.URL.String(), wsconn.DialOptions{
		Dial: c.cfg.Dial, TLS: c.cfg.TLS, Header: header, Host: c.cfg.Host, Subprotocol: tunnelProtocol, Alive: alive,
	})
	if err != nil {
		return nil, err
	}
	ws.SetMessageLimit(line.MaxMessage)
	return ws, nil
}

// connect makes a session. ctx bounds the call. An error that is the server's
// or a proxy's answer is a *Error.
func (c *Client) connect(ctx context.Context) (*tunnel, error) {
	dialing, cancel := context.WithTimeout(ctx, 2*handshakeTimeout)
	defer cancel()
	ws, err := c.dial(dialing, nil)
	if err != nil {
		return nil, c.explain(err)
	}
	greeting, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	l, err := line.Dial(greeting, ws, line.Hello{Agent: c.cfg.Agent, ClientID: c.id, Single: c.cfg.Single},
		line.Config{Window: line.WindowFor(ws.RTT()), Redial: c.carrier, MaxAge: c.cfg.MaxAge})
	if err != nil {
		return nil, c.explain(err)
	}
	t := &tunnel{line: l, away: make(chan struct{}), taken: make(chan struct{}), said: map[string]bool{}}
	l.OnEvent(func(e line.Event) { c.tell(t, e) })
	// A peer that begins with half a frame holds yamux up.
	stop := context.AfterFunc(greeting, func() { l.Abort(line.CodeAborted, context.Cause(greeting)) })
	defer stop()
	if t.Session, err = mux.Client(l, mux.Config{StreamWindow: mux.WindowFor(l.Session().RTT), MaxStreams: 1, Single: c.cfg.Single}); err != nil {
		t.drop() // or it would look for a connection to say so on
		t.wait()
		return nil, err
	}
	t.refusing.Go(t.refuse)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tunnels[t] = struct{}{}
	return t, nil
}

// tell logs what happens to the connection under a session, and acts on it.
func (c *Client) tell(t *tunnel, e line.Event) {
	log := c.cfg.Log
	switch e.Kind {
	case line.Detached:
		log.Warn("connection lost, resuming", "why", e.Err)
	case line.Retrying:
		if why := e.Err.Error(); !t.said[why] && len(t.said) < maxSaid {
			t.said[why] = true
			c.sayWaiting("cannot resume yet", e.Err)
		}
	case line.Resumed:
		log.Warn(fmt.Sprintf("resumed after %v, nothing lost", short(e.After))) // whoever saw the warning waits for this
		clear(t.said)
	case line.Moved:
		log.Info("moved to a new connection")
	case line.GoingAway:
		t.goAway(e.GoAway)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change()
}

// maxSaid bounds the causes that are logged while a session has no connection.
const maxSaid = 8

// short is d as precise as a person wants it.
func short(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// watch has every session look after its connection when the way to the server
// may have changed.
func (c *Client) watch() {
	if c.cfg.Watch == nil {
		return
	}
	c.rest.Go(func() {
		c.cfg.Watch(c.life, func(why string) {
			c.cfg.Log.Info("checking the connection", "why", why)
			c.mu.Lock()
			defer c.mu.Unlock()
			for t := range c.tunnels {
				t.line.Probe()
			}
		})
	})
}

// refuse answers what the server asks for: nothing is offered to it.
func (t *tunnel) refuse() {
	for {
		r, err := t.Accept(context.Background())
		if err != nil {
			return
		}
		r.Refuse(netx.ErrDenied)
	}
}

func (t *tunnel) goAway(g line.GoAway) {
	if g.Flags&line.NewSession == 0 {
		return
	}
	select {
	case <-t.away:
	default:
		close(t.away)
	}
}

// relayOver joins local with st, both of which it owns.
func relayOver(ctx context.Context, local net.Conn, st *mux.Stream, halfOpen time.Duration, log *slog.Logger, start time.Time) {
	run := relay.Relay{HalfOpen: halfOpen}
	err := run.Run(ctx, local, st)
	var refusal *mux.RefusedError
	if errors.As(err, &refusal) {
		log.Warn("connection refused", "why", "the server says: "+refusal.Error())
		return
	}
	log.Info("relay ended", "sent", run.Sent.Load(), "received", run.Received.Load(),
		"took", time.Since(start).Round(time.Millisecond), "why", why(err, local))
}

// why says in a few words how a relay ended.
func why(err error, local net.Conn) string {
	var fault *relay.Fault
	switch {
	case err == nil:
		return "ended"
	case !errors.As(err, &fault):
		return err.Error()
	case fault.Of == local:
		return "local: " + fault.Error()
	}
	return "far end: " + fault.Error()
}

// finish ends the session once nothing of it is under way, and waits until the
// server has everything. It returns why that is not known instead.
func (t *tunnel) finish(ctx context.Context) error {
	t.line.CloseWrite()
	if err := t.line.Drained(ctx); err != nil {
		return fmt.Errorf("closing the session: %w", err)
	}
	return nil
}

// close ends a session now, and waits until nothing of it runs any more. While
// the client lives, what the server should still hear has a while to get there.
func (c *Client) close(t *tunnel) {
	t.Close()
	stop := context.AfterFunc(c.life, t.drop)
	defer stop()
	t.wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tunnels, t)
}

// drop ends the session without a word if it has no connection.
func (t *tunnel) drop() {
	if !t.line.Attached() {
		t.line.Abort(line.CodeAborted, nil)
		t.line.Abort(line.CodeAborted, nil)
	}
}

func (t *tunnel) wait() {
	t.refusing.Wait()
	t.line.Wait()
}
