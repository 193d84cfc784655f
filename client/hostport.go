package client

import (
	"net/netip"
	"strconv"
	"strings"
)

// parseHost reads a name, an IPv4 address, or an IPv6 address in [ ], and
// returns it without these, or else what is wrong with it. A name whose last
// label is a number is refused: resolvers read 127.1 and 010.0.0.1 as addresses,
// each in its own way.
func parseHost(s string) (host, reason string) {
	if s == "" {
		return "", "is empty"
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		if !ok || err != nil || !ip.Is6() || strings.ContainsFunc(ip.Zone(), notInName) {
			return "", "is no IPv6 address"
		}
		return ip.String(), ""
	}
	if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() {
		return s, ""
	}
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.ContainsFunc(l, notInName) {
			return "", "is no host's name"
		}
	}
	if _, err := strconv.ParseUint(labels[len(labels)-1], 0, 64); err == nil {
		return "", "is neither a name nor an IPv4 address"
	}
	return s, ""
}

func notInName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

// ports is a range, both ends included.
type ports struct{ first, last int }

func (p ports) count() int { return p.last - p.first + 1 }

func (p ports) String() string {
	if p.first == p.last {
		return strconv.Itoa(p.first)
	}
	return strconv.Itoa(p.first) + "-" + strconv.Itoa(p.last)
}

// parsePorts reads n or n-m, or returns what is wrong with it.
func parsePorts(s string) (p ports, reason string) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	var ok1, ok2 bool
	p.first, ok1 = parsePort(first)
	p.last, ok2 = parsePort(last)
	switch {
	case !ok1 || !ok2:
		return ports{}, "is no number from 0 to 65535"
	case isRange && p.first == 0:
		return ports{}, "begins with 0, which picks a port and stands alone"
	case p.last < p.first:
		return ports{}, "ends before it begins"
	}
	return p, ""
}

func parsePort(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16) // it takes no sign
	return int(n), err == nil
}

func isPorts(s string) bool {
	_, reason := parsePorts(s)
	return reason == ""
}

// rightPorts returns s if a target may have these ports, else an example.
func rightPorts(s string) string {
	if isPorts(s) && s != "0" {
		return s
	}
	return "5900"
}
