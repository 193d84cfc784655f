package netx

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// known is what the kernel has told, kept because it tells some of it again
// and again: an IPv6 address and an IPv6 default route at each advertisement of
// a router, with new lifetimes. What it says is gone is always news.
type known struct {
	addresses map[address]bool
	routes    map[string]string // where to, by what makes the kernel take one route for another
}

type address struct {
	ip    netip.Addr
	bits  uint8
	index uint32 // the interface's
}

func newKnown() known {
	return known{addresses: make(map[address]bool), routes: make(map[string]string)}
}

// learn takes what one read of a netlink socket gave, or a list, and says what
// of it is news. What it does not understand it leaves out (rtnetlink(7)).
func (k *known) learn(b []byte) (c change) {
	for m := range netlinkMessages(b) {
		switch m.kind {
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			c |= k.learnAddress(m)
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			c |= k.learnRoute(m)
		}
	}
	return c
}

func (k *known) learnAddress(m netlinkMessage) change {
	if len(m.body) < unix.SizeofIfAddrmsg {
		return 0
	}
	a := address{bits: m.body[1], index: binary.NativeEndian.Uint32(m.body[4:])}
	for kind, value := range netlinkAttributes(m.body[unix.SizeofIfAddrmsg:]) {
		// With a peer, IFA_ADDRESS is the peer's.
		if ip, ok := netip.AddrFromSlice(value); ok && (kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && !a.ip.IsValid()) {
			a.ip = ip
		}
	}
	if !a.ip.IsValid() || !outward(a.ip) {
		return 0
	}
	// Nothing can be sent from an address that may yet be found to be another's.
	unusable := m.body[2]&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0
	had := k.addresses[a]
	switch {
	case m.kind == unix.RTM_DELADDR:
		delete(k.addresses, a)
		if unusable && !had {
			return 0
		}
	case unusable || had:
		return 0
	default:
		k.addresses[a] = true
	}
	return addressChanged
}

// nextHopID is RTA_NH_ID, which x/sys does not have.
const nextHopID = 30

func (k *known) learnRoute(m netlinkMessage) change {
	const dstLen, srcLen, table = 1, 2, 4 // in struct rtmsg
	if len(m.body) < unix.SizeofRtMsg || m.body[dstLen] != 0 || m.body[table] != unix.RT_TABLE_MAIN {
		return 0
	}
	route := []byte{m.body[0], m.body[srcLen]} // the family first
	var via []byte
	for kind, value := range netlinkAttributes(m.body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_PRIORITY, unix.RTA_SRC:
			route = append(append(route, byte(kind)), value...)
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH, nextHopID:
			via = append(append(via, byte(kind)), value...)
		}
	}
	was, had := k.routes[string(route)]
	if m.kind == unix.RTM_DELROUTE {
		delete(k.routes, string(route))
		return routeChanged
	}
	k.routes[string(route)] = string(via)
	// IPv4's routes vanish with their interface and nobody is told, so that
	// one may come again. But what takes its own place was there.
	if m.flags&unix.NLM_F_REPLACE != 0 && had && was == string(via) {
		return 0
	}
	return routeChanged
}

// netlinkMessage is one of a datagram's messages.
type netlinkMessage struct {
	kind, flags uint16
	body        []byte
}

// netlinkMessages gives the messages up to one that is cut off.
func netlinkMessages(b []byte) iter.Seq[netlinkMessage] {
	return func(yield func(netlinkMessage) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := binary.NativeEndian.Uint32(b)
			if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
				return
			}
			m := netlinkMessage{
				kind:  binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				body:  b[unix.SizeofNlMsghdr:size],
			}
			if !yield(m) {
				return
			}
			b = b[aligned(int(size), len(b)):]
		}
	}
}

// netlinkAttributes gives the attributes up to one that is cut off.
func netlinkAttributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
			if !yield(binary.NativeEndian.Uint16(b[2:])&^flags, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[aligned(size, len(b)):]
		}
	}
}

// aligned is where the next one begins behind one of so many bytes. The last
// one need not be filled up.
func aligned(size, all int) int { return min((size+3)&^3, all) }
