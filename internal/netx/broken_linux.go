package netx

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// brokenSocket asks the kernel whether c's peer reset the connection. POLLHUP
// would not do: it is also set when both directions have ended properly and
// bytes still wait to be read.
func brokenSocket(c net.Conn) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil // closed here: whoever closed it knows
	}
	var broken error
	raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(p, 0); n != 1 || err != nil || p[0].Revents&unix.POLLERR == 0 {
			return
		}
		// A reset behind the peer's FIN is EPIPE: what it said before is complete.
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 && syscall.Errno(errno) != syscall.EPIPE {
			broken = syscall.Errno(errno)
		}
	})
	return broken
}
