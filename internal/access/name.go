package access

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// canonicalHost returns the one spelling of host, without brackets: lower
// case, ASCII, no trailing dot. If host is an address, ip is it and host its
// usual form, an IPv4 address in the IPv4-mapped form being that address.
func canonicalHost(host string) (name string, ip netip.Addr, err error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return "", netip.Addr{}, fmt.Errorf("the address %s has a zone", host)
		}
		ip = ip.Unmap()
		return ip.String(), ip, nil
	}
	name, err = canonicalName(host)
	if err != nil {
		return "", netip.Addr{}, err
	}
	// Full-width digits and the like become an address only now.
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.String(), ip, nil
	}
	// getaddrinfo takes 127.1 and 0x7f000001 for addresses, other resolvers ask
	// the DNS. As in the URL standard a name does not end in a number.
	if endsInNumber(name) {
		return "", netip.Addr{}, fmt.Errorf("%q is neither a name nor an IP address", host)
	}
	return name, netip.Addr{}, nil
}

// canonicalName is canonicalHost for what must be a name.
func canonicalName(host string) (string, error) {
	name := strings.ToLower(host)
	for _, c := range []byte(host) {
		if c >= 0x80 {
			var err error
			if name, err = toASCII(host); err != nil {
				return "", fmt.Errorf("%q is no host name: %w", host, err)
			}
			break
		}
	}
	name = strings.TrimSuffix(name, ".")
	if err := checkName(name, false); err != nil {
		return "", fmt.Errorf("%q is no host name: %w", host, err)
	}
	return name, nil
}

// canonicalGlob is canonicalName for a pattern, in which each * stands for any
// characters, dots too.
func canonicalGlob(glob string) (string, error) {
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(glob, ".")), ".")
	for i, label := range labels {
		if strings.Contains(label, "*") || label == "" {
			continue // checkName has the last word
		}
		name, err := canonicalName(label)
		if err != nil {
			return "", err
		}
		labels[i] = name
	}
	name := fewerStars(strings.Join(labels, "."))
	if err := checkName(name, true); err != nil {
		return "", fmt.Errorf("%q is no host name: %w", glob, err)
	}
	return name, nil
}

// fewerStars returns the one spelling of glob: "**" says no more than "*".
func fewerStars(glob string) string {
	for strings.Contains(glob, "**") {
		glob = strings.ReplaceAll(glob, "**", "*")
	}
	return glob
}

// checkName reports what is wrong with a name in lower case.
func checkName(name string, glob bool) error {
	if len(name) > 253 {
		return errors.New("it is longer than 253 bytes")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" {
			return errors.New("a part of it is empty")
		}
		if len(label) > 63 {
			return errors.New("a part of it is longer than 63 bytes")
		}
		for _, c := range label {
			if !isNameByte(c) && !(glob && c == '*') {
				return fmt.Errorf("it has a %q", c)
			}
		}
	}
	return nil
}

func isNameByte(c rune) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// endsInNumber reports whether the last label of name would make it an IPv4
// address to some, as in the URL standard's "ends in a number".
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// matchGlob reports whether s matches glob as a whole.
func matchGlob(glob, s string) bool {
	first, rest, ok := strings.Cut(glob, "*")
	if !ok {
		return s == glob
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, next, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		// The first place will do: what follows can match no less after it.
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], next
	}
}

// isServiceName reports whether s can name a service: [a-z][a-z0-9-]{0,62}.
func isServiceName(s string, glob bool) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i, c := range s {
		switch {
		case 'a' <= c && c <= 'z', glob && c == '*':
		case i > 0 && ('0' <= c && c <= '9' || c == '-'):
		default:
			return false
		}
	}
	return true
}
