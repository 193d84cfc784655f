// Package netxtest is a network in memory, for tests.
//
// It behaves as TCP does where a relay or a session can tell: bounded buffers,
// half-close, resets, deadlines, refused connections. It opens no socket and
// blocks on sync.Cond, channels and timers only, so it works in
// testing/synctest bubbles. It has no names, no policy and no datagrams: on
// every network a conn is a byte stream.
package netxtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"wstun/internal/netx"
)

// backlog is how many conns may wait for Accept; a Dial beyond is refused.
const backlog = 1024

// Network is a network in memory: what listens on it can be dialed on it. The
// zero value is ready to use. Every network and address string is accepted.
type Network struct {
	mu        sync.Mutex
	listeners map[key]*listener
	lastPort  uint16 // of those picked for port 0 and for dialers
}

var _ netx.Network = (*Network)(nil)

type key struct{ network, address string }

// Dial connects to a listener of n. It does not wait for Accept, as with TCP.
// The conn is a [*Conn]; the caller closes it. If nobody listens the error is
// syscall.ECONNREFUSED.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := makeAddr(network, canonical(address))
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: to, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	l := n.listeners[key{family(network), to.String()}]
	if _, port, err := net.SplitHostPort(to.String()); l == nil && err == nil {
		l = n.listeners[key{family(network), net.JoinHostPort("::", port)}]
	}
	if l == nil || len(l.queue) == cap(l.queue) {
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	a, b := Pipe()
	a.local, a.remote = n.dialerAddr(network, to), to
	b.local, b.remote = to, a.local
	l.queue <- b
	return a, nil
}

// Listen announces address; port 0 picks one. The caller closes the listener,
// which resets the conns that were not accepted.
func (n *Network) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	address = canonical(address)
	if host, port, err := net.SplitHostPort(address); err == nil && port == "0" {
		address = net.JoinHostPort(host, n.pickPort())
	}
	l := &listener{
		network: n,
		key:     key{family(network), address},
		addr:    makeAddr(network, address),
		queue:   make(chan *Conn, backlog),
	}
	err := ctx.Err()
	if n.listeners[l.key] != nil {
		err = os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: l.addr, Err: err}
	}
	if n.listeners == nil {
		n.listeners = make(map[key]*listener)
	}
	n.listeners[l.key] = l
	return l, nil
}

func (n *Network) pickPort() string {
	if n.lastPort < 40000 {
		n.lastPort = 40000
	}
	n.lastPort++
	return strconv.Itoa(int(n.lastPort))
}

// dialerAddr is the local address of a conn to addr.
func (n *Network) dialerAddr(network string, to net.Addr) net.Addr {
	host, _, err := net.SplitHostPort(to.String())
	if err != nil {
		return makeAddr(network, fmt.Sprintf("dialer-%s", n.pickPort()))
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		return makeAddr(network, net.JoinHostPort("::1", n.pickPort()))
	}
	return makeAddr(network, net.JoinHostPort("127.0.0.1", n.pickPort()))
}

type listener struct {
	network *Network
	key     key
	addr    net.Addr
	queue   chan *Conn // sent to and closed under network.mu
}

func (l *listener) Accept() (net.Conn, error) {
	c, ok := <-l.queue
	if !ok {
		return nil, &net.OpError{Op: "accept", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
	}
	return c, nil
}

func (l *listener) Close() error {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	if l.network.listeners[l.key] != l {
		return &net.OpError{Op: "close", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
	}
	delete(l.network.listeners, l.key)
	close(l.queue)
	for c := range l.queue {
		c.Abort(nil)
	}
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// family makes tcp4 and tcp6 the tcp that they are part of.
func family(network string) string { return strings.TrimRight(network, "46") }

// canonical gives the spellings of one address one form.
func canonical(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	switch host {
	case "localhost":
		host = "127.0.0.1"
	case "", "0.0.0.0":
		host = "::"
	}
	return net.JoinHostPort(host, port)
}

// makeAddr is of package net's own type where there is one, since callers ask for it.
func makeAddr(network, address string) net.Addr {
	ap, err := netip.ParseAddrPort(address)
	if err == nil {
		switch family(network) {
		case "tcp":
			return net.TCPAddrFromAddrPort(ap)
		case "udp":
			return net.UDPAddrFromAddrPort(ap)
		}
	}
	return addr{network, address}
}

type addr struct{ network, address string }

func (a addr) Network() string { return a.network }
func (a addr) String() string  { return a.address }
