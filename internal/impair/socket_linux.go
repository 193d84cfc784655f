package impair

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tcpInfo asks the kernel about a socket.
func tcpInfo(fd uintptr) (*unix.TCPInfo, error) {
	return unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
}

// ask calls is with what the kernel says about c; false if c is closed here.
func ask(c *net.TCPConn, is func(*unix.TCPInfo) bool) (yes bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		info, err := tcpInfo(fd)
		yes = err == nil && is(info)
	})
	return yes
}

// dead reports whether c's connection exists no more for the kernel: it was
// reset, or has ended both ways.
func dead(c *net.TCPConn) bool {
	return ask(c, func(info *unix.TCPInfo) bool { return info.State == unix.BPF_TCP_CLOSE })
}

// hungUp reports whether c's peer has ended or reset the connection.
func hungUp(c *net.TCPConn) bool {
	return ask(c, func(info *unix.TCPInfo) bool { return info.State != unix.BPF_TCP_ESTABLISHED })
}

// awaitDeath waits until c, of which an EOF was read, is dead. It reports false
// if c was closed here before.
func awaitDeath(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) (done bool) {
		info, err := tcpInfo(fd)
		return err != nil || info.State == unix.BPF_TCP_CLOSE
	})
	return err == nil
}

// awaitDelivery waits until the peer's kernel has what was written to c, or
// limit has passed, or c is closed: a reset takes with it what was not sent yet.
func awaitDelivery(c *net.TCPConn, limit time.Duration) {
	undelivered := func(info *unix.TCPInfo) bool {
		return info.State != unix.BPF_TCP_CLOSE && (info.Unacked > 0 || info.Notsent_bytes > 0)
	}
	for start := time.Now(); time.Since(start) < limit && ask(c, undelivered); {
		<-time.After(time.Millisecond) // nothing tells when
	}
}

// reserve gives an address on loopback that nothing gets to use by chance until
// release, also while nobody listens on it: a port that a socket without
// SO_REUSEADDR was given stands in the way of one that wants to listen.
func reserve() (addr string, release func(), err error) {
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", nil, err
	}
	release = func() { unix.Close(fd) }
	defer func() {
		if err != nil {
			release()
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return "", nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", nil, err
	}
	a := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}
	return a.String(), release, nil
}
