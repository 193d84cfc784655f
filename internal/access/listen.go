package access

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// bindTries is how often a port picked by the system may turn out to be taken
// on the other loopback, or denied.
const bindTries = 16

// Listen announces address, which is HOST:PORT with a bind address, if the
// principal may. "localhost" is those of the two loopbacks that are permitted
// and there, on the same port; port 0 is one that is permitted and free. The
// caller closes the listener.
func (g *Guarded) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	t, err := ParseBind(network, address)
	if err != nil {
		return nil, err
	}
	if err := g.policy.Authorize(g.principal, Listen, t); err != nil {
		return nil, err
	}
	if !t.isHost() {
		return g.network.Listen(ctx, t.Network, t.Host)
	}
	binds, err := g.permitted(bindsOf(t))
	if err != nil {
		return nil, err
	}
	if t.Port != 0 {
		return g.bind(ctx, binds)
	}
	return g.bindSome(ctx, t, binds)
}

// bindsOf returns the addresses that t is bound at.
func bindsOf(t Target) []Target {
	if t.Host != "localhost" {
		return []Target{t}
	}
	var binds []Target
	for _, ip := range loopbacks {
		binds = append(binds, t.At(ip))
	}
	return binds
}

// permitted returns those of binds that the principal may listen on, or the
// refusal of the first if there is none.
func (g *Guarded) permitted(binds []Target) (kept []Target, refusal error) {
	for _, t := range binds {
		if err := g.policy.Authorize(g.principal, Listen, t); err == nil {
			kept = append(kept, t)
		} else if refusal == nil {
			refusal = err
		}
	}
	if len(kept) > 0 {
		return kept, nil
	}
	return nil, refusal
}

// bindSome binds all of binds at a port that is permitted on one at least.
func (g *Guarded) bindSome(ctx context.Context, t Target, binds []Target) (net.Listener, error) {
	ports, unlimited := g.policy.bindPorts(g.principal, binds)
	if unlimited {
		ports = make([]uint16, bindTries) // zeros: let the system pick
	}
	if len(ports) == 0 {
		return nil, &Refusal{Principal: g.principal, Op: Listen, Target: t}
	}
	// From a random place on, so that one port is not always the first to be tried.
	first := rand.IntN(len(ports))
	var failure error
	for _, port := range slices.Concat(ports[first:], ports[:first]) {
		ln, err := g.bindAt(ctx, binds, port)
		if err == nil {
			return ln, nil
		}
		var refusal *Refusal
		taken := errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)
		if ctx.Err() != nil || !taken && !errors.As(err, &refusal) {
			return nil, err
		}
		failure = err
	}
	return nil, fmt.Errorf("listen on %v: no permitted port is free: %w", t, failure)
}

// bindPorts returns the ports below which rules name for some of binds, or
// that there is one that permits any.
func (p *Policy) bindPorts(pr Principal, binds []Target) (ports []uint16, unlimited bool) {
	named := make(map[uint16]bool)
	for _, r := range p.rules(pr, Listen) {
		if !slices.ContainsFunc(binds, func(t Target) bool { return r.allows(Listen, t) }) {
			continue
		}
		if r.ports == nil {
			return nil, true
		}
		for _, span := range r.ports {
			for port := int(span.first); port <= int(span.last); port++ {
				if !named[uint16(port)] {
					named[uint16(port)] = true
					ports = append(ports, uint16(port))
				}
			}
		}
	}
	return ports, false
}

// bindAt binds those of binds that are permitted at port, or, if that is 0, at
// whatever port the system picks for the first.
func (g *Guarded) bindAt(ctx context.Context, binds []Target, port uint16) (net.Listener, error) {
	at := slices.Clone(binds)
	for i := range at {
		at[i].Port = port
	}
	if port != 0 {
		at, err := g.permitted(at)
		if err != nil {
			return nil, err
		}
		return g.bind(ctx, at)
	}
	ln, err := g.bind(ctx, at)
	if err != nil {
		return nil, err
	}
	for _, t := range at {
		t.Port = portOf(ln.Addr())
		if err := g.policy.Authorize(g.principal, Listen, t); err != nil {
			ln.Close()
			return nil, err
		}
	}
	return ln, nil
}

// bind listens on all of binds, which have the same port. An address of a
// family that this host lacks is left out if there is another.
func (g *Guarded) bind(ctx context.Context, binds []Target) (net.Listener, error) {
	var lns listeners
	var lack error
	for _, t := range binds {
		if t.Port == 0 && len(lns) > 0 {
			t.Port = portOf(lns[0].Addr())
		}
		ln, err := g.network.Listen(ctx, bindNetwork(t), t.Address())
		switch {
		case err == nil:
			lns = append(lns, ln)
		case len(binds) > 1 && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
			lack = err
		default:
			lns.Close()
			return nil, fmt.Errorf("listen on %v: %w", t, err)
		}
	}
	switch len(lns) {
	case 0:
		return nil, lack
	case 1:
		return lns[0], nil
	}
	return join(lns), nil
}

// bindNetwork returns the name that makes package net bind exactly t: to it
// "tcp" and 0.0.0.0 are all of IPv6 too.
func bindNetwork(t Target) string {
	switch t.IP {
	case netip.IPv4Unspecified():
		return t.Network + "4"
	case netip.IPv6Unspecified():
		return t.Network + "6"
	}
	return t.Network
}

func portOf(a net.Addr) uint16 {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0
	}
	return ap.Port()
}
