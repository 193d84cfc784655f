// Package netx describes networks: things that dial and listen.
//
// This host is a network, and so is the far end of a tunnel. A forward is then
// always the same sentence: accept on one network, dial on another, relay.
// Who may use a network is package access's question, how bytes get from one
// conn to another package relay's.
package netx

import (
	"context"
	"errors"
	"net"
)

// A Network dials and listens. Network names are those of package net, and
// "service" for a service that a client offers by name.
type Network interface {
	// Dial connects to address. ctx bounds the call, not the life of the
	// conn, which the caller closes.
	Dial(ctx context.Context, network, address string) (net.Conn, error)

	// Listen announces address. ctx bounds the call; the caller closes the
	// listener.
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// DialFunc is the type of [Network.Dial] and of net.Dialer.DialContext.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Reasons for which a network refuses, as far as a caller branches on them.
// Others are those of package net and the operating system: *net.DNSError,
// syscall.ECONNREFUSED, os.ErrDeadlineExceeded.
var (
	ErrDenied   = errors.New("not allowed")                 // by policy
	ErrLimit    = errors.New("too many connections")        // of a bound that a peer can see
	ErrDraining = errors.New("about to stop")               // takes nothing new
	ErrNetwork  = errors.New("no such network on this end") // "udp" to a network that has none
)

// Host is the network of this machine. The zero value is ready to use.
type Host struct {
	Dialer       net.Dialer
	ListenConfig net.ListenConfig
}

var _ Network = (*Host)(nil)

// Dial is net.Dialer.DialContext.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.Dialer.DialContext(ctx, network, address)
}

// Listen is net.ListenConfig.Listen.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return h.ListenConfig.Listen(ctx, network, address)
}
