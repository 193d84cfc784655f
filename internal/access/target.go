package access

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"wstun/internal/netx"
)

// A Target is what someone asks to dial, or to listen on, in its one spelling.
type Target struct {
	Network string     // "tcp", "udp", "unix" or "service"
	Host    string     // as asked for: a name, an address, a path, a service; "*" binds every address
	Port    uint16     // 0 for unix and service, and to bind any port
	IP      netip.Addr // what Host is or resolved to; invalid while that is not known
}

// ParseTarget reads the target that address names on network. Names come out
// in lower case and ASCII, paths cleaned, IPv4-mapped addresses as IPv4.
func ParseTarget(network, address string) (Target, error) {
	t, err := parseTarget(network, address, 1)
	if err != nil {
		return Target{}, fmt.Errorf("target %q: %w", address, err)
	}
	if t.Host == "*" {
		return Target{}, fmt.Errorf("target %q: no host: write HOST:PORT", address)
	}
	return t, nil
}

// ParseBind reads what to listen on. Other than a target's, its host is an
// address, "localhost", or "" or "*" for every address, and its port may be 0.
func ParseBind(network, address string) (Target, error) {
	t, err := parseTarget(network, address, 0)
	if err != nil {
		return Target{}, fmt.Errorf("listen on %q: %w", address, err)
	}
	if t.isHost() && !t.IP.IsValid() && t.Host != "*" && t.Host != "localhost" {
		return Target{}, fmt.Errorf("listen on %q: %s is no bind address: write an IP address, localhost, or * for all", address, t.Host)
	}
	return t, nil
}

func parseTarget(network, address string, minPort uint16) (t Target, err error) {
	t.Network = network
	switch network {
	case "tcp", "udp":
		return t, t.setHostPort(address, minPort)
	case "unix":
		t.Host, err = cleanSocketPath(address)
		return t, err
	case "service":
		t.Host = strings.ToLower(address)
		if !isServiceName(t.Host, false) {
			return t, errors.New("a service's name is a letter, then letters, digits and -, at most 63")
		}
		return t, nil
	}
	return t, fmt.Errorf("%q: %w", network, netx.ErrNetwork)
}

func (t *Target) setHostPort(address string, minPort uint16) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		if strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "[") {
			return errors.New("an IPv6 address needs brackets: write [::1]:22")
		}
		return errors.New("write HOST:PORT")
	}
	if t.Port, err = parsePort(port); err != nil && (port != "0" || minPort > 0) {
		return err
	}
	bracketed := address[0] == '['
	if (host == "" || host == "*") && !bracketed {
		t.Host = "*"
		return nil
	}
	if t.Host, t.IP, err = canonicalHost(host); err != nil {
		return err
	}
	if bracketed && !strings.Contains(host, ":") {
		return fmt.Errorf("brackets are for IPv6 addresses: write %s:%s", host, port)
	}
	return nil
}

// cleanSocketPath returns the one spelling of a unix socket's path.
func cleanSocketPath(p string) (string, error) {
	for _, c := range []byte(p) {
		if c < ' ' || c == 0x7f || c == ':' {
			return "", fmt.Errorf("a socket's path has no %q", c)
		}
	}
	switch {
	case len(p) > 1 && p[0] == '@': // abstract: any bytes, not a path
	case len(p) > 1 && p[0] == '/':
		if p = path.Clean(p); p == "/" {
			return "", errors.New("/ is no socket")
		}
	default:
		return "", errors.New("a socket's path is absolute, or @NAME: write unix:/run/app.sock")
	}
	if len(p) > 107 {
		return "", errors.New("a socket's path has at most 107 bytes")
	}
	return p, nil
}

// Address returns t as netx.Network's methods take it, by IP once that is known.
func (t Target) Address() string {
	switch {
	case !t.isHost():
		return t.Host
	case t.IP.IsValid():
		return netip.AddrPortFrom(t.IP, t.Port).String()
	case t.Host == "*":
		return net.JoinHostPort("", strconv.Itoa(int(t.Port)))
	}
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}

// String returns t as it was asked for: "vnc:5900", "[::1]:53/udp", "unix:/run/x".
func (t Target) String() string {
	if !t.isHost() {
		return t.Network + ":" + t.Host
	}
	s := net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	if t.Network == "udp" {
		s += "/udp"
	}
	return s
}

// At returns t once its name has been found to mean ip.
func (t Target) At(ip netip.Addr) Target {
	t.IP = ip.Unmap()
	return t
}

func (t Target) isHost() bool { return t.Network == "tcp" || t.Network == "udp" }

// isLiteral reports whether t was asked for by address.
func (t Target) isLiteral() bool { return t.IP.IsValid() && t.Host == t.IP.String() }
