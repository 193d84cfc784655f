package integration

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The ends of connections: complete stays complete, broken stays broken.

// TestHalfClose: nc -N ends its request and gets the whole answer, which the
// target only then begins.
func TestHalfClose(t *testing.T) {
	needs(t, "nc")
	request, answer := noiseBytes(1, 100_000), noiseBytes(2, 16<<20)
	asked := make(chan result, 1)
	target := listen(t, func(c *net.TCPConn) {
		asked <- drain(c)
		c.Write(answer)
	})
	s := startServer(t, "--allow", target)
	c := startClient(t, "-L", "0:"+target, s.ws())
	host, port, _ := net.SplitHostPort(c.local(t, target))

	var got bytes.Buffer
	nc := pipeline(t, bytes.NewReader(request), &got, "nc", "-N", host, port)
	if code := nc.exit(t); code != 0 {
		t.Errorf("nc: exit code %d", code)
	}
	sameBytes(t, "the answer", got.Bytes(), answer)
	if r := receive(t, asked, "the target has the request"); r != drain(bytes.NewReader(request)) {
		t.Errorf("the request arrived as %+v", r)
	}
}

// reset ends a conn as a crash does: with RST, and without what is unsent.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// TestTargetResets: a transfer that the target breaks off is broken for the
// user too, and does not look complete.
func TestTargetResets(t *testing.T) {
	halfway := make(chan struct{}, 2)
	target := listen(t, func(c *net.TCPConn) {
		io.Copy(c, noise(1, 1<<20))
		receive(t, halfway, "the user has seen the beginning")
		reset(c)
	})
	s := startServer(t, "--allow", target, "--target", target)

	t.Run("client", func(t *testing.T) {
		c := startClient(t, "-L", "0:"+target, s.ws())
		conn := dial(t, c.local(t, target))
		if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		halfway <- struct{}{}
		if r := drain(conn); !errors.Is(r.err, syscall.ECONNRESET) {
			t.Errorf("the user read %d bytes and then %v, want ECONNRESET", r.n, r.err)
		}
	})
	t.Run("browser", func(t *testing.T) {
		c := dialWS(t, s.ws())
		if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		halfway <- struct{}{}
		r := drain(struct{ io.Reader }{c})
		var closed *closeError
		if !errors.As(r.err, &closed) || closed.code != 1011 || closed.reason == "" {
			t.Errorf("the browser read %d bytes and then %v, want close 1011 with a reason", r.n, r.err)
		}
	})
}

// TestRefusedByTarget: where nothing listens, the user's connection is reset
// and a browser reads why.
func TestRefusedByTarget(t *testing.T) {
	target := loopback(freePort(t))
	s := startServer(t, "--allow", target, "--target", target)

	t.Run("client", func(t *testing.T) {
		c := startClient(t, "-L", "0:"+target, s.ws())
		mustBeReset(t, c.local(t, target))
		c.await(t, "refused", target)
	})
	t.Run("browser", func(t *testing.T) {
		r := drain(struct{ io.Reader }{dialWS(t, s.ws())})
		var closed *closeError
		if !errors.As(r.err, &closed) || closed.code != 1011 || !contains(closed.reason, "refused") {
			t.Fatalf("got %v, want close 1011 that says refused", r.err)
		}
		if contains(closed.reason, "127.0.0.1") {
			t.Errorf("the reason %q tells an internal address", closed.reason)
		}
	})
}

// mustBeReset connects and must be reset before any byte came. A quick reset
// may be what connecting itself meets.
func mustBeReset(t testing.TB, addr string) {
	t.Helper()
	var r result
	conn, err := dialTCP(addr)
	if err == nil {
		defer conn.Close()
		r = drain(conn)
		err = r.err
	}
	if r.n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the user read %d bytes and then %v, want ECONNRESET", r.n, err)
	}
}

// TestSlowBrowser: the target sends 8 MiB and is gone; a browser that takes its
// time still gets every byte, and then a clean close.
func TestSlowBrowser(t *testing.T) {
	const size = 8 << 20
	target := sourceTarget(t, func() io.Reader { return noise(8, size) })
	s := startServer(t, "--target", target)
	c := dialWS(t, s.ws(), withReadBuffer(64<<10))

	// 16 KiB each 2 ms is slower than any target and takes about a second.
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var got bytes.Buffer
	var err error
	for buf := make([]byte, 16<<10); err == nil; <-tick.C {
		var n int
		n, err = io.ReadFull(struct{ io.Reader }{c}, buf)
		got.Write(buf[:n])
	}
	sameBytes(t, "what the browser got", got.Bytes(), noiseBytes(8, size))
	var closed *closeError
	if !errors.As(err, &closed) {
		t.Fatalf("after the last byte: %v, want a close frame", err)
	}
	if closed.code != 1000 || closed.reason == "" || !utf8.ValidString(closed.reason) {
		t.Errorf("close %d %q, want 1000 and a reason", closed.code, closed.reason)
	}
}

// TestUserResetsUpload: the target does not read, the user's upload is stuck in
// full buffers, the user breaks it off. The target must learn of it although
// nothing can be sent behind those bytes.
func TestUserResetsUpload(t *testing.T) {
	type stalled struct {
		conn *net.TCPConn
		over chan struct{} // closed when the target may go
	}
	accepted := make(chan stalled, 2)
	target := listen(t, func(c *net.TCPConn) {
		s := stalled{c, make(chan struct{})}
		accepted <- s
		<-s.over
	})
	s := startServer(t, "--allow", target, "--target", target)
	check := func(t *testing.T, conn net.Conn, tcp *net.TCPConn) {
		at := receive(t, accepted, "the target accepts")
		defer close(at.over)
		fill(t, conn)
		reset(tcp)
		awaitReset(t, at.conn)
	}
	t.Run("client", func(t *testing.T) {
		c := startClient(t, "-L", "0:"+target, s.ws())
		conn := dial(t, c.local(t, target))
		check(t, conn, conn)
	})
	t.Run("browser", func(t *testing.T) {
		c := dialWS(t, s.ws())
		check(t, c, c.Conn.(*net.TCPConn))
	})
}

// fill writes until nothing more goes in.
func fill(t testing.TB, conn net.Conn) {
	t.Helper()
	chunk := noiseBytes(1, 64<<10)
	for {
		// Longer than a loaded machine makes a pause, short for a test.
		conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		if _, err := conn.Write(chunk); errors.Is(err, syscall.ETIMEDOUT) || isTimeout(err) {
			return
		} else if err != nil {
			t.Fatalf("upload: %v", err)
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// awaitReset waits until the peer of conn has reset it, without reading: poll
// tells of it even before bytes that were there earlier.
func awaitReset(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		var got int16
		err := raw.Control(func(fd uintptr) {
			set := []unix.PollFd{{Fd: int32(fd)}} // POLLERR and POLLHUP are always told
			unix.Poll(set, 1000)
			got = set[0].Revents
		})
		if err != nil {
			t.Fatal(err)
		}
		if got&unix.POLLERR != 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the target saw no reset in %v (poll says %#x)", patience, got)
		}
	}
}

// TestLocalReset is the small case: a user who breaks off an idle connection.
func TestLocalReset(t *testing.T) {
	ends := make(chan error, 1)
	target := listen(t, func(c *net.TCPConn) {
		c.Write([]byte("hello"))
		ends <- drain(c).err
	})
	s := startServer(t, "--allow", target)
	c := startClient(t, "-L", "0:"+target, s.ws())
	conn := dial(t, c.local(t, target))
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	reset(conn)
	if err := receive(t, ends, "the target's connection ends"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target read %v, want ECONNRESET", err)
	}
}
