package netx_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"wstun/internal/netx"
)

const (
	nothingChanged = "nothing has changed"
	routeChanged   = "the default route of this machine has changed"
	bothChanged    = "an address and the default route of this machine have changed"
)

// Messages of the kernel and to it, which have one form.

func netlinkMessage(kind, flags uint16, body []byte, attributes ...[]byte) []byte {
	body = slices.Concat(body, slices.Concat(attributes...))
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	return append(append(b, make([]byte, 8)...), body...)
}

func netlinkAttribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func family(ip netip.Addr) byte {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addressMessage is about an address of the interface with this index.
func addressMessage(kind, flags uint16, prefix string, state byte, index uint32, more ...[]byte) []byte {
	p := netip.MustParsePrefix(prefix)
	body := append([]byte{family(p.Addr()), byte(p.Bits()), state, 0}, native(index)...)
	ip := p.Addr().AsSlice()
	return netlinkMessage(kind, flags, body, append([][]byte{
		netlinkAttribute(unix.IFA_ADDRESS, ip), netlinkAttribute(unix.IFA_LOCAL, ip),
	}, more...)...)
}

// routeMessage is about a route through the interface with this index.
func routeMessage(kind, flags uint16, prefix string, table byte, metric, index uint32, more ...[]byte) []byte {
	p := netip.MustParsePrefix(prefix)
	body := []byte{family(p.Addr()), byte(p.Bits()), 0, 0, table, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	if p.Addr().Is4() {
		body[6] = unix.RT_SCOPE_LINK
	}
	attributes := [][]byte{netlinkAttribute(unix.RTA_PRIORITY, native(metric)), netlinkAttribute(unix.RTA_OIF, native(index))}
	if p.Bits() > 0 {
		attributes = append(attributes, netlinkAttribute(unix.RTA_DST, p.Addr().AsSlice()))
	}
	return netlinkMessage(kind, flags, body, append(attributes, more...)...)
}

func newAddress(prefix string) []byte {
	return addressMessage(unix.RTM_NEWADDR, 0, prefix, unix.IFA_F_PERMANENT, 2)
}

func oldAddress(prefix string) []byte {
	return addressMessage(unix.RTM_DELADDR, 0, prefix, unix.IFA_F_PERMANENT, 2)
}

func defaultRoute(kind, flags uint16, prefix, gateway string, more ...[]byte) []byte {
	return routeMessage(kind, flags, prefix, unix.RT_TABLE_MAIN, 1024, 2,
		append(more, netlinkAttribute(unix.RTA_GATEWAY, netip.MustParseAddr(gateway).AsSlice()))...)
}

func TestNetlinkNews(t *testing.T) {
	const newRoute, oldRoute, replace = unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.NLM_F_REPLACE
	with := func(prefix string, kind uint16, state byte) []byte { return addressMessage(kind, 0, prefix, state, 2) }
	type step struct {
		told []byte
		news string
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"an address comes, is told again and goes", []step{
			{newAddress("192.0.2.1/24"), addressChanged}, {newAddress("192.0.2.1/24"), nothingChanged},
			{oldAddress("192.0.2.1/24"), addressChanged}, {newAddress("192.0.2.1/24"), addressChanged},
		}},
		{"another prefix", []step{{newAddress("192.0.2.1/24"), addressChanged}, {newAddress("192.0.2.1/25"), addressChanged}}},
		{"another interface", []step{{newAddress("192.0.2.1/24"), addressChanged},
			{addressMessage(unix.RTM_NEWADDR, 0, "192.0.2.1/24", 0, 3), addressChanged}}},
		{"an unknown one goes", []step{{oldAddress("2001:db8::1/64"), addressChanged}}},
		{"tentative", []step{
			{with("2001:db8::1/64", unix.RTM_NEWADDR, unix.IFA_F_TENTATIVE), nothingChanged},
			{with("2001:db8::1/64", unix.RTM_NEWADDR, 0), addressChanged},
			{with("2001:db8::1/64", unix.RTM_NEWADDR, unix.IFA_F_TENTATIVE), nothingChanged}, // its link came back
			{with("2001:db8::1/64", unix.RTM_NEWADDR, unix.IFA_F_DEPRECATED), nothingChanged},
			{with("2001:db8::1/64", unix.RTM_DELADDR, unix.IFA_F_TENTATIVE), addressChanged},
		}},
		{"another's", []step{
			{with("2001:db8::1/64", unix.RTM_NEWADDR, unix.IFA_F_TENTATIVE), nothingChanged},
			{with("2001:db8::1/64", unix.RTM_NEWADDR, unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED), nothingChanged},
			{with("2001:db8::1/64", unix.RTM_DELADDR, unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED), nothingChanged},
		}},
		{"of the machine or a link alone", []step{
			{newAddress("127.0.0.2/8"), nothingChanged}, {newAddress("::1/128"), nothingChanged},
			{newAddress("fe80::1/64"), nothingChanged}, {oldAddress("fe80::1/64"), nothingChanged},
			{newAddress("169.254.1.1/16"), nothingChanged},
		}},
		{"a peer", []step{
			{netlinkMessage(unix.RTM_NEWADDR, 0, append([]byte{unix.AF_INET, 32, 0, 0}, native(2)...),
				netlinkAttribute(unix.IFA_LOCAL, []byte{127, 0, 0, 9}), netlinkAttribute(unix.IFA_ADDRESS, []byte{192, 0, 2, 1})), nothingChanged},
			{netlinkMessage(unix.RTM_NEWADDR, 0, append([]byte{unix.AF_INET, 32, 0, 0}, native(2)...),
				netlinkAttribute(unix.IFA_ADDRESS, []byte{127, 0, 0, 9}), netlinkAttribute(unix.IFA_LOCAL, []byte{192, 0, 2, 1})), addressChanged},
		}},
		{"behind an attribute of odd length", []step{
			{netlinkMessage(unix.RTM_NEWADDR, 0, append([]byte{unix.AF_INET, 24, 0, 0}, native(2)...),
				netlinkAttribute(11, []byte{1}), netlinkAttribute(unix.IFA_LOCAL, []byte{192, 0, 2, 1})), addressChanged},
		}},
		{"a default route comes, is told again, is another's, goes", []step{
			{defaultRoute(newRoute, 0, "::/0", "fe80::1"), routeChanged},
			{defaultRoute(newRoute, replace, "::/0", "fe80::1", netlinkAttribute(unix.RTA_CACHEINFO, make([]byte, 32))), nothingChanged},
			{defaultRoute(newRoute, replace, "::/0", "fe80::2"), routeChanged},
			{defaultRoute(newRoute, replace, "::/0", "fe80::1"), routeChanged},
			{defaultRoute(oldRoute, 0, "::/0", "fe80::1"), routeChanged},
			{defaultRoute(newRoute, replace, "::/0", "fe80::1"), routeChanged},
		}},
		{"a default route that vanished silently comes again", []step{
			{defaultRoute(newRoute, 0, "0.0.0.0/0", "192.0.2.9"), routeChanged},
			{defaultRoute(newRoute, 0, "0.0.0.0/0", "192.0.2.9"), routeChanged},
		}},
		{"default routes of two metrics", []step{
			{routeMessage(newRoute, 0, "::/0", unix.RT_TABLE_MAIN, 1, 2), routeChanged},
			{routeMessage(newRoute, 0, "::/0", unix.RT_TABLE_MAIN, 2, 3), routeChanged},
			{routeMessage(newRoute, replace, "::/0", unix.RT_TABLE_MAIN, 1, 2), nothingChanged},
			{routeMessage(newRoute, replace, "::/0", unix.RT_TABLE_MAIN, 2, 3), nothingChanged},
		}},
		{"other routes", []step{
			{routeMessage(newRoute, 0, "192.0.2.0/24", unix.RT_TABLE_MAIN, 1, 2), nothingChanged},
			{routeMessage(oldRoute, 0, "192.0.2.0/24", unix.RT_TABLE_MAIN, 1, 2), nothingChanged},
			{routeMessage(newRoute, 0, "0.0.0.0/0", 100, 1, 2), nothingChanged},
			{routeMessage(newRoute, 0, "::/0", unix.RT_TABLE_LOCAL, 1, 2), nothingChanged},
		}},
		{"several in one", []step{
			{slices.Concat(newAddress("fe80::1/64"), newAddress("192.0.2.1/24"), defaultRoute(newRoute, 0, "0.0.0.0/0", "192.0.2.9")), bothChanged},
		}},
		{"of other kinds", []step{{netlinkMessage(unix.RTM_NEWLINK, 0, make([]byte, 16)), nothingChanged}, {nil, nothingChanged}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			known := netx.NewKnown()
			for i, step := range test.steps {
				if got := known.Learn(step.told); got != step.news {
					t.Errorf("step %d: got %q, want %q", i+1, got, step.news)
				}
			}
		})
	}
}

// A message that is cut off is left out, and with it what follows.
func TestNetlinkMessageCutOff(t *testing.T) {
	whole := slices.Concat(newAddress("192.0.2.1/24"), defaultRoute(unix.RTM_NEWROUTE, 0, "0.0.0.0/0", "192.0.2.9"))
	first := len(newAddress("192.0.2.1/24"))
	for n := range whole {
		want := addressChanged
		if n < first {
			want = nothingChanged
		}
		if got := netx.NewKnown().Learn(whole[:n:n]); got != want {
			t.Errorf("%d bytes of %d: got %q, want %q", n, len(whole), got, want)
		}
	}
}

// cutAttribute is a message with an attribute that claims another length than it has.
func cutAttribute(size uint16) []byte {
	attribute := netlinkAttribute(unix.IFA_LOCAL, nil)
	binary.NativeEndian.PutUint16(attribute, size)
	return netlinkMessage(unix.RTM_NEWADDR, 0, make([]byte, unix.SizeofIfAddrmsg), attribute)
}

// It is not filled up from the message behind it.
func TestNetlinkAttributeCutOff(t *testing.T) {
	for _, size := range []uint16{0, 3, 8, 20, 65535} {
		known := netx.NewKnown()
		if got := known.Learn(slices.Concat(cutAttribute(size), newAddress("192.0.2.1/24"))); got != addressChanged {
			t.Errorf("%d: got %q", size, got)
		}
		if got := known.Learn(cutAttribute(size)); got != nothingChanged {
			t.Errorf("%d alone: got %q", size, got)
		}
		if got := netx.NewKnown().Learn(slices.Concat(cutAttribute(size), newAddress("fe80::1/64"))); got != nothingChanged {
			t.Errorf("%d before nothing new: got %q", size, got)
		}
	}
}

func FuzzNetlink(f *testing.F) {
	for _, b := range [][]byte{
		newAddress("192.0.2.1/24"), oldAddress("2001:db8::1/64"),
		defaultRoute(unix.RTM_NEWROUTE, 0, "0.0.0.0/0", "192.0.2.9"), defaultRoute(unix.RTM_DELROUTE, 0, "::/0", "fe80::1"),
		slices.Concat(newAddress("192.0.2.1/24"), newAddress("192.0.2.2/24")),
		netlinkMessage(unix.RTM_NEWADDR, 0, nil), netlinkMessage(unix.RTM_NEWROUTE, 0, nil), nil,
		netlinkMessage(unix.RTM_NEWROUTE, 0, []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN}),
		cutAttribute(3), cutAttribute(20), cutAttribute(65535),
		make([]byte, 16), append(native(15), make([]byte, 16)...), append(native(1<<32-1), make([]byte, 16)...),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		netx.NewKnown().Learn(b[:len(b):len(b)])
		// Whatever comes behind a message hides nothing of it.
		got := netx.NewKnown().Learn(slices.Concat(newAddress("192.0.2.1/24"), b))
		if got != addressChanged && got != bothChanged {
			t.Errorf("with an address before it: %s", got)
		}
	})
}
