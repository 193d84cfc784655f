package netx_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"wstun/internal/netx"
)

func TestBroken(t *testing.T) {
	for _, test := range []struct {
		name   string
		peer   func(c, peer net.Conn)
		broken bool
	}{
		{"reset", func(_, peer net.Conn) { netx.Abort(peer, nil) }, true},
		{"reset behind unread bytes", func(_, peer net.Conn) {
			io.WriteString(peer, "unread")
			netx.Abort(peer, nil)
		}, true},
		{"reset after our end", func(c, peer net.Conn) {
			end(c)
			netx.Abort(peer, nil)
		}, true},
		{"end", func(_, peer net.Conn) { end(peer) }, false},
		{"end behind unread bytes", func(_, peer net.Conn) {
			io.WriteString(peer, "unread")
			end(peer)
		}, false},
		{"ended both ways, bytes unread", func(c, peer net.Conn) {
			end(c)
			io.Copy(io.Discard, peer)
			io.WriteString(peer, "unread")
			peer.Close()
		}, false},
	} {
		for _, pair := range pairs[:2] {
			t.Run(test.name+"/"+pair.name, func(t *testing.T) {
				c, peer := pair.make(t)
				if err := netx.Broken(c); err != nil {
					t.Fatalf("at the start: %v", err)
				}
				test.peer(c, peer)
				waitForHangup(t, c)
				err := netx.Broken(c)
				if (err != nil) != test.broken {
					t.Fatalf("got %v", err)
				}
				if test.broken && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %v, want a reset", err)
				}
			})
		}
	}
}

func TestBrokenOfAClosedConn(t *testing.T) {
	c, _ := tcpPair(t)
	c.Close()
	if err := netx.Broken(c); err != nil {
		t.Errorf("got %v: whoever closed it knows", err)
	}
}

// A peer that has ended in order and is gone answers late bytes with a reset:
// what it said before is complete.
func TestResetBehindAnEndIsNotBroken(t *testing.T) {
	c, peer := tcpPair(t)
	io.WriteString(peer, "a whole answer")
	peer.Close()
	waitForHangup(t, c)
	io.WriteString(c, "late")
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLERR and POLLHUP are always asked for
		n, err := unix.Poll(p, int(generous.Milliseconds()))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(p, int(generous.Milliseconds()))
		}
		if n != 1 {
			t.Errorf("no reset came: %d, %v", n, err)
		}
	})
	if err := netx.Broken(c); err != nil {
		t.Errorf("got %v", err)
	}
	if got, err := io.ReadAll(c); string(got) != "a whole answer" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

// waitForHangup returns when the peer's end or reset has arrived at c's socket.
func waitForHangup(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := socket(c).(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, int(generous.Milliseconds()))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(p, int(generous.Milliseconds()))
		}
		if n != 1 {
			t.Errorf("nothing arrived: %d, %v", n, err)
		}
	})
}

// end sends a FIN; TLS's own CloseWrite sends only its alert.
func end(c net.Conn) {
	netx.CloseWrite(c)
	netx.CloseWrite(socket(c))
}

// socket is c or what lies under its TLS.
func socket(c net.Conn) net.Conn {
	if c, ok := c.(*tls.Conn); ok {
		return c.NetConn()
	}
	return c
}
