package netx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settle is how long what belongs together may take: an old address goes,
	// a new one comes, and then the route.
	settle = 500 * time.Millisecond

	// netlinkGroups is what the kernel is to tell. The state of links is not
	// among it: whoever configures an interface takes its addresses away when
	// that is lost for good, and scanning Wi-Fi alone would tell much.
	netlinkGroups = unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

	// netlinkBuffer takes the longest datagram that the kernel sends.
	netlinkBuffer = 32 << 10
)

// watchKernel reports what the kernel tells of addresses and default routes. It
// returns nil when ctx is done, else why it is told nothing or nothing more.
func watchKernel(ctx context.Context, report func(why string)) error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	return n.watch(ctx, report)
}

// netlink is a socket on which the kernel tells, and what it told.
type netlink struct {
	socket *os.File
	known  known
}

// openNetlink begins to listen and then lists what there is, so that nothing
// falls between the two. The caller calls watch, which closes the socket.
func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	n := &netlink{socket: os.NewFile(uintptr(fd), "netlink")}
	if err := n.begin(fd); err != nil {
		n.socket.Close()
		return nil, fmt.Errorf("listen on a netlink socket: %w", err)
	}
	return n, nil
}

func (n *netlink) begin(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: netlinkGroups}); err != nil {
		return err
	}
	// Without a poller behind it a read could not be interrupted.
	if err := n.socket.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return n.list()
}

// list begins to know anew. IPv4's routes are not asked for: nobody repeats them.
func (n *netlink) list() error {
	n.known = newKnown()
	for _, ask := range []struct{ what, family int }{
		{unix.RTM_GETADDR, unix.AF_UNSPEC},
		{unix.RTM_GETROUTE, unix.AF_INET6},
	} {
		answer, err := syscall.NetlinkRIB(ask.what, ask.family)
		if err != nil {
			return err
		}
		n.known.learn(answer)
	}
	return nil
}

// watch closes the socket. A read's deadline is when to report what was seen:
// it comes before what else there is to read, so that a storm delays nothing.
func (n *netlink) watch(ctx context.Context, report func(why string)) error {
	shut := sync.OnceFunc(func() { n.socket.Close() }) // a second caller waits for the first
	defer context.AfterFunc(ctx, shut)()
	defer shut()

	var seen change // and not yet reported
	b := make([]byte, netlinkBuffer)
	for {
		size, err := n.socket.Read(b)
		var news change
		switch {
		case err == nil:
			news = n.known.learn(b[:size])
		case errors.Is(err, os.ErrDeadlineExceeded):
			report(seen.String())
			err = n.settled(seen)
			seen = 0
		case errors.Is(err, unix.ENOBUFS): // it told more than the socket holds
			news, err = missed, nil
		}
		if err == nil && news != 0 && seen == 0 {
			err = n.socket.SetReadDeadline(time.Now().Add(settle))
		}
		seen |= news
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			report((seen | missed).String())
			return fmt.Errorf("read from a netlink socket: %w", err)
		}
	}
}

// settled is after a report of what was seen.
func (n *netlink) settled(seen change) error {
	if seen&missed != 0 {
		if err := n.list(); err != nil {
			return err
		}
	}
	return n.socket.SetReadDeadline(time.Time{})
}
