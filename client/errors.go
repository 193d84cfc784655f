package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"wstun/internal/line"
	"wstun/internal/netx"
	"wstun/internal/tlsconf"
	"wstun/internal/wsconn"
)

// An Error is why no session could be made.
type Error struct {
	Temporary bool // trying again may help
	Refused   bool // the server knows the client and refuses it
	Err       error
	hints     []string
	after     time.Duration
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns what was met.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode is 3 for a refusal by the server, 1 for everything else.
func (e *Error) ExitCode() int {
	if e.Refused {
		return 3
	}
	return 1
}

// Hints say what would help.
func (e *Error) Hints() []string { return e.hints }

// RetryAfter is when to ask again: what the server says, or a while where it
// refuses and somebody has to do something first. 0: any time.
func (e *Error) RetryAfter() time.Duration {
	if !e.Temporary {
		return max(e.after, 5*time.Second)
	}
	return e.after
}

func retryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.after
	}
	return 0
}

// explain says in a user's words what went wrong on the way to a session.
func (c *Client) explain(err error) error {
	var status *wsconn.StatusError
	var proxy *netx.ProxyError
	var reject *line.RejectError
	var ue *url.Error
	where := shown(c.cfg.URL)
	switch {
	case errors.As(err, &status):
		return explainStatus(where, status)
	case errors.As(err, &proxy):
		e := &Error{Err: proxy, Temporary: proxy.Status == 0 || proxy.Status >= 500}
		if hint := proxy.Hint(); hint != "" {
			e.hints = []string{hint}
		}
		return e
	case errors.As(err, &reject):
		return &Error{Err: reject, Temporary: reject.Code == line.RejectDraining || reject.Code == line.RejectBusy,
			after: min(reject.After, time.Minute)}
	case isTLS(err):
		return explainTLS(where, err)
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Temporary: true, Err: fmt.Errorf("%s did not answer in time", where)}
	case errors.As(err, &ue) && errors.Is(ue.Err, io.EOF):
		return &Error{Temporary: true, Err: fmt.Errorf("%s closed the connection without an answer", where), hints: []string{noServer}}
	case errors.As(err, &ue) && isJunk(ue.Err):
		return &Error{Err: fmt.Errorf("%s is not an HTTP server: %w", where, ue.Err), hints: []string{noServer}}
	case errors.As(err, &ue):
		return &Error{Temporary: true, Err: lasting(where, ue.Err)}
	case strings.Contains(err.Error(), "WebSocket protocol violation"): // the library's words
		return &Error{Err: fmt.Errorf("%s answers 101, but no WebSocket handshake", where), hints: []string{noServer}}
	case strings.Contains(err.Error(), "does not speak"), errors.Is(err, line.ErrProtocol):
		return &Error{Err: fmt.Errorf("%s is not a wstun server: %w", where, err), hints: []string{noServer}}
	}
	return &Error{Temporary: true, Err: err}
}

// shown is u for people and logs: a query may hold a token.
func shown(u *url.URL) string {
	bare := *u
	bare.RawQuery = ""
	return bare.Redacted()
}

// lasting leaves out of err what differs at each attempt, our own address, so
// that the same trouble is said once.
func lasting(where string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op != "dial" {
		return fmt.Errorf("%s: %s: %w", where, op.Op, op.Err)
	}
	return err
}

const noServer = "the URL must be that of a wstun server, with the path it has behind a proxy"

// explainStatus says what an answer of HTTP means.
func explainStatus(where string, s *wsconn.StatusError) error {
	e := &Error{Err: fmt.Errorf("%s answered %d %s%s", where, s.Code, http.StatusText(s.Code), firstLine(s.Body))}
	switch s.Code {
	case http.StatusUnauthorized:
		e.Refused = true
		e.Err = fmt.Errorf("%s asks for a user name and password or a token (401)", where)
		e.hints = []string{"give --user NAME with --password-file FILE, or --token-file FILE"}
		if s.Sent {
			e.Err = fmt.Errorf("%s refuses the credentials (401)", where)
			e.hints = []string{"the user name, the password or the token is not one of the server's --users file"}
		}
	case http.StatusForbidden, http.StatusMisdirectedRequest:
		e.Refused = true
	case http.StatusBadRequest:
		e.hints = []string{noServer}
		if strings.Contains(s.Body, "HTTPS server") { // what net/http says, and nginx in like words
			e.hints = []string{"the server speaks TLS there: use wss://"}
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.Temporary = true
		if n, err := strconv.Atoi(s.Header.Get("Retry-After")); err == nil && n > 0 {
			e.after = min(time.Duration(n)*time.Second, time.Minute)
		}
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		e.Temporary = true
	default:
		e.hints = []string{noServer}
		if s.Redirect != "" {
			e.hints = []string{"it points to " + s.Redirect + "; a redirect is not followed, since it would take credentials along"}
		}
	}
	return e
}

// firstLine is what is worth showing of a body: short plain text.
func firstLine(body string) string {
	l, _, _ := strings.Cut(strings.TrimSpace(body), "\n")
	if l == "" || len(l) > 200 || strings.HasPrefix(l, "<") {
		return ""
	}
	return fmt.Sprintf(": %q", l)
}

func isTLS(err error) bool {
	var verify *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &verify) || errors.As(err, &header) || errors.As(err, &alert) || isPin(err) ||
		errors.Is(err, http.ErrSchemeMismatch)
}

// isPin reports whether the server's key is not one of those pinned.
func isPin(err error) bool {
	var pe *tlsconf.PinError
	return errors.As(err, &pe)
}

func explainTLS(where string, err error) error {
	e := &Error{}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	e.Err = fmt.Errorf("%s: %w", where, err)
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var header tls.RecordHeaderError
	switch {
	case isPin(err):
		e.hints = []string{"if the server's key was changed on purpose, give its new pin to --tls-pin"}
	case errors.As(err, &unknown):
		e.hints = []string{"give the certificate's authority with --tls-ca FILE, or the server's key with --tls-pin sha256/…"}
	case errors.As(err, &name):
		e.hints = []string{"use a name that is in the certificate, or give it with --sni NAME"}
	case errors.As(err, &header), errors.Is(err, http.ErrSchemeMismatch):
		e.hints = []string{"the server does not speak TLS there: use ws:// or another port"}
	}
	return e
}

// isJunk reports whether net/http met something that is no HTTP. An answer that
// breaks off is malformed for it as well. It is told by the library's words.
func isJunk(err error) bool {
	const http = "HTTP/"
	if _, quoted, ok := strings.Cut(err.Error(), "malformed HTTP response "); ok {
		line, _ := strconv.Unquote(quoted)
		return !strings.HasPrefix(line, http) && !strings.HasPrefix(http, line)
	}
	if _, quoted, ok := strings.Cut(err.Error(), "malformed HTTP status code "); ok {
		code, _ := strconv.Unquote(quoted)
		return strings.Trim(code, "0123456789") != ""
	}
	return strings.Contains(err.Error(), "malformed HTTP version ")
}
