package netxtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func Example() {
	var n netxtest.Network
	ln, _ := n.Listen(context.Background(), "tcp", "vnc:5900")
	defer ln.Close()

	c, _ := n.Dial(context.Background(), "tcp", "vnc:5900")
	s, _ := ln.Accept()
	defer c.Close()
	io.WriteString(s, "RFB 003.008")
	s.Close()

	hello, err := io.ReadAll(c)
	fmt.Printf("%s %v\n", hello, err)
	// Output: RFB 003.008 <nil>
}

func TestPipeIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := netxtest.Pipe()
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func TestDialedIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		var n netxtest.Network
		a, b := connect(t, &n, "tcp", "127.0.0.1:0")
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func connect(t *testing.T, n *netxtest.Network, network, address string) (a, b *netxtest.Conn) {
	t.Helper()
	ln, err := n.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := n.Dial(t.Context(), network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*netxtest.Conn), s.(*netxtest.Conn)
}

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		name, network, listen, dial string
		ok                          bool
	}{
		{"same", "tcp", "db:5432", "db:5432", true},
		{"other port", "tcp", "db:5432", "db:5433", false},
		{"other name", "tcp", "db:5432", "vnc:5432", false},
		{"localhost", "tcp", "localhost:80", "127.0.0.1:80", true},
		{"wildcard", "tcp", ":80", "127.0.0.1:80", true},
		{"wildcard of IPv4", "tcp", "0.0.0.0:80", "web:80", true},
		{"unix", "unix", "/run/x.sock", "/run/x.sock", true},
		{"service", "service", "lab7", "lab7", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var n netxtest.Network
			ln, err := n.Listen(t.Context(), test.network, test.listen)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := n.Dial(t.Context(), test.network, test.dial)
			if test.ok != (err == nil) {
				t.Fatalf("dial %s: %v", test.dial, err)
			}
			if !test.ok {
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("got %v, want connection refused", err)
				}
				return
			}
			defer c.Close()
			s, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if c.LocalAddr().String() != s.RemoteAddr().String() || c.LocalAddr().Network() != test.network {
				t.Errorf("dialed from %v, accepted from %v", c.LocalAddr(), s.RemoteAddr())
			}
		})
	}
}

func TestListen(t *testing.T) {
	var n netxtest.Network
	ln, err := n.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); !ok || a.Port == 0 {
		t.Errorf("got %T %v, want a TCP address with a port", ln.Addr(), ln.Addr())
	}
	if _, err := n.Listen(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listener: got %v, want address in use", err)
	}
	waiting, err := n.Dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: got %v, want closed", err)
	}
	if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("conn that was never accepted: got %v, want a reset", err)
	}
	if _, err := n.Dial(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: got %v, want refused", err)
	}
}

func TestEnds(t *testing.T) {
	cause := errors.New("target reset")
	for _, test := range []struct {
		name         string
		end          func(*netxtest.Conn)
		read, write  error // that the peer gets, behind the bytes; nil read: EOF
		broken       bool
		stillReading bool // the ended side reads on
	}{
		{"close write", func(c *netxtest.Conn) { c.CloseWrite() }, nil, nil, false, true},
		{"close", func(c *netxtest.Conn) { c.Close() }, nil, syscall.EPIPE, false, false},
		{"abort", func(c *netxtest.Conn) { netx.Abort(c, cause) }, syscall.ECONNRESET, syscall.ECONNRESET, true, false},
		{"abort says why", func(c *netxtest.Conn) { netx.Abort(c, cause) }, cause, cause, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := netxtest.Pipe()
			defer a.Close()
			defer b.Close()
			io.WriteString(a, "last words")
			test.end(a)
			if broken := netx.Broken(b); (broken != nil) != test.broken {
				t.Errorf("broken before any read: %v", broken)
			}
			got, err := io.ReadAll(b)
			if string(got) != "last words" || !errors.Is(err, test.read) {
				t.Errorf("read %q, %v, want all and %v", got, err, test.read)
			}
			if err := b.Broken(); err != nil {
				t.Errorf("broken after the read said so: %v", err)
			}
			if _, err := b.Write([]byte("x")); !errors.Is(err, test.write) {
				t.Errorf("write: got %v, want %v", err, test.write)
			}
			if _, err := a.Write([]byte("x")); err == nil {
				t.Error("write after the end: no error")
			}
			if n, err := a.Read(make([]byte, 9)); (n == 1 && err == nil) != test.stillReading {
				t.Errorf("read after the end: %d, %v", n, err)
			}
		})
	}
}

func TestWriteWaitsForReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := netxtest.Pipe()
		defer a.Close()
		defer b.Close()
		a.SetWriteDeadline(time.Now().Add(time.Minute))
		start := time.Now()
		n, err := a.Write(make([]byte, 1<<20))
		if n != 64<<10 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("wrote %d, %v after %v", n, err, time.Since(start))
		}
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := netxtest.Pipe()
		defer a.Close()
		defer b.Close()
		a.Stall(true)
		io.WriteString(a, "late")
		a.Abort(nil)
		b.SetReadDeadline(time.Now().Add(time.Hour))
		if n, err := b.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) || b.Broken() != nil {
			t.Errorf("stalled: read %d, %v, broken %v", n, err, b.Broken())
		}
		b.SetReadDeadline(time.Time{})
		a.Stall(false)
		if got, err := io.ReadAll(b); string(got) != "late" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the stall: read %q, %v", got, err)
		}
	})
}

func TestCutAfter(t *testing.T) {
	for _, cut := range []int{0, 1, 9} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			a, b := netxtest.Pipe()
			defer a.Close()
			defer b.Close()
			a.CutAfter(cut)
			n, err := io.WriteString(a, "0123456789")
			if n != cut || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("wrote %d, %v", n, err)
			}
			got, err := io.ReadAll(b)
			if len(got) != cut || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// The write that reaches the cut exactly succeeds: only the next one can know.
func TestCutBetweenWrites(t *testing.T) {
	a, b := netxtest.Pipe()
	defer a.Close()
	defer b.Close()
	a.CutAfter(4)
	if n, err := io.WriteString(a, "0123"); n != 4 || err != nil {
		t.Errorf("first write: %d, %v", n, err)
	}
	if a.Broken() == nil || b.Broken() == nil {
		t.Errorf("broken: %v and %v", a.Broken(), b.Broken())
	}
	if n, err := io.WriteString(a, "4"); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("second write: %d, %v", n, err)
	}
}
