package wsconn

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// DialOptions say how to reach a server. The zero value dials it directly.
type DialOptions struct {
	Dial        func(ctx context.Context, network, address string) (net.Conn, error) // nil: net.Dialer
	TLS         *tls.Config                                                          // for wss; nil: the defaults
	Header      http.Header                                                          // of the request
	Host        string                                                               // of the request; empty: the URL's
	Subprotocol string                                                               // asked for; a server that does not agree is an error
	Alive       func()                                                               // called when the handshake goes on: dialled, bytes received; may be nil
}

// A StatusError is why the server did not upgrade the connection.
type StatusError struct {
	Code     int    // of HTTP
	Body     string // the first 1,024 bytes
	Header   http.Header
	Redirect string // where it points; empty: nowhere
	Sent     bool   // the request had an Authorization header
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Code, http.StatusText(e.Code))
}

// Dial connects to url, of scheme ws, wss, http or https. ctx bounds the call,
// not the life of the Conn, which the caller ends. An answer other than 101 is
// a [*StatusError]; a redirect is never followed, since it would carry
// credentials to where they were not meant for.
func Dial(ctx context.Context, url string, o DialOptions) (*Conn, error) {
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	var mu sync.Mutex
	var w *wire
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			w = newWire(c)
			w.watched(o.Alive)
			return w, nil
		},
		TLSClientConfig:        o.TLS,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		DisableKeepAlives:      true,
	}
	defer transport.CloseIdleConnections()
	ctx, roundTrip := timed(ctx)
	guard := new(pings)
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     noEnds{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:      o.Header,
		Host:            o.Host,
		Subprotocols:    subprotocols(o.Subprotocol),
		CompressionMode: websocket.CompressionDisabled,
		OnPingReceived:  guard.answer,
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			e := statusError(resp)
			e.Sent = o.Header.Get("Authorization") != ""
			return nil, e
		}
		return nil, err
	}
	ws.SetReadLimit(-1)
	mu.Lock()
	c := newConn(ws, w)
	c.rtt = roundTrip()
	mu.Unlock()
	c.wire.upgrade(false)
	guard.of(c)
	if o.Subprotocol != "" && ws.Subprotocol() != o.Subprotocol {
		c.Close()
		c.Wait()
		return nil, fmt.Errorf("the server does not speak %s", o.Subprotocol)
	}
	return c, nil
}

// timed returns ctx for a request, and what tells how long its answer took.
func timed(ctx context.Context) (context.Context, func() time.Duration) {
	var mu sync.Mutex
	var asked, answered time.Time
	note := func(t *time.Time) {
		mu.Lock()
		defer mu.Unlock()
		*t = time.Now()
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { note(&asked) },
		GotFirstResponseByte: func() { note(&answered) },
	})
	return ctx, func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return max(answered.Sub(asked), 0)
	}
}

func subprotocols(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func statusError(resp *http.Response) *StatusError {
	e := &StatusError{Code: resp.StatusCode, Header: resp.Header, Redirect: resp.Header.Get("Location")}
	if resp.Body != nil {
		b := make([]byte, 1024)
		n, _ := resp.Body.Read(b)
		e.Body = string(b[:n])
	}
	return e
}
