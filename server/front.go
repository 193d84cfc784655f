package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"wstun/internal/access"
)

// A front is a listener's way in: it judges every request before anything is
// done for it.
type front struct {
	s     *Server
	front access.Front
}

// tunnelProtocol is the subprotocol of sessions. Any that begins with
// tunnelPrefix asks for one.
const (
	tunnelProtocol = "wstun.v1"
	tunnelPrefix   = "wstun."
	bearerPrefix   = "bearer."
)

// An httpError is an answer that refuses. Its text is what the peer may know.
type httpError struct {
	status int
	text   string
	cause  error // for the log; nil: the text says it all
}

func (e *httpError) Error() string {
	if e.cause != nil {
		return e.cause.Error()
	}
	return e.text
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = &patient{w}
	if r.URL.Path == "/healthz" && !isUpgrade(r) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, "ok\n")
		return
	}
	p, err := f.judge(w, r)
	switch {
	case err != nil:
	case isUpgrade(r):
		err = f.upgrade(w, r, p)
	default:
		err = f.plain(w, r, p)
	}
	if err != nil {
		f.refuse(w, r, p, err)
	}
}

// patient gives a client that reads an answer slowly time as long as it reads,
// and no longer: net/http's limit is one for all of an answer.
type patient struct{ http.ResponseWriter }

const answerQuiet = 30 * time.Second

func (p *patient) Write(b []byte) (int, error) {
	p.limit()
	return p.ResponseWriter.Write(b)
}

func (p *patient) WriteHeader(status int) {
	p.limit()
	p.ResponseWriter.WriteHeader(status)
}

func (p *patient) limit() {
	// A conn that knows no deadline, in a test, has none.
	http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(answerQuiet))
}

// Unwrap lets the WebSocket take the conn over, and its deadline away.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func isUpgrade(r *http.Request) bool { return hasToken(r.Header["Upgrade"], "websocket") }

func hasToken(values []string, token string) bool {
	for _, t := range tokens(values) {
		if strings.EqualFold(t, token) {
			return true
		}
	}
	return false
}

func tokens(values []string) (list []string) {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if t = strings.TrimSpace(t); t != "" {
				list = append(list, t)
			}
		}
	}
	return list
}

// judge asks where a request comes from and who sent it.
func (f *front) judge(w http.ResponseWriter, r *http.Request) (access.Principal, error) {
	if origin, credentials, ok := f.front.AllowOrigin(r); ok {
		// So that a page of that origin can read why its WebSocket failed.
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Vary", "Origin")
		if credentials {
			w.Header().Set("Access-Control-Allow-Credentials", "true")
		}
	}
	if err := f.front.CheckHost(r); err != nil {
		return access.Principal{}, err
	}
	if err := f.front.CheckOrigin(r); err != nil {
		return access.Principal{}, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), upgradeTimeout) // others may log in as well
	defer cancel()
	return f.s.cfg.Policy.Authenticate(r.WithContext(ctx))
}

// upgrade serves a request for a WebSocket.
func (f *front) upgrade(w http.ResponseWriter, r *http.Request, p access.Principal) error {
	switch {
	case r.Method != http.MethodGet:
		return &httpError{status: http.StatusMethodNotAllowed, text: "a WebSocket begins with GET"}
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return &httpError{status: http.StatusBadRequest, text: "a request for a WebSocket has no body"}
	case !r.ProtoAtLeast(1, 1) || !hasToken(r.Header["Connection"], "upgrade"):
		return &httpError{status: http.StatusBadRequest, text: "a request for a WebSocket is HTTP/1.1 and says Connection: Upgrade"}
	case !isHandshake(r):
		w.Header().Set("Sec-WebSocket-Version", "13")
		return &httpError{status: http.StatusBadRequest, text: "not a WebSocket handshake of version 13"}
	}
	offered := tokens(r.Header["Sec-Websocket-Protocol"])
	for _, o := range offered {
		if strings.HasPrefix(o, tunnelPrefix) {
			return f.s.acceptTunnel(w, r, p, offered)
		}
	}
	return f.s.acceptBrowser(w, r, p, offered)
}

// isHandshake checks what RFC 6455 §4.2.1 asks for besides, so that whatever
// is refused is refused here.
func isHandshake(r *http.Request) bool {
	keys := r.Header["Sec-Websocket-Key"]
	if len(keys) != 1 || r.Header.Get("Sec-Websocket-Version") != "13" {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0]))
	return err == nil && len(key) == 16
}

// plain answers a request that asks for no WebSocket: with a file, or with
// what a WebSocket here would be answered, since a page cannot see that.
func (f *front) plain(w http.ResponseWriter, r *http.Request, p access.Principal) error {
	if f.s.cfg.Web != nil && has(f.s.cfg.Web, r.URL.Path) {
		f.s.files.ServeHTTP(w, r)
		return nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return &httpError{status: http.StatusMethodNotAllowed, text: "only GET is answered here"}
	}
	if _, err := f.s.target(r, p); err != nil {
		return err
	}
	select {
	case <-f.s.drain:
		return errDraining
	default:
	}
	w.Header().Set("Upgrade", "websocket")
	return &httpError{status: http.StatusUpgradeRequired,
		text: "This is a WebSocket endpoint of wstun. A page reaches what is behind it with new WebSocket(location.href.replace(/^http/, \"ws\"))."}
}

// refuse answers with err, and logs what the peer is not told.
func (f *front) refuse(w http.ResponseWriter, r *http.Request, p access.Principal, err error) {
	e := answerTo(err)
	level := f.s.cfg.Log.Warn
	if e.status == http.StatusUpgradeRequired || e.status == http.StatusNotFound || errors.Is(err, access.ErrNoCredentials) {
		level = f.s.cfg.Log.Debug
	}
	claims, _, _ := r.BasicAuth()
	level("request refused", "from", r.RemoteAddr, "user", cmp.Or(p.Name, claims), "method", r.Method, "path", r.URL.Path,
		"origin", r.Header.Get("Origin"), "status", e.status, "why", e.Error())

	h := w.Header()
	switch e.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="wstun", charset="UTF-8"`)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", busyRetry)
	}
	// A front proxy must not take what follows for a tunnel, nor send more
	// requests behind it.
	h.Set("Connection", "close")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	// connect-src lets the developer console of this page try the endpoint.
	h.Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; frame-ancestors 'none'")
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead {
		io.WriteString(w, e.text+"\n")
	}
}

// answerTo says what the peer is told of err.
func answerTo(err error) *httpError {
	var he *httpError
	var fe *access.FrontError
	var refusal *access.Refusal
	switch {
	case errors.As(err, &he):
		return he
	case errors.As(err, &fe):
		return &httpError{fe.Status, fe.Text, fe}
	case errors.As(err, &refusal):
		return &httpError{http.StatusForbidden, "not allowed", refusal}
	case errors.Is(err, access.ErrUnauthenticated):
		return &httpError{http.StatusUnauthorized, "a user name and password or a token are needed", err}
	case errors.Is(err, access.ErrBusy):
		return &httpError{http.StatusServiceUnavailable, "too many logins at once, try again soon", err}
	}
	return &httpError{http.StatusInternalServerError, "failed", err}
}

var errDraining = &httpError{status: http.StatusServiceUnavailable, text: "the server is about to stop"}

func unknownProtocol(offered []string) error {
	return &httpError{status: http.StatusBadRequest, text: fmt.Sprintf("none of the subprotocols %q is spoken here", offered)}
}
