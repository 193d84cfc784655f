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
	line *line.Conn
	ws   *wsconn.Conn
	away chan struct{} // the server wants new streams elsewhere

	refusing sync.WaitGroup
}

// connect makes a session. ctx bounds the call. An error that is the server's
// or a proxy's answer is a *Error.
func (c *Client) connect(ctx context.Context) (*tunnel, error) {
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
	dialing, cancel := context.WithTimeout(ctx, 2*handshakeTimeout)
	defer cancel()
	ws, err := wsconn.Dial(dialing, c.cfg.URL.String(), wsconn.DialOptions{
		Dial: c.cfg.Dial, TLS: c.cfg.TLS, Header: header, Host: c.cfg.Host, Subprotocol: tunnelProtocol,
	})
	if err != nil {
		return nil, c.explain(err)
	}
	ws.SetMessageLimit(line.MaxMessage)
	greeting, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	l, err := line.Dial(greeting, ws, line.Hello{Agent: c.cfg.Agent, ClientID: c.id}, line.Config{Window: line.WindowFor(ws.RTT())})
	if err != nil {
		ws.Wait()
		return nil, c.explain(err)
	}
	t := &tunnel{line: l, ws: ws, away: make(chan struct{})}
	l.OnGoAway(t.goAway)
	// A peer that begins with half a frame holds yamux up.
	stop := context.AfterFunc(greeting, func() { l.Abort(line.CodeAborted, context.Cause(greeting)) })
	defer stop()
	if t.Session, err = mux.Client(l, mux.Config{StreamWindow: mux.WindowFor(l.Session().RTT), MaxStreams: 1}); err != nil {
		t.wait()
		return nil, err
	}
	t.refusing.Go(t.refuse)
	return t, nil
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

// close ends the session now, and waits until nothing of it runs any more.
func (t *tunnel) close() {
	t.Close()
	t.wait()
}

func (t *tunnel) wait() {
	t.refusing.Wait()
	t.line.Wait()
	t.ws.Wait()
}
