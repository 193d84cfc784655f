package netx

import (
	"slices"
	"strconv"
	"strings"
)

// maxQuote bounds what an error repeats of a proxy's words, in bytes.
const maxQuote = 80

// The answers that a hint depends on.
const (
	statusForbidden = 403
	statusAuth      = 407
)

// ProxyError is what a proxy answered instead of passing bytes on, or why it
// gave no answer.
type ProxyError struct {
	Proxy   string   // host:port, never a user name or password
	Address string   // that it was asked for
	Status  int      // HTTP status; 403 and 407 are also what a SOCKS proxy means; 0: none
	Offers  []string // ways to authenticate that a 407 names: "Basic", "NTLM"
	Err     error    // the cause, if the proxy's answer is not all there is

	what          string // the sentence that begins with the proxy; empty: Err says it
	scheme        string
	authenticated bool // a user name was sent
}

func (h *hop) fail(address, what string, err error) *ProxyError {
	return &ProxyError{Proxy: h.address, Address: address, Err: err, what: what, scheme: h.scheme, authenticated: h.user != nil}
}

func (e *ProxyError) Error() string {
	if e.what != "" {
		return "proxy " + e.Proxy + " " + e.what
	}
	return "proxy " + e.Proxy + ": " + e.Err.Error()
}

func (e *ProxyError) Unwrap() error { return e.Err }

// Hint says what the user can do about it, "" if there is nothing to say.
func (e *ProxyError) Hint() string {
	switch {
	case e.Status == statusAuth && e.authenticated && e.offers("Basic"):
		return "the proxy does not accept this user name and password"
	case e.Status == statusAuth && !e.offers("Basic"):
		return "the proxy wants " + strings.Join(e.Offers, " or ") + " and wstun answers with Basic only"
	case e.Status == statusAuth:
		return "the proxy wants a user name and password: --proxy " + e.scheme + "://user:pass@host:port (or HTTPS_PROXY)"
	case e.Status == statusForbidden:
		return "the proxy does not allow " + e.Address
	case e.Status/100 == 5:
		return "the proxy could not reach " + e.Address
	case e.Status == 0:
		return "check that " + e.Proxy + " is a proxy of this kind: --proxy (or HTTPS_PROXY) takes http://, https:// and socks5://"
	}
	return ""
}

// offers reports whether the proxy would take scheme; one that names none may.
func (e *ProxyError) offers(scheme string) bool {
	return len(e.Offers) == 0 || slices.ContainsFunc(e.Offers, func(s string) bool { return strings.EqualFold(s, scheme) })
}

// junkError is an answer in another protocol.
type junkError struct {
	want string
	said []byte
}

func (e *junkError) Error() string { return "not " + e.want + " proxy: it said " + quote(e.said) }

// quote makes one line of what a proxy said, whatever it was.
func quote(b []byte) string {
	if len(b) > maxQuote {
		return strconv.QuoteToASCII(string(b[:maxQuote])) + "…"
	}
	return strconv.QuoteToASCII(strings.TrimRight(string(b), "\r\n"))
}
