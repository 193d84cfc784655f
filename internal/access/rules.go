package access

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Rule says which targets it is about. In an allow rule a name reaches fewer
// addresses than in a deny rule; see [Policy].
type Rule struct {
	kind    kind
	glob    string       // of a name or service, or a socket's path; "" for an address rule
	prefix  netip.Prefix // of an address rule, and of GLOB=CIDR
	ports   portSet
	network string // "tcp" or "udp"; "" is both
	target  bool   // it is one that the operator named: loopback answers count
}

// A kind is one of the rule grammar's three forms.
type kind uint8

const (
	hostKind kind = iota
	serviceKind
	unixKind
)

// ParseRule reads
//
//	(IP | CIDR | GLOB | GLOB=CIDR):PORTSET[/tcp|/udp] | service:GLOB | unix:PATH
//
// where a GLOB without * is an exact name, PORTSET is "22,5900,8000-8010" or
// "*", and IPv6 stands in brackets. An error says which part is wrong and what
// would be right.
func ParseRule(s string) (Rule, error) {
	r, err := parseRule(s)
	if err != nil {
		return Rule{}, fmt.Errorf("rule %q: %w", s, err)
	}
	return r, nil
}

// ParseListenRule is ParseRule for a rule about listening, whose host part is
// a bind address: an IP, a CIDR, "localhost" or "*".
func ParseListenRule(s string) (Rule, error) {
	r, err := ParseRule(s)
	if err == nil && r.kind == hostKind && r.glob != "" && (r.prefix.IsValid() || r.glob != "*" && r.glob != "localhost") {
		err = fmt.Errorf("rule %q: %q is no bind address: write localhost:%v, or *:%v for every address", s, r.host(), r.ports, r.ports)
	}
	return r, err
}

// RuleFor returns the rule of a --target or --route that names t: exactly t,
// on whatever address its name has, loopback included. Its string form does
// not carry that last privilege.
func RuleFor(t Target) Rule {
	r := ruleFor(t)
	r.network, r.target = "", true
	if t.isHost() {
		r.network = t.Network
	}
	return r
}

// ruleFor returns the rule that someone would write to allow t as it was asked
// for. It is for tcp and udp unless t is udp: few write the suffix.
func ruleFor(t Target) Rule {
	switch t.Network {
	case "unix":
		return Rule{kind: unixKind, glob: t.Host}
	case "service":
		return Rule{kind: serviceKind, glob: t.Host}
	}
	r := Rule{glob: t.Host}
	if t.Port != 0 {
		r.ports = portSet{{t.Port, t.Port}}
	}
	if t.Network == "udp" {
		r.network = "udp"
	}
	if t.isLiteral() {
		r.glob, r.prefix = "", netip.PrefixFrom(t.IP, t.IP.BitLen())
	}
	return r
}

func parseRule(s string) (Rule, error) {
	if word, rest, ok := strings.Cut(s, ":"); ok && (word == "service" || word == "unix") && !startsWithDigit(rest) {
		return parseNamedRule(word, rest)
	}
	r := Rule{}
	s, r.network = cutNetwork(s)
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return r, noPorts(s)
	}
	host, ports := s[:i], s[i+1:]
	if ports == "" {
		return r, noPorts(host)
	}
	if err := r.setHost(host, ports); err != nil {
		return r, err
	}
	var err error
	if r.ports, err = parsePorts(ports); err != nil {
		return r, err
	}
	return r, nil
}

// parseNamedRule reads what follows "service:" or "unix:". A digit does not
// get here: "service:80" is port 80 of a host that has that name.
func parseNamedRule(word, rest string) (r Rule, err error) {
	if word == "service" {
		r = Rule{kind: serviceKind, glob: fewerStars(strings.ToLower(rest))}
		if !isServiceName(r.glob, true) {
			return r, fmt.Errorf("%q is no service's name: write service:lab7, service:lab*, or service:* for every service", rest)
		}
		return r, nil
	}
	r.kind = unixKind
	r.glob, err = cleanSocketPath(rest)
	return r, err
}

func startsWithDigit(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

func cutNetwork(s string) (rest, network string) {
	for _, network := range []string{"tcp", "udp"} {
		if rest, ok := strings.CutSuffix(s, "/"+network); ok {
			return rest, network
		}
	}
	return s, ""
}

func noPorts(host string) error {
	if host == "" {
		return errors.New("it is empty: write HOST:PORT, such as vnc:5900")
	}
	if _, err := strconv.Atoi(host); err == nil {
		return fmt.Errorf("no host: write vnc:%s, or 10.0.0.0/8:%[1]s", host)
	}
	return fmt.Errorf("no ports: write %s:5900, or %[1]s:* for any port", strings.TrimSuffix(host, ":"))
}

// setHost reads IP, CIDR, GLOB or GLOB=CIDR. The ports are for its errors.
func (r *Rule) setHost(host, ports string) error {
	glob, cidr, pinned := strings.Cut(host, "=")
	if !pinned {
		cidr = glob
	}
	inner, bracketed := strings.CutPrefix(cidr, "[")
	if bracketed {
		var closed bool
		if inner, closed = strings.CutSuffix(inner, "]"); !closed || !strings.Contains(inner, ":") {
			return fmt.Errorf("brackets are for an IPv6 address, its length within: write [fd00::1]:%s or [fd00::/8]:%[1]s", ports)
		}
	} else if strings.Contains(inner, ":") {
		return fmt.Errorf("an IPv6 address needs brackets: write [fd00::1]:%s", ports)
	}
	if strings.Contains(inner, "/") {
		prefix, err := parseCIDR(inner)
		if err != nil {
			return err
		}
		r.prefix = prefix
	} else if ip, err := netip.ParseAddr(inner); err == nil {
		if ip = ip.Unmap(); ip.Zone() != "" {
			return fmt.Errorf("the address %s has a zone: write it without", inner)
		}
		if r.prefix = netip.PrefixFrom(ip, ip.BitLen()); pinned {
			return fmt.Errorf("after = comes a range of addresses: write %s=%s:%s", glob, bracket(r.prefix.String()), ports)
		}
	} else if pinned || bracketed {
		return fmt.Errorf("%q is no range of addresses: write 10.0.0.0/8 or [fd00::/8]", cidr)
	}
	if r.prefix.IsValid() && !pinned {
		return nil
	}
	var err error
	if r.glob, err = parseGlob(glob); err != nil {
		return err
	}
	return nil
}

// parseCIDR reads a range whose address has no bit beyond its length.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is no range of addresses: write 10.0.0.0/8 or [fd00::/8]", s)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if m := p.Masked(); m != p {
		return p, fmt.Errorf("%s has bits beyond its length: write %s", s, bracket(m.String()))
	}
	return p, nil
}

func parseGlob(s string) (string, error) {
	if s == "" {
		return "", errors.New("no host: write vnc:5900, or *:5900 for any name")
	}
	glob, err := canonicalGlob(s)
	if err != nil {
		return "", err
	}
	if endsInNumber(glob) || strings.Trim(glob, "0123456789.*") == "" && strings.Trim(glob, ".*") != "" {
		return "", fmt.Errorf("%q is no name: ranges of addresses are written 10.0.0.0/8", s)
	}
	return glob, nil
}

func bracket(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]"
	}
	return addr
}

// String returns the rule as ParseRule reads it.
func (r Rule) String() string {
	switch r.kind {
	case serviceKind:
		return "service:" + r.glob
	case unixKind:
		return "unix:" + r.glob
	}
	s := r.host() + ":" + r.ports.String()
	if r.network != "" {
		s += "/" + r.network
	}
	return s
}

func (r Rule) host() string {
	switch {
	case !r.prefix.IsValid():
		return r.glob
	case r.glob != "":
		return r.glob + "=" + bracket(r.prefix.String())
	case r.prefix.IsSingleIP():
		return bracket(r.prefix.Addr().String())
	}
	return bracket(r.prefix.String())
}

// Equal reports whether both say the same.
func (r Rule) Equal(o Rule) bool {
	return r.kind == o.kind && r.glob == o.glob && r.prefix == o.prefix &&
		(r.ports == nil) == (o.ports == nil) && slices.Equal(r.ports, o.ports) &&
		r.network == o.network && r.target == o.target
}
