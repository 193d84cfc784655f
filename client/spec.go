package client

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A Forward is one -L: where connections are accepted, and what is dialed on
// the far end for each of them.
type Forward struct {
	Listen  Bind
	Network string // of the target: "tcp", "udp", "unix" or "service"
	Address string // host:port, a path, or a service's name
	Spec    string // as written, for logs; the forwards of a range share it
}

// String returns the spec of f alone: where a range was written, of its one port.
func (f Forward) String() string {
	return f.Listen.String() + ":" + targetString(f.Network, f.Address)
}

// ParseForward reads what -L takes, [BIND:]PORTS:TARGET[/udp] or
// unix:PATH:TARGET, and returns a forward for each port of PORTS. It takes
// ssh's short forms too, PORT:/path and /path:TARGET. Whether this program and
// the far end can do what was asked ("udp", "service") is the caller's question.
//
// Errors name the part that is wrong, show a right spec, and have the exit code
// of a usage error.
func ParseForward(spec string) ([]Forward, error) {
	fs, err := parseForward(spec)
	if err == nil {
		return fs, nil
	}
	err.spec = "-L " + spec
	if _, e := parseForward(err.right); e != nil {
		err.right = "5900:localhost:5900"
	}
	return nil, err
}

// ParseTarget reads HOST:PORT, unix:PATH or service:NAME, for -W and --target.
// Its errors are those of [ParseForward].
func ParseTarget(s string) (network, address string, err error) {
	t, serr := parseTarget(fields(s), "5900")
	switch {
	case serr != nil:
	case hasControl(s):
		serr = wrong("localhost:5900", "the target has a control character")
	case t.network == "udp":
		serr = wrong(t.at(0), "/udp belongs to a forward (-L)")
	case t.ports.count() > 1:
		serr = wrong(t.at(0), "the target %q has more than one port", s)
	default:
		return t.network, t.at(0), nil
	}
	if _, e := parseTarget(fields(serr.right), ""); e != nil {
		serr.right = "localhost:5900"
	}
	return "", "", serr
}

// A specError is a spec that cannot be understood. It says which part, and
// shows one that can.
type specError struct {
	spec   string // with its flag; empty if only a part of a spec was parsed
	reason string
	right  string
}

func wrong(right, reason string, args ...any) *specError {
	return &specError{reason: fmt.Sprintf(reason, args...), right: right}
}

func (e *specError) Error() string {
	s := e.reason + "; write " + e.right
	if e.spec != "" {
		s = e.spec + ": " + s
	}
	return s
}

// ExitCode returns that of a usage error.
func (e *specError) ExitCode() int { return 2 }

func parseForward(spec string) ([]Forward, *specError) {
	head, tail, err := cutTarget(spec)
	if err != nil {
		return nil, err
	}
	from, fromErr := parseBind(head)
	to, err := parseTarget(tail, rightPorts(head[len(head)-1]))
	switch {
	case err != nil && fromErr != nil:
		err.right = fromErr.right + ":" + err.right
		return nil, err
	case err != nil:
		err.right = join(head) + ":" + err.right
		return nil, err
	case fromErr != nil:
		fromErr.right += ":" + join(tail)
		return nil, fromErr
	}
	if err := match(from, to); err != nil {
		return nil, err
	}

	fs := make([]Forward, from.ports.count())
	for i := range fs {
		fs[i] = Forward{
			Listen:  from.bind(i, to.network == "udp", "-L "+spec),
			Network: to.network,
			Address: to.at(i),
			Spec:    spec,
		}
	}
	return fs, nil
}

// match returns why from cannot be forwarded to to, if so.
func match(from bindSpec, to targetSpec) *specError {
	n, m := from.ports.count(), to.ports.count()
	switch {
	case from.path != "" && to.network == "udp":
		return wrong("5353:"+to.String(), "a unix socket carries no datagrams")
	case n == m:
		return nil
	case to.ports == ports{}: // a path or a service
		from.ports.last = from.ports.first
		one := map[string]string{"unix": "socket", "service": "service"}[to.network]
		return wrong(from.String()+":"+to.String(), "%d ports cannot go to one %s", n, one)
	}
	to.ports.last = to.ports.first + n - 1
	return wrong(from.String()+":"+to.String(), "%s cannot go to %s", count(n), count(m))
}

func count(n int) string {
	if n == 1 {
		return "1 port"
	}
	return strconv.Itoa(n) + " ports"
}

// cutTarget divides spec into the fields that say where to listen and those
// that say what to dial. Neither is empty.
func cutTarget(spec string) (head, tail []string, err *specError) {
	f := fields(spec)
	n := len(f)
	switch {
	case spec == "":
		return nil, nil, wrong("5900:localhost:5900", "nothing is written")
	case slices.ContainsFunc(f, hasControl):
		return nil, nil, wrong("5900:localhost:5900", "it has a control character")
	case n == 1 && isPorts(spec):
		return nil, nil, wrong(spec+":localhost:"+rightPorts(spec), "the target is missing")
	case n == 1 || n == 2 && (f[0] == "unix" && isPath(f[1]) || f[0] == "service" && !isPorts(f[1])):
		return nil, nil, wrong("5900:"+rightTarget(f, "5900"), "the port to listen on is missing")
	case n == 2 && !isPorts(f[0]) && !isPath(f[0]) && isPorts(f[1]):
		port := rightPorts(f[1])
		return nil, nil, wrong(port+":"+rightTarget(f, port), "the port to listen on is missing")
	case f[0] == "unix" && isPath(f[1]):
		return f[:2], f[2:], nil
	case isPath(f[0]) || n == 2:
		return f[:1], f[1:], nil
	case isPath(f[n-1]) && f[n-2] != "unix": // ssh's PORT:/path
		return f[:n-1], f[n-1:], nil
	case n == 3 && isPorts(f[1]) && !isPorts(f[2]): // BIND:PORTS:HOST
		return f[:2], f[2:], nil
	case n > 4:
		return nil, nil, wrong(bracket(f), "it has too many colons, an IPv6 address stands in [ ]")
	}
	return f[:n-2], f[n-2:], nil
}

// bracket puts an IPv6 address in [ ] where too many fields seem to be one:
// behind PORTS, behind BIND:PORTS, or before PORTS.
func bracket(f []string) string {
	from, to := 0, len(f)-3
	switch {
	case isPorts(f[0]):
		from, to = 1, len(f)-1
	case isPorts(f[1]):
		from, to = 2, len(f)-1
	}
	return join(slices.Concat(f[:from], []string{"[" + join(f[from:to]) + "]"}, f[to:]))
}

// fields divides s at its colons, save those of an IPv6 address in [ ].
func fields(s string) []string {
	var f []string
	for {
		from := 0
		if strings.HasPrefix(s, "[") {
			from = max(strings.IndexByte(s, ']'), 0)
		}
		i := strings.IndexByte(s[from:], ':')
		if i < 0 {
			return append(f, s)
		}
		f, s = append(f, s[:from+i]), s[from+i+1:]
	}
}

func join(f []string) string { return strings.Join(f, ":") }

// A targetSpec is a TARGET as written, a range of ports perhaps.
type targetSpec struct {
	network string
	host    string // or the path, or the service's name
	ports   ports  // zero if a path or a service
}

// at returns the address of the target's i-th port.
func (t targetSpec) at(i int) string {
	if t.ports == (ports{}) {
		return t.host
	}
	return net.JoinHostPort(t.host, strconv.Itoa(t.ports.first+i))
}

func (t targetSpec) String() string {
	s := targetString(t.network, t.at(0))
	if t.ports.count() == 1 {
		return s
	}
	s, udp := strings.CutSuffix(s, "/udp")
	s += "-" + strconv.Itoa(t.ports.last)
	if udp {
		s += "/udp"
	}
	return s
}

func targetString(network, address string) string {
	switch network {
	case "unix", "service":
		return network + ":" + address
	case "udp":
		return address + "/udp"
	}
	return address
}

// parseTarget reads a TARGET. A right one in its error gets port, where it
// has none of its own.
func parseTarget(f []string, port string) (targetSpec, *specError) {
	s, right := join(f), rightTarget(f, port)
	switch {
	case s == "":
		return targetSpec{}, wrong(right, "the target is missing")
	case len(f) == 1 && isPath(s):
		f = []string{"unix", s}
	case len(f) == 1 && isPorts(s):
		return targetSpec{}, wrong(right, "the target %q has no host", s)
	case len(f) == 1:
		return targetSpec{}, wrong(right, "the target %q has no port", s)
	case len(f) > 2:
		return targetSpec{}, wrong(right, "the target %q has too many colons, an IPv6 address stands in [ ]", s)
	}
	if beginsWithDigit(f[1]) { // service:80 is the host "service"
		return parseHostPorts(f[0], f[1], right)
	}
	switch f[0] {
	case "unix":
		p, err := parsePath(f[1])
		return targetSpec{network: "unix", host: p}, err
	case "service":
		if !isService(f[1]) {
			return targetSpec{}, wrong("service:desk", "%q cannot name a service, a-z, 0-9 and - can", f[1])
		}
		return targetSpec{network: "service", host: f[1]}, nil
	}
	return parseHostPorts(f[0], f[1], right)
}

func beginsWithDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

func parseHostPorts(host, number, right string) (t targetSpec, err *specError) {
	t.network = "tcp"
	number, udp := strings.CutSuffix(number, "/udp")
	if udp {
		t.network = "udp"
	}
	h, reason := parseHost(host)
	if reason != "" {
		return t, wrong(right, "the target's host %q %s", host, reason)
	}
	t.host = h
	if number == "" {
		return t, wrong(right, "the target %q has no port", host)
	}
	if t.ports, reason = parsePorts(number); reason != "" {
		return t, wrong(right, "the target's port %q %s", number, reason)
	}
	if t.ports.first == 0 {
		return t, wrong(right, "the target's port is 0, as only a port to listen on may be")
	}
	return t, nil
}

// rightTarget makes a target out of one that cannot be parsed, keeping what
// is right of it.
func rightTarget(f []string, port string) string {
	if len(f) > 2 {
		f = []string{"[" + join(f[:len(f)-1]) + "]", f[len(f)-1]}
	}
	switch {
	case len(f) == 1 && isPath(f[0]):
		return "unix:" + f[0]
	case len(f) == 2 && (f[0] == "unix" && isPath(f[1]) || f[0] == "service" && isService(f[1])):
		return join(f)
	case len(f) == 1 && isPorts(f[0]): // the host is missing
		return "localhost:" + rightPorts(f[0])
	}
	host := "localhost"
	if _, reason := parseHost(f[0]); reason == "" {
		host = f[0]
	}
	suffix := ""
	if len(f) == 2 {
		number, udp := strings.CutSuffix(f[1], "/udp")
		if udp {
			suffix = "/udp"
		}
		if isPorts(number) {
			port = rightPorts(number)
		}
	}
	return host + ":" + port + suffix
}

func isPath(s string) bool { return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "@") }

// parsePath reads the path of a unix socket: an absolute one, since the far
// end works in a directory of its own, or "@" and an abstract name.
func parsePath(s string) (string, *specError) {
	switch {
	case s == "" || s == "@" || path.Clean(s) == "/":
		return "", wrong("unix:/run/desk.sock", "the path %q names no socket", s)
	case s[0] == '@':
		return s, nil
	case s[0] != '/':
		return "", wrong("unix:"+path.Clean("/run/"+s), "the path %q does not begin with /", s)
	}
	return path.Clean(s), nil
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

func isService(s string) bool {
	ok := len(s) > 0 && len(s) <= 63 && s[0] >= 'a' && s[0] <= 'z'
	for _, c := range []byte(s) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	return ok
}
