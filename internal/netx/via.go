package netx

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// replyTimeout bounds what a proxy may take before it passes bytes on, TLS to it included.
const replyTimeout = 10 * time.Second

// Via returns a DialFunc that reaches an address through proxy, which it
// reaches by next; wrapped again, it is a chain. The schemes are http and https
// (CONNECT), socks5 and socks5h; names are looked up by the proxy with all of
// them. The URL's userinfo is what the proxy asks for.
//
// ctx bounds the call, not the life of the conn, which the caller closes. What
// a proxy did wrong is a [*ProxyError].
func Via(proxy *url.URL, next DialFunc) (DialFunc, error) {
	return via(proxy, next, nil)
}

func via(u *url.URL, next DialFunc, conf *tls.Config) (DialFunc, error) {
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	port, ok := ports[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("proxy scheme %q is none of http, https, socks5, socks5h", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("the proxy URL names no host: want " + u.Scheme + "://host:port")
	}
	h := &hop{
		scheme:  u.Scheme,
		address: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)),
		user:    u.User,
		next:    next,
	}
	if u.Scheme == "https" {
		h.tls = conf.Clone()
		if h.tls == nil {
			h.tls = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		}
		h.tls.ServerName = u.Hostname()
	}
	return h.dial, nil
}

// hop is one proxy and the way to it.
type hop struct {
	scheme, address string
	user            *url.Userinfo
	next            DialFunc
	tls             *tls.Config // to the proxy; nil: none
}

func (h *hop) dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, h.fail(address, "", fmt.Errorf("%s: %w", network, ErrNetwork))
	}
	if err := checkAddress(address); err != nil {
		return nil, h.fail(address, "", err)
	}
	c, err := h.next(ctx, "tcp", h.address)
	if err != nil {
		// The hop before has said which it was.
		if _, ok := errors.AsType[*ProxyError](err); ok {
			return nil, err
		}
		return nil, h.fail(address, "", err)
	}
	through, err := h.handshake(ctx, c, address)
	if err != nil {
		c.Close() // never to be used again, whatever it answered
		return nil, err
	}
	return through, nil
}

// checkAddress keeps what could end a header line out of the request.
func checkAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	strange := strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	switch {
	case strange, err == nil && host == "":
		return fmt.Errorf("no address: %q", address)
	case err != nil:
		return err
	}
	return nil
}

// handshake asks the proxy at the other end of c for address. It leaves no
// deadline on the conn that it returns, and c open when it fails.
func (h *hop) handshake(ctx context.Context, c net.Conn, address string) (net.Conn, error) {
	c.SetDeadline(time.Now().Add(replyTimeout))
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		c.SetDeadline(time.Unix(1, 0))
	})
	through, err := h.negotiate(c, address)
	if !stop() {
		<-interrupted // else it would hit the conn in the caller's hands
		return nil, h.fail(address, "", ctx.Err())
	}
	if err == nil {
		return through, c.SetDeadline(time.Time{})
	}
	if perr, ok := errors.AsType[*ProxyError](err); ok {
		return nil, perr
	}
	what, err := h.describe(err)
	return nil, h.fail(address, what, err)
}

// describe says in words what a failed read or write means here.
func (h *hop) describe(err error) (what string, cause error) {
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && h.connects():
		return "did not answer the CONNECT within 10 s", err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "did not answer within 10 s", err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed the connection before it answered", io.ErrUnexpectedEOF
	case notTLS:
		return "does not speak TLS", err
	}
	var op *net.OpError
	if errors.As(err, &op) { // without our own address, which is another each time
		err = op.Err
	}
	return "", err
}

func (h *hop) connects() bool { return h.scheme == "http" || h.scheme == "https" }

func (h *hop) negotiate(c net.Conn, address string) (net.Conn, error) {
	if h.tls != nil {
		t := tls.Client(c, h.tls)
		if err := t.Handshake(); err != nil {
			return nil, err
		}
		c = t
	}
	in := bufio.NewReaderSize(c, 4096)
	var err error
	if h.connects() {
		err = h.connect(c, in, address)
	} else {
		err = h.socks(c, in, address)
	}
	if err != nil || in.Buffered() == 0 {
		return c, err
	}
	// The target's first bytes came right behind the answer.
	rest, _ := in.Peek(in.Buffered())
	return withPrefix(c, bytes.Clone(rest)), nil
}

// prefixed is a conn of which the first bytes have been read already.
type prefixed struct {
	net.Conn
	mu     sync.Mutex
	prefix []byte
}

// withPrefix returns a conn that can do what c can.
func withPrefix(c net.Conn, prefix []byte) net.Conn {
	p := &prefixed{Conn: c, prefix: prefix}
	if w, ok := c.(writeCloser); ok {
		return struct {
			*prefixed
			writeCloser
		}{p, w}
	}
	return p
}

func (p *prefixed) Read(b []byte) (int, error) {
	p.mu.Lock()
	n := copy(b, p.prefix)
	p.prefix = p.prefix[n:]
	p.mu.Unlock()
	if n > 0 || len(b) == 0 {
		return n, nil
	}
	return p.Conn.Read(b)
}

func (p *prefixed) Abort(cause error) error { return Abort(p.Conn, cause) }
func (p *prefixed) Broken() error           { return Broken(p.Conn) }
