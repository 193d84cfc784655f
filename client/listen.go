package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"wstun/internal/netx"
)

// A Bind says where to listen.
type Bind struct {
	Network   string   // "tcp", "udp" or "unix"
	Addresses []string // all of them: host:port, with one port, or a path; the host "" is every address
	Spec      string   // what an error names: "-L 5900:vnc:5900"
}

// String returns what stands before the target in a spec.
func (b Bind) String() string {
	if b.Network == "unix" {
		return "unix:" + b.Addresses[0]
	}
	host, port, _ := net.SplitHostPort(b.Addresses[0])
	if len(b.Addresses) > 1 {
		return port
	}
	return bindHost(host) + port
}

// loopbacks are what an absent BIND stands for.
var loopbacks = []string{"127.0.0.1", "::1"}

// A bindSpec is [BIND:]PORTS or unix:PATH as written.
type bindSpec struct {
	path  string // or else
	hosts []string
	ports ports
}

func (s bindSpec) String() string {
	switch {
	case s.path != "":
		return "unix:" + s.path
	case len(s.hosts) > 1:
		return s.ports.String()
	}
	return bindHost(s.hosts[0]) + s.ports.String()
}

// bindHost writes a host as the BIND of a spec.
func bindHost(host string) string {
	switch {
	case host == "":
		return "*:"
	case strings.Contains(host, ":"):
		return "[" + host + "]:"
	}
	return host + ":"
}

// bind returns the place of the spec's i-th port.
func (s bindSpec) bind(i int, udp bool, spec string) Bind {
	if s.path != "" {
		return Bind{Network: "unix", Addresses: []string{s.path}, Spec: spec}
	}
	b := Bind{Network: "tcp", Spec: spec}
	if udp {
		b.Network = "udp"
	}
	for _, h := range s.hosts {
		b.Addresses = append(b.Addresses, net.JoinHostPort(h, strconv.Itoa(s.ports.first+i)))
	}
	return b
}

func parseBind(f []string) (s bindSpec, err *specError) {
	port := f[len(f)-1]
	switch {
	case len(f) == 1 && isPath(f[0]):
		s.path, err = parsePath(f[0])
		return s, err
	case len(f) == 2 && f[0] == "unix" && !beginsWithDigit(f[1]):
		s.path, err = parsePath(f[1])
		return s, err
	case len(f) > 2:
		return s, wrong(rightPorts(port), "%q has too many colons, an IPv6 address stands in [ ]", join(f))
	}

	var reason string
	s.hosts = loopbacks
	if len(f) == 2 {
		if s.hosts, reason = parseBindHost(f[0]); reason != "" {
			return s, wrong(rightPorts(port), "the address to listen on, %q, %s", f[0], reason)
		}
	}
	if s.ports, reason = parsePorts(port); reason != "" {
		return s, wrong(join(slices.Concat(f[:len(f)-1], []string{"5900"})), "the port to listen on, %q, %s", port, reason)
	}
	return s, nil
}

func parseBindHost(s string) (hosts []string, reason string) {
	switch s {
	case "", "*":
		return []string{""}, ""
	case "localhost":
		return loopbacks, ""
	}
	h, reason := parseHost(s)
	return []string{h}, reason
}

// portTries bounds the search for a port that is free in both families. Nearly
// all are: a second try is rare, a third means that something else is wrong.
const portTries = 8

// Listen listens on all of b's addresses, or on none if it fails. Of several
// addresses it leaves out those whose family this machine lacks; their port, if
// it is 0, is picked once for all. A unix socket is open to its owner alone and
// its file goes when the listener is closed; one that nobody listens on any
// more is replaced. ctx bounds the call; the caller closes the listeners.
func (b Bind) Listen(ctx context.Context, n netx.Network) ([]net.Listener, error) {
	if b.Network == "unix" {
		ln, err := listenUnix(ctx, n, b.Addresses[0])
		if err != nil {
			return nil, b.wrap(err)
		}
		return []net.Listener{ln}, nil
	}
	for try := 1; ; try++ {
		lns, picked, err := b.listenAll(ctx, n)
		switch {
		case err == nil:
			return lns, nil
		case !picked || !inUse(err) || try == portTries:
			return nil, b.wrap(err)
		}
	}
}

func (b Bind) wrap(err error) error {
	if b.Spec == "" {
		return err
	}
	return fmt.Errorf("%s: %w", b.Spec, err)
}

// listenAll is one try of Listen. picked says that a port was chosen by the
// system for the first address and is to be had for the others.
func (b Bind) listenAll(ctx context.Context, n netx.Network) (lns []net.Listener, picked bool, err error) {
	defer func() {
		if err != nil {
			for _, ln := range lns {
				ln.Close()
			}
			lns = nil
		}
	}()

	var lacking error
	port := ""
	for _, address := range b.Addresses {
		host, p, err := net.SplitHostPort(address)
		if err != nil {
			return lns, false, err
		}
		if port == "" {
			port = p
		}
		ln, err := n.Listen(ctx, family(b.Network, host), net.JoinHostPort(host, port))
		if err != nil && len(b.Addresses) > 1 && lacksFamily(err) {
			lacking = err
			continue
		}
		if err != nil {
			return lns, picked, listenError(host, port, err)
		}
		lns = append(lns, ln)
		if port == "0" {
			if _, port, err = net.SplitHostPort(ln.Addr().String()); err != nil {
				return lns, false, err
			}
			picked = true
		}
	}
	if len(lns) == 0 {
		return nil, false, lacking
	}
	return lns, picked, nil
}

// family returns the network that listens on host and nothing else: package
// net takes 0.0.0.0 and :: for both families, as it takes "".
func family(network, host string) string {
	switch host {
	case "0.0.0.0":
		return network + "4"
	case "::":
		return network + "6"
	}
	return network
}

// A listenErr says in a user's words why nothing listens on an address.
type listenErr struct {
	text string
	err  error
}

func (e *listenErr) Error() string { return e.text }
func (e *listenErr) Unwrap() error { return e.err }

func listenError(host, port string, err error) error {
	if host == "" {
		host = "every address"
	}
	text := ""
	switch {
	case inUse(err):
		text = fmt.Sprintf("port %s on %s is in use", port, host)
	case errors.Is(err, fs.ErrPermission):
		text = fmt.Sprintf("port %s on %s needs more rights than this user has", port, host)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		text = fmt.Sprintf("%s is no address of this machine", host)
	default:
		return fmt.Errorf("listen on %s: %w", net.JoinHostPort(host, port), err)
	}
	return &listenErr{text, err}
}

// inUse and lacksFamily know Winsock's numbers too: package syscall has the
// Unix names on Windows, but not with the values that its calls return.
func inUse(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.Errno(10048))
}

func lacksFamily(err error) bool {
	for _, e := range []syscall.Errno{syscall.EAFNOSUPPORT, syscall.EADDRNOTAVAIL, 10047, 10049} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func listenUnix(ctx context.Context, n netx.Network, path string) (net.Listener, error) {
	abstract := strings.HasPrefix(path, "@")
	if !abstract {
		if err := clearStale(ctx, n, path); err != nil {
			return nil, err
		}
	}
	ln, err := n.Listen(ctx, "unix", path)
	switch {
	case inUse(err):
		return nil, &listenErr{path + " is in use", err}
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	case abstract:
		return ln, nil
	}
	// Until here the umask decides; the usual one lets nobody else connect either.
	// A network that is not this host's has no file.
	if err := os.Chmod(path, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// clearStale removes the socket that a process left at path when it died. It
// is an error if anything else is there.
func clearStale(ctx context.Context, n netx.Network, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	c, err := n.Dial(ctx, "unix", path)
	switch {
	case err == nil:
		c.Close()
		return &listenErr{path + " is in use", syscall.EADDRINUSE}
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("%s exists, and whether it is in use cannot be told: %w", path, err)
}
