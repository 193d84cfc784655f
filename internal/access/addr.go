package access

import "net/netip"

// A class says what it takes to reach an address.
type class uint8

const (
	public   class = iota // any rule that covers it
	private               // an exact name, or a CIDR within its range
	loopback              // a target's name, a name without a dot, or a CIDR within its range
	special               // only a CIDR within its range
)

// A span is a range of addresses that share a class.
type span struct {
	netip.Prefix
	class
}

// spans lists what is not public. The longest that contains an address
// decides: fd00:ec2::254 is special although fc00::/7 is private.
var spans = []span{
	{netip.MustParsePrefix("0.0.0.0/8"), special}, // this network; Linux takes 0.0.0.0 for loopback
	{netip.MustParsePrefix("10.0.0.0/8"), private},
	{netip.MustParsePrefix("100.64.0.0/10"), private},      // shared address space, RFC 6598
	{netip.MustParsePrefix("100.100.100.200/32"), special}, // metadata, Alibaba
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("168.63.129.16/32"), special}, // metadata, Azure
	{netip.MustParsePrefix("169.254.0.0/16"), special},   // link-local; metadata of most clouds
	{netip.MustParsePrefix("172.16.0.0/12"), private},
	{netip.MustParsePrefix("192.0.0.0/24"), special}, // protocol assignments; metadata, Oracle
	{netip.MustParsePrefix("192.168.0.0/16"), private},
	{netip.MustParsePrefix("198.18.0.0/15"), special}, // benchmarks
	{netip.MustParsePrefix("224.0.0.0/4"), special},   // multicast
	{netip.MustParsePrefix("240.0.0.0/4"), special},   // reserved, broadcast

	// Of IPv6 only 2000::/3 is global unicast: what is not listed below is not public either.
	{netip.MustParsePrefix("::/3"), special},
	{netip.MustParsePrefix("4000::/2"), special},
	{netip.MustParsePrefix("8000::/1"), special},
	{netip.MustParsePrefix("::/96"), special}, // unspecified, and IPv4-compatible
	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), special}, // IPv4-translated, RFC 2765
	{netip.MustParsePrefix("64:ff9b::/96"), special},    // NAT64
	{netip.MustParsePrefix("64:ff9b:1::/48"), special},  // NAT64, local use
	{teredo, special}, // Teredo
	{netip.MustParsePrefix("2002::/16"), special},        // 6to4
	{netip.MustParsePrefix("fc00::/7"), private},         // unique local
	{netip.MustParsePrefix("fd00:ec2::/32"), special},    // metadata, AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), special}, // metadata, Google
	{netip.MustParsePrefix("fe80::/10"), special},        // link-local
	{netip.MustParsePrefix("fec0::/10"), special},        // site-local
	{netip.MustParsePrefix("ff00::/8"), special},         // multicast
}

// spanOf returns the span of ip, which is unmapped. That of a public address
// has no prefix.
func spanOf(ip netip.Addr) span {
	var found span
	for _, s := range spans {
		if s.Contains(ip) && (!found.IsValid() || s.Bits() > found.Bits()) {
			found = s
		}
	}
	return found
}

// holds reports whether p lies within s.
func (s span) holds(p netip.Prefix) bool {
	return s.IsValid() && s.Bits() <= p.Bits() && s.Contains(p.Addr())
}

// hidden says at which byte of an IPv6 address an IPv4 one is, for the spans
// whose addresses carry one.
var hidden = map[netip.Prefix]int{
	netip.MustParsePrefix("::/96"):           12,
	netip.MustParsePrefix("::ffff:0:0:0/96"): 12,
	netip.MustParsePrefix("64:ff9b::/96"):    12,
	netip.MustParsePrefix("64:ff9b:1::/48"):  12,
	netip.MustParsePrefix("2002::/16"):       2,
	teredo:                                   12,
}

var teredo = netip.MustParsePrefix("2001::/32")

// hiddenIPv4 returns the IPv4 address that a packet to ip may end up at, if
// ip's form carries one.
func hiddenIPv4(ip netip.Addr) (netip.Addr, bool) {
	s := spanOf(ip)
	at, ok := hidden[s.Prefix]
	if !ok {
		return netip.Addr{}, false
	}
	b := ip.As16()
	v4 := [4]byte(b[at:])
	if s.Prefix == teredo {
		for i := range v4 {
			v4[i] ^= 0xff // hidden from NATs that rewrite addresses, RFC 4380 §4
		}
	}
	return netip.AddrFrom4(v4), true
}
