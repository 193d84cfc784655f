package access

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// CheckOrigin returns a [*FrontError] with 403 if a page of r's Origin may not
// talk to this server. A request without one is from no page, or from one of
// this very host; it passes.
func (f *Front) CheckOrigin(r *http.Request) error {
	values := r.Header["Origin"]
	if len(values) == 0 || slices.Contains(f.Origins, "any") {
		return nil
	}
	const text = "pages of this origin may not connect here"
	if len(values) > 1 {
		return &FrontError{Status: http.StatusForbidden, Text: text + ": more than one Origin"}
	}
	if values[0] == "null" {
		if slices.Contains(f.Origins, "null") {
			return nil
		}
		return &FrontError{Status: http.StatusForbidden, Text: text, Flag: "--origin null"}
	}
	o, err := parseOrigin(values[0])
	if err != nil {
		return &FrontError{Status: http.StatusForbidden, Text: text + ": malformed Origin"}
	}
	if f.lists(o) || o.isAt(hostOf(r)) {
		return nil
	}
	return &FrontError{Status: http.StatusForbidden, Text: text, Flag: "--origin " + shellQuote(o.String())}
}

// AllowOrigin returns what the answer to a plain GET says in
// Access-Control-Allow-Origin, and whether in -Credentials too; ok is false if
// it says nothing. A page asks this way why its WebSocket was refused.
func (f *Front) AllowOrigin(r *http.Request) (origin string, credentials, ok bool) {
	values := r.Header["Origin"]
	if len(values) != 1 {
		return "", false, false
	}
	if slices.Contains(f.Origins, "any") {
		return "*", false, true
	}
	if values[0] == "null" {
		// Any sandboxed frame of any page is "null", so it acts for nobody.
		return "null", false, slices.Contains(f.Origins, "null")
	}
	if o, err := parseOrigin(values[0]); err != nil || !f.lists(o) {
		return "", false, false
	}
	return values[0], true, true
}

func (f *Front) lists(o origin) bool {
	return slices.ContainsFunc(f.Origins, func(s string) bool {
		listed, err := parseOrigin(s)
		return err == nil && listed == o
	})
}

// An origin is SCHEME://HOST[:PORT], its one spelling.
type origin struct {
	scheme   string
	hostPort // the port is the scheme's own if none was given, 0 if it has none
}

var defaultPorts = map[string]uint16{"http": 80, "https": 443}

func parseOrigin(s string) (o origin, err error) {
	scheme, host, ok := strings.Cut(s, "://")
	if !ok || !isScheme(scheme) {
		return o, errors.New("write the whole origin, such as https://page.example")
	}
	o.scheme = strings.ToLower(scheme)
	if strings.ContainsAny(host, "/?#@\\") {
		return o, errors.New("an origin ends after host and port: write it as https://page.example")
	}
	if o.hostPort, err = parseHost(host); err != nil {
		return o, fmt.Errorf("write an origin such as https://page.example: %w", err)
	}
	if o.port == 0 {
		o.port = defaultPorts[o.scheme]
	}
	return o, nil
}

// isScheme reports whether s is a URL's scheme, RFC 3986 §3.1.
func isScheme(s string) bool {
	for i, c := range strings.ToLower(s) {
		if !('a' <= c && c <= 'z') && (i == 0 || !('0' <= c && c <= '9') && !strings.ContainsRune("+-.", c)) {
			return false
		}
	}
	return s != ""
}

// isAt reports whether o is a web page's and at host, which is a Host header:
// its scheme is not known behind a proxy, so a port that it leaves out is that
// of o's scheme.
func (o origin) isAt(host string) bool {
	h, err := parseHost(host)
	port, isWeb := defaultPorts[o.scheme]
	if err != nil || !isWeb {
		return false
	}
	if h.port != 0 {
		port = h.port
	}
	return h.name == o.name && port == o.port
}

func (o origin) String() string {
	host := o.name
	if o.ip.Is6() {
		host = "[" + host + "]"
	}
	if o.port != 0 && o.port != defaultPorts[o.scheme] {
		host = net.JoinHostPort(o.name, strconv.Itoa(int(o.port)))
	}
	return o.scheme + "://" + host
}
