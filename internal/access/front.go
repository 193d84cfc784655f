package access

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Front judges what a request says about where it comes from: its Host,
// which tells a page that was rebound to this address, and its Origin, which
// tells a page of someone else. It may be used concurrently.
type Front struct {
	Hosts     []string // names, and "any"; none: names that nobody can rebind
	Origins   []string // origins such as "https://page.example", "null", "any"
	CertNames []string // of the listener's certificate; they count as Hosts, one leading *. is a label
	Hostname  string   // this machine's own name; "" asks the system
	Loopback  bool     // the listener is bound to loopback
	Public    bool     // something on the listener needs no credentials
	Basic     bool     // browsers may send credentials by themselves: Basic, cookies
}

// A FrontError is why a request is refused before it is asked who sent it.
type FrontError struct {
	Status int    // of the answer: 421 or 403
	Text   string // of the answer
	Flag   string // what would let it pass, ready to paste; "" if nothing would
}

// Error is the operator's text.
func (e *FrontError) Error() string {
	if e.Flag == "" || strings.Contains(e.Text, e.Flag) {
		return e.Text
	}
	return e.Text + "; " + e.Flag + " would allow it"
}

// Validate reports what is wrong with the configuration.
func (f *Front) Validate() error {
	for _, h := range f.Hosts {
		if h == "any" {
			continue
		}
		if h == "" || strings.HasPrefix(h, "[") || strings.Contains(h, "/") {
			return fmt.Errorf("host %q: write a name alone, such as desk.example.com", h)
		}
		if _, _, err := canonicalHost(h); err != nil {
			return fmt.Errorf("host %q: write a name alone, such as desk.example.com: %w", h, err)
		}
	}
	for _, o := range f.Origins {
		if o == "any" || o == "null" {
			continue
		}
		if _, err := parseOrigin(o); err != nil {
			return fmt.Errorf("origin %q: %w", o, err)
		}
	}
	if f.Basic && slices.Contains(f.Origins, "any") {
		return errors.New("origin any: with passwords any page could act as whoever is logged in: name the pages, such as https://page.example")
	}
	return nil
}

// CheckHost returns a [*FrontError] with 421 if the listener does not answer
// to r's Host.
func (f *Front) CheckHost(r *http.Request) error {
	upgrade := isUpgrade(r)
	if slices.Contains(f.Hosts, "any") || !upgrade && neverAsked(r.URL.Path) {
		return nil
	}
	if !f.Loopback && len(f.Hosts) == 0 {
		// Rebinding makes a page of the host that is asked, so only a browser
		// can be its victim, and only where being able to ask is enough.
		if !f.Public || upgrade && len(r.Header["Origin"]) == 0 {
			return nil
		}
	}
	h, err := parseHost(hostOf(r))
	if err != nil {
		return &FrontError{Status: http.StatusMisdirectedRequest, Text: "the request's Host is malformed"}
	}
	if f.answersTo(h) {
		return nil
	}
	flag := "--host " + shellQuote(h.name)
	text := fmt.Sprintf("this server does not answer to the host %q; %s would make it", h.name, flag)
	return &FrontError{Status: http.StatusMisdirectedRequest, Text: text, Flag: flag}
}

// hostOf returns the Host that r was sent to. X-Forwarded-Host would be it for
// a trusted proxy's request; there are no trusted proxies yet.
func hostOf(r *http.Request) string { return r.Host }

// neverAsked are the paths for machines that know no name: health checks and
// certificate authorities.
func neverAsked(p string) bool {
	p = path.Clean("/" + p)
	return p == "/healthz" || strings.HasPrefix(p, "/.well-known/acme-challenge/")
}

// isUpgrade reports whether r asks for a WebSocket.
func isUpgrade(r *http.Request) bool {
	for _, value := range r.Header["Upgrade"] {
		for word := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(word), "websocket") {
				return true
			}
		}
	}
	return false
}

func (f *Front) answersTo(h hostPort) bool {
	if f.isNamed(h) {
		return true
	}
	switch {
	case f.Loopback:
		return h.ip.IsLoopback() || h.name == "localhost" || strings.HasSuffix(h.name, ".localhost")
	case h.ip.IsValid():
		return true
	case len(f.Hosts) > 0:
		return false
	}
	return f.cannotBeRebound(h.name)
}

// isNamed reports whether h is a name that the operator gave, in whatever place.
func (f *Front) isNamed(h hostPort) bool {
	for _, name := range f.Hosts {
		if n, _, err := canonicalHost(name); err == nil && n == h.name {
			return true
		}
	}
	for _, origin := range f.Origins {
		if o, err := parseOrigin(origin); err == nil && o.name == h.name {
			return true
		}
	}
	for _, name := range f.CertNames {
		if n, ok := strings.CutPrefix(strings.ToLower(name), "*."); ok {
			if _, parent, ok := strings.Cut(h.name, "."); ok && parent == n {
				return true
			}
		} else if n, _, err := canonicalHost(name); err == nil && n == h.name {
			return true
		}
	}
	return false
}

// cannotBeRebound reports whether no stranger's DNS server answers for name.
func (f *Front) cannotBeRebound(name string) bool {
	if !strings.Contains(name, ".") {
		return true
	}
	for _, suffix := range []string{".localhost", ".local", ".lan", ".internal", ".home.arpa"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	own := f.Hostname
	if own == "" {
		own, _ = os.Hostname()
	}
	own, err := canonicalName(own)
	return err == nil && own == name
}

// A hostPort is HOST[:PORT] of a header.
type hostPort struct {
	name string     // canonical
	ip   netip.Addr // what name is, if it is an address
	port uint16     // 0: none given
}

// parseHost reads HOST[:PORT] as clients send it: IPv6 in brackets, the port
// perhaps empty.
func parseHost(s string) (h hostPort, err error) {
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host = s[:i]
		if port := s[i+1:]; port != "" {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return h, err
			}
			h.port = uint16(n)
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(host, ":") {
			return h, &net.AddrError{Err: "malformed brackets", Addr: s}
		}
	} else if strings.Contains(host, ":") {
		return h, &net.AddrError{Err: "IPv6 without brackets", Addr: s}
	}
	h.name, h.ip, err = canonicalHost(host)
	return h, err
}
