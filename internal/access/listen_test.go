package access

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
)

// recorder notes what is bound, and fails at the addresses in errs.
type recorder struct {
	netxtest.Network
	errs  map[string]error
	bound []string
}

func (r *recorder) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	r.bound = append(r.bound, network+" "+address)
	if err := r.errs[address]; err != nil {
		return nil, err
	}
	return r.Network.Listen(ctx, network, address)
}

func TestListen(t *testing.T) {
	inUse := os.NewSyscallError("bind", syscall.EADDRINUSE)
	for _, test := range []struct {
		name, listen, deny, address string
		errs                        map[string]error
		bound                       string // what was tried
		want                        error
	}{
		{name: "default is nothing", address: "127.0.0.1:8080", want: netx.ErrDenied},
		{name: "an address", listen: "127.0.0.1:8080", address: "127.0.0.1:8080", bound: "tcp 127.0.0.1:8080"},
		{name: "both loopbacks", listen: "localhost:8080", address: "localhost:8080", bound: "tcp 127.0.0.1:8080, tcp [::1]:8080"},
		{name: "the permitted loopback", listen: "[::1]:8080", address: "localhost:8080", bound: "tcp [::1]:8080"},
		{name: "the loopback that is not denied", listen: "*:8080", deny: "[::1]:*", address: "localhost:8080", bound: "tcp 127.0.0.1:8080"},
		{name: "no loopback", listen: "10.0.0.1:8080", address: "localhost:8080", want: netx.ErrDenied},
		{name: "every address", listen: "*:8080", address: ":8080", bound: "tcp :8080"},
		{name: "every address, spelled", listen: "*:8080", address: "*:8080", bound: "tcp :8080"},
		{name: "every IPv4 address", listen: "0.0.0.0:8080", address: "0.0.0.0:8080", bound: "tcp4 0.0.0.0:8080"},
		{name: "every IPv6 address", listen: "[::]:8080", address: "[::]:8080", bound: "tcp6 [::]:8080"},
		{name: "a name", listen: "*:8080", address: "db:8080", want: errors.ErrUnsupported},
		{name: "no IPv6 here", listen: "localhost:8080", address: "localhost:8080",
			errs: map[string]error{"[::1]:8080": syscall.EADDRNOTAVAIL}, bound: "tcp 127.0.0.1:8080, tcp [::1]:8080"},
		{name: "taken on one", listen: "localhost:8080", address: "localhost:8080",
			errs: map[string]error{"[::1]:8080": inUse}, bound: "tcp 127.0.0.1:8080, tcp [::1]:8080", want: syscall.EADDRINUSE},
		{name: "any port", listen: "localhost:*", address: "localhost:0", bound: "tcp 127.0.0.1:0, tcp [::1]:40001"},
		{name: "the one port", listen: "localhost:8080", address: "localhost:0", bound: "tcp 127.0.0.1:8080, tcp [::1]:8080"},
		{name: "the one port not denied", listen: "127.0.0.1:8080-8081", deny: "*:8080", address: "127.0.0.1:0", bound: "tcp 127.0.0.1:8081"},
		{name: "picked, then taken", listen: "localhost:*", address: "localhost:0",
			errs: map[string]error{"[::1]:40001": inUse}, bound: "tcp 127.0.0.1:0, tcp [::1]:40001, tcp 127.0.0.1:0, tcp [::1]:40002"},
		{name: "picked, then denied", listen: "127.0.0.1:*", deny: "127.0.0.1:40001-40002", address: "127.0.0.1:0",
			bound: "tcp 127.0.0.1:0, tcp 127.0.0.1:0, tcp 127.0.0.1:0"},
		{name: "none free", listen: "127.0.0.1:8080", address: "127.0.0.1:0",
			errs: map[string]error{"127.0.0.1:8080": inUse}, bound: "tcp 127.0.0.1:8080", want: syscall.EADDRINUSE},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := &recorder{errs: test.errs}
			g := Guard(n, &Policy{AllowListen: rules(t, test.listen), Deny: rules(t, test.deny)}, Anonymous)
			ln, err := g.Listen(ctx, "tcp", test.address)
			if got := strings.Join(n.bound, ", "); got != test.bound {
				t.Errorf("bound %s, want %s", got, test.bound)
			}
			if test.want == nil && err != nil || test.want != nil && err == nil ||
				test.want != nil && test.want != errors.ErrUnsupported && !errors.Is(err, test.want) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err == nil {
				ln.Close()
			}
			for _, b := range n.bound { // nothing is left open
				network, address, _ := strings.Cut(b, " ")
				if c, err := n.Dial(ctx, network, address); err == nil {
					c.Close()
					t.Errorf("%s still listens", b)
				}
			}
		})
	}
}

func TestLoopbacksAreOneListener(t *testing.T) {
	var n netxtest.Network
	g := Guard(&n, &Policy{AllowListen: rules(t, "localhost:8080")}, Anonymous)
	ln, err := g.Listen(ctx, "tcp", "localhost:8080")
	if err != nil {
		t.Fatal(err)
	}
	var served []string
	done := make(chan error)
	names := make(chan string)
	go func() {
		done <- netx.Serve(ctx, ln, func(_ context.Context, c net.Conn) {
			io.WriteString(c, "x")
			c.Close()
			names <- c.LocalAddr().String()
		})
	}()
	for _, address := range []string{"127.0.0.1:8080", "[::1]:8080"} {
		c, err := n.Dial(ctx, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); string(b) != "x" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		c.Close()
		served = append(served, <-names)
	}
	if !slices.Equal(served, []string{"127.0.0.1:8080", "[::1]:8080"}) {
		t.Error(served)
	}
	ln.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// TestConnBetweenAcceptAndClose is of a conn that nobody was handed.
func TestConnBetweenAcceptAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n netxtest.Network
		g := Guard(&n, &Policy{AllowListen: rules(t, "localhost:8080")}, Anonymous)
		ln, err := g.Listen(t.Context(), "tcp", "localhost:8080")
		if err != nil {
			t.Fatal(err)
		}
		var conns []net.Conn
		for range 2 {
			c, err := n.Dial(t.Context(), "tcp", "[::1]:8080")
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the other one has left the listener below
		ln.Close()
		if _, err := conns[1].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("it ended with %v", err)
		}
		c.Close()
		conns[0].Close()
		conns[1].Close()
	})
}

// TestHostBindsBothLoopbacks is on real sockets.
func TestHostBindsBothLoopbacks(t *testing.T) {
	g := Guard(&netx.Host{}, &Policy{AllowListen: rules(t, "localhost:*")}, Anonymous)
	ln, err := g.Listen(ctx, "tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if !netipLoopback(ln.Addr()) {
		t.Errorf("bound %v", ln.Addr())
	}
}

func netipLoopback(a net.Addr) bool { return a.(*net.TCPAddr).IP.IsLoopback() }
