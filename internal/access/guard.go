package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"wstun/internal/netx"
)

const (
	dialTimeout = 10 * time.Second // for all addresses of a target
	dialStagger = 250 * time.Millisecond
	dialAtOnce  = 2
)

// A Guarded is a network as far as one principal may use it.
type Guarded struct {
	// Lookup returns the addresses of a name, as net.Resolver.LookupNetIP
	// does; nil is that of net.DefaultResolver.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	network   netx.Network
	policy    *Policy
	principal Principal
}

var _ netx.Network = (*Guarded)(nil)

// Guard returns n as far as p lets pr use it. n is only ever asked for
// addresses, paths and services that were judged, never for a name that would
// have to be resolved once more.
func Guard(n netx.Network, p *Policy, pr Principal) *Guarded {
	return &Guarded{network: n, policy: p, principal: pr}
}

// Dial connects to address on one of the addresses that the principal may
// have. It takes at most ten seconds. The error is a [*Refusal] if there is no
// such address, else the one that says most about the target. The conn is the
// caller's to close.
func (g *Guarded) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := ParseTarget(network, address)
	if err != nil {
		return nil, err
	}
	// By name first: the resolver is not asked for what would be refused anyway.
	if err := g.policy.Authorize(g.principal, Dial, t); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	targets := []Target{t}
	if t.isHost() && !t.IP.IsValid() {
		if targets, err = g.resolve(ctx, t); err != nil {
			return nil, err
		}
	}
	c, err := g.race(ctx, targets)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", t, err)
	}
	return c, nil
}

// resolve returns t at each address that its name has and the principal may
// dial, in the order to try them.
func (g *Guarded) resolve(ctx context.Context, t Target) ([]Target, error) {
	lookup := g.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	ips, err := lookup(ctx, "ip", t.Host)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", t, err)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("dial %v: %w", t, &net.DNSError{Err: "no addresses", Name: t.Host, IsNotFound: true})
	}
	var refusal error
	var allowed []Target
	for _, ip := range ips {
		at := t.At(ip)
		if err := g.policy.Authorize(g.principal, Dial, at); err != nil {
			if refusal == nil {
				refusal = err
			}
		} else if !slices.Contains(allowed, at) {
			allowed = append(allowed, at)
		}
	}
	if len(allowed) == 0 {
		return nil, refusal
	}
	return alternate(allowed), nil
}

// alternate puts the two families in turns, the first one first: if one of
// them is broken here, the second attempt already is of the other.
func alternate(targets []Target) []Target {
	var turns [2][]Target
	for _, t := range targets {
		i := 0
		if t.IP.Is4() != targets[0].IP.Is4() {
			i = 1
		}
		turns[i] = append(turns[i], t)
	}
	out := targets[:0:0]
	for i := range targets {
		for _, turn := range turns {
			if i < len(turn) {
				out = append(out, turn[i])
			}
		}
	}
	return out
}

// race dials targets in order, each when the one before has failed or taken a
// while, two at most at once, and returns the first conn there is. When it
// returns, no attempt goes on.
func (g *Guarded) race(ctx context.Context, targets []Target) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A host that swallows packets must leave time for those behind it.
	share := max(dialTimeout/time.Duration((len(targets)+1)/dialAtOnce), 2*time.Second)

	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	stagger := time.NewTimer(dialStagger)
	defer stagger.Stop()
	next, running := 0, 0
	start := func() {
		t := targets[next]
		next++
		running++
		stagger.Reset(dialStagger)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, share)
			defer cancel()
			c, err := g.network.Dial(ctx, t.Network, t.Address())
			results <- result{c, err}
		}()
	}

	var won net.Conn
	var failure error
	for start(); running > 0; {
		more := false
		select {
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				failure = moreTelling(failure, r.err)
			case won == nil:
				won = r.conn
				cancel()
			default:
				r.conn.Close()
			}
			more = true
		case <-stagger.C:
			more = running < dialAtOnce
		}
		if more && next < len(targets) && ctx.Err() == nil {
			start()
		}
	}
	if won != nil {
		return won, nil
	}
	return nil, failure
}

// moreTelling returns which of two failures says more about the target: that
// it refused, then that there is no way, then that nothing was heard.
func moreTelling(a, b error) error {
	if a == nil || telling(b) > telling(a) {
		return b
	}
	return a
}

func telling(err error) int {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return 3
	case errors.Is(err, context.Canceled):
		return 0
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return 1
	}
	return 2
}
