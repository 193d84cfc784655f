// Package client keeps a session with a server and runs forwards over it.
//
// The session comes and goes; listeners stay, and a local connection that
// arrives meanwhile waits. What may be opened is the server's to say.
package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"wstun/internal/netx"
	"wstun/mux"
)

// Config says which server to reach, how, and what to forward. URL and Log are
// required.
type Config struct {
	URL      *url.URL      // ws, wss, http or https
	Dial     netx.DialFunc // the way to the server; nil: directly
	TLS      *tls.Config   // of wss; nil: the defaults
	Header   http.Header   // sent with each handshake
	Host     string        // sent in place of the URL's; empty: the URL's
	Network  netx.Network  // where forwards listen; nil: this host
	Forwards []Forward

	// Credentials returns the value of the Authorization header. It is asked
	// at each handshake; nil: none is sent.
	Credentials func() (string, error)

	// Wait is how long a local connection waits for a session. 0: 30 s.
	Wait time.Duration

	// Single gives each connection a session, and so a WebSocket, of its own.
	Single bool

	// MaxAge is after which time the connection under a session is replaced
	// by another, while it works; 0: never.
	MaxAge time.Duration

	// Watch calls changed whenever the way to the server may have changed,
	// until ctx is done; nil: nothing tells.
	Watch func(ctx context.Context, changed func(why string))

	Via string // the way, if Dial is not direct, for the log
	// Listening is called for each address that a forward listens on; may be nil.
	Listening func(Forward, net.Addr)

	HalfOpen time.Duration // how long a half-closed stream may be silent; 0: for ever
	Agent    string        // this program and its version, told to the server
	Log      *slog.Logger
}

// A Client runs once.
type Client struct {
	cfg Config
	id  [16]byte

	soft context.Context // done: nothing new is taken
	stop context.CancelFunc
	life context.Context // done: everything ends, for its cause
	end  context.CancelCauseFunc

	mu      sync.Mutex
	tunnel  *tunnel              // of new connections; nil while there is none
	tunnels map[*tunnel]struct{} // all that have not ended
	changed chan struct{}        // closed, and replaced, when tunnel changes, or whether it is attached
	waiting int
	known   bool // there was a session, and the last attempt to make one succeeded

	relays sync.WaitGroup // what Shutdown waits for
	rest   sync.WaitGroup // sessions on their way out
}

const (
	maxWaiting = 1024 // local connections without a session
	maxTries   = 5    // sessions that a local connection finds lost when it wants to use them
)

// New returns a client that does nothing until Run.
func New(cfg Config) *Client {
	if cfg.Network == nil {
		cfg.Network = &netx.Host{}
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Wait == 0 {
		cfg.Wait = 30 * time.Second
	}
	c := &Client{cfg: cfg, changed: make(chan struct{}), tunnels: map[*tunnel]struct{}{}}
	rand.Read(c.id[:])
	c.soft, c.stop = context.WithCancel(context.Background())
	c.life, c.end = context.WithCancelCause(context.Background())
	return c
}

// Run listens for the forwards and serves them until Shutdown, when it returns
// nil. A port that cannot be had is an error before anything else is done; a
// server that refuses the client before it was ever connected ends it, too.
func (c *Client) Run() error {
	if err := c.listen(); err != nil {
		c.stop()
		c.end(err)
		return err
	}
	c.watch()
	err := c.keep(c.connected)
	c.stop()
	c.end(err)
	c.relays.Wait()
	c.rest.Wait()
	return err
}

// Shutdown stops accepting, and lets what runs go on until it ends or ctx is
// done; what is left then is aborted. It returns at once in the latter case,
// with the cause of ctx; Run returns when nothing runs any more.
func (c *Client) Shutdown(ctx context.Context) error {
	c.stop()
	done := make(chan struct{})
	go func() { c.relays.Wait(); close(done) }() // ends with Run
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	c.end(netx.ErrDraining)
	return err
}

// listen starts an accept loop for each address of each forward.
func (c *Client) listen() error {
	type listening struct {
		net.Listener
		f Forward
	}
	var all []listening
	for _, f := range c.cfg.Forwards {
		lns, err := f.Listen.Listen(c.life, c.cfg.Network)
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return err
		}
		for _, ln := range lns {
			all = append(all, listening{ln, f})
		}
	}
	for _, l := range all {
		log := c.cfg.Log.With("from", l.Addr(), "to", l.f.Address, "through", shown(c.cfg.URL))
		if c.cfg.Via != "" {
			log = log.With("by", c.cfg.Via)
		}
		log.Info("forwarding")
		if c.cfg.Listening != nil {
			c.cfg.Listening(l.f, l.Addr())
		}
		c.relays.Go(func() {
			defer context.AfterFunc(c.soft, func() { l.Close() })()
			netx.Serve(c.life, l, func(ctx context.Context, conn net.Conn) { c.forward(ctx, conn, l.f) })
		})
	}
	return nil
}

// forward serves one local connection.
func (c *Client) forward(ctx context.Context, local net.Conn, f Forward) {
	log := c.cfg.Log.With("from", local.RemoteAddr(), "to", f.Address)
	start := time.Now()
	st, err := c.open(ctx, f)
	if err != nil {
		log.Warn("connection refused", "why", err)
		netx.Abort(local, err)
		return
	}
	relayOver(ctx, local, st, c.cfg.HalfOpen, log, start)
}

// open opens a stream for f on the present session, or the next. A session
// that turns out to be lost carried nothing of f's yet, so the next will do.
func (c *Client) open(ctx context.Context, f Forward) (*mux.Stream, error) {
	for tries := 1; ; tries++ {
		wait, cancel := context.WithTimeout(ctx, c.cfg.Wait)
		t, err := c.take(wait)
		cancel()
		if err != nil {
			return nil, err
		}
		st, err := t.DialEarly(ctx, f.Network, f.Address)
		if c.cfg.Single {
			c.rest.Go(func() { c.retire(t) })
		}
		if !errors.Is(err, mux.ErrLost) || tries == maxTries {
			return st, err
		}
		c.mu.Lock()
		if c.tunnel == t {
			c.tunnel = nil // keep is about to say so
		}
		c.mu.Unlock()
	}
}

// take returns the session for one more connection: the present one, or, with
// Single, one that nobody else gets.
func (c *Client) take(ctx context.Context) (*tunnel, error) {
	if !c.cfg.Single {
		return c.wait(ctx)
	}
	c.mu.Lock()
	known := c.known
	c.mu.Unlock()
	for {
		if t := c.takeSpare(); t != nil {
			return t, nil
		}
		if known { // the server is well as far as is known: no need to wait for keep
			if t, err := c.connect(ctx); err == nil {
				return t, nil
			}
			known = false
		}
		if _, err := c.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// takeSpare returns the session that keep has made for the next connection;
// nil: there is none.
func (c *Client) takeSpare() *tunnel {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tunnel
	if t == nil || !t.line.Attached() {
		return nil
	}
	c.tunnel = nil
	close(t.taken)
	return t
}

// wait returns the present session, or the next. One that has lost its
// connection has it again soon, or another takes its place.
func (c *Client) wait(ctx context.Context) (*tunnel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ready := func() bool { return c.tunnel != nil && c.tunnel.line.Attached() }
	if !ready() && c.waiting >= maxWaiting {
		return nil, netx.ErrLimit
	}
	c.waiting++
	defer func() { c.waiting-- }()
	for !ready() {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if err := context.Cause(ctx); errors.Is(err, context.DeadlineExceeded) {
			return nil, errNoSession
		} else if err != nil {
			return nil, err
		}
	}
	return c.tunnel, nil
}

var errNoSession = errors.New("not connected to the server")

// connected makes t the session of new connections; nil: there is none.
func (c *Client) connected(t *tunnel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tunnel = t
	c.change()
}

// change wakes those who wait for a session.
func (c *Client) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Dial opens a connection to address on the server's side, over the present
// session of a Client that runs, or the next. ctx bounds the call. The caller
// closes the conn.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := c.take(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := t.Dial(ctx, network, address)
	if c.cfg.Single {
		c.rest.Go(func() { c.retire(t) })
	}
	return conn, err
}
