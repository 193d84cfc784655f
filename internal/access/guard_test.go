package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
)

var ctx = context.Background()

// answers is a resolver that knows one answer.
func answers(ips ...string) func(context.Context, string, string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, s := range ips {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return func(context.Context, string, string) ([]netip.Addr, error) { return addrs, nil }
}

func ExampleGuard() {
	var host netxtest.Network
	ln, _ := host.Listen(context.Background(), "tcp", "10.0.0.5:5900")
	defer ln.Close()

	rule, _ := ParseRule("vnc:5900")
	g := Guard(&host, &Policy{Allow: []Rule{rule}}, Anonymous)
	g.Lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("10.0.0.5")}, nil
	}
	c, err := g.Dial(context.Background(), "tcp", "vnc:5900")
	fmt.Println(err)
	c.Close()
	_, err = g.Dial(context.Background(), "tcp", "10.0.0.5:22")
	fmt.Println(err, errors.Is(err, netx.ErrDenied))
	// Output:
	// <nil>
	// not allowed: no rule permits 10.0.0.5:22; --allow 10.0.0.5:22 would true
}

// dialer is a network of one func.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func (d dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

func (d dialer) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	_, err := d(ctx, network, address)
	return nil, err
}

// TestRebinding is of a name whose owner answers with a public address and
// with loopback.
func TestRebinding(t *testing.T) {
	for _, test := range []struct {
		name, allow string
		lookup      []string
		up          bool // something listens on the public address
	}{
		{"the public address answers", "*:80", []string{"203.0.113.5", "127.0.0.1"}, true},
		{"the public address refuses", "*:80", []string{"203.0.113.5", "127.0.0.1", "::1"}, false},
		{"loopback first", "*.example:80", []string{"::ffff:127.0.0.1", "203.0.113.5"}, true},
		{"exact name", "evil.example:80", []string{"203.0.113.5", "127.0.0.1"}, false},
		{"hidden in IPv6", "0.0.0.0/0:80 [::/0]:80", []string{"64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "0.0.0.0"}, false},
		{"with a zone", "[::/0]:80", []string{"::1%lo"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var n netxtest.Network
			for _, canary := range []string{"127.0.0.1:80", "[::1]:80"} {
				ln := listen(t, &n, canary)
				defer func() {
					ln.Close()
					if c, err := ln.Accept(); err == nil {
						t.Errorf("%v was reached from %v", ln.Addr(), c.RemoteAddr())
					}
				}()
			}
			if test.up {
				defer listen(t, &n, "203.0.113.5:80").Close()
			}
			var dialled []string
			var mu sync.Mutex
			g := Guard(dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dialled = append(dialled, address)
				return n.Dial(ctx, network, address)
			}), &Policy{Allow: rules(t, test.allow)}, Anonymous)
			g.Lookup = answers(test.lookup...)
			c, err := g.Dial(ctx, "tcp", "evil.example:80")
			if (err == nil) != test.up {
				t.Errorf("error %v", err)
			}
			if err == nil {
				c.Close()
			}
			for _, a := range dialled {
				if a != "203.0.113.5:80" {
					t.Errorf("%s was dialled", a)
				}
			}
		})
	}
}

func listen(t *testing.T, n netx.Network, address string) net.Listener {
	t.Helper()
	ln, err := n.Listen(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func TestNothingIsLookedUpThatNoRuleNames(t *testing.T) {
	g := Guard(dialer(nil), &Policy{Allow: rules(t, "db:22")}, Anonymous)
	g.Lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		t.Error("the resolver was asked")
		return nil, nil
	}
	if _, err := g.Dial(ctx, "tcp", "x:22"); !errors.Is(err, netx.ErrDenied) {
		t.Error(err)
	}
}

func TestDialErrors(t *testing.T) {
	noSuch := &net.DNSError{Err: "no such host", IsNotFound: true}
	timeout := context.DeadlineExceeded
	for _, test := range []struct {
		name   string
		lookup []string
		noName bool
		errs   map[string]error // by address dialled
		want   error
	}{
		{name: "no such name", noName: true, want: noSuch},
		{name: "all denied", lookup: []string{"127.0.0.1", "::1"}, want: netx.ErrDenied},
		{name: "one denied, one refused", lookup: []string{"127.0.0.1", "203.0.113.1"},
			errs: map[string]error{"203.0.113.1:80": syscall.ECONNREFUSED}, want: syscall.ECONNREFUSED},
		{name: "silence, then refused", lookup: []string{"203.0.113.1", "203.0.113.2"},
			errs: map[string]error{"203.0.113.1:80": timeout, "203.0.113.2:80": syscall.ECONNREFUSED}, want: syscall.ECONNREFUSED},
		{name: "no route, then silence", lookup: []string{"203.0.113.1", "203.0.113.2"},
			errs: map[string]error{"203.0.113.1:80": syscall.EHOSTUNREACH, "203.0.113.2:80": timeout}, want: syscall.EHOSTUNREACH},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := Guard(dialer(func(_ context.Context, _, address string) (net.Conn, error) {
				return nil, test.errs[address]
			}), &Policy{Allow: rules(t, "*:80")}, Anonymous)
			g.Lookup = answers(test.lookup...)
			if test.noName {
				g.Lookup = func(context.Context, string, string) ([]netip.Addr, error) { return nil, noSuch }
			}
			_, err := g.Dial(ctx, "tcp", "db:80")
			var refusal *Refusal
			if !errors.Is(err, test.want) || errors.As(err, &refusal) != (test.want == netx.ErrDenied) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

// TestHappyEyeballs has addresses that swallow what they are sent.
func TestHappyEyeballs(t *testing.T) {
	for _, test := range []struct {
		name   string
		lookup []string
		took   time.Duration
		dials  []string
	}{
		{"the first is up", []string{"203.0.113.9", "203.0.113.1"}, 0, []string{"203.0.113.9:80"}},
		{"the first is silent", []string{"203.0.113.1", "203.0.113.9"}, dialStagger, []string{"203.0.113.1:80", "203.0.113.9:80"}},
		{"the first fails at once", []string{"203.0.113.3", "203.0.113.9"}, 0, []string{"203.0.113.3:80", "203.0.113.9:80"}},
		{"families take turns", []string{"2001:db8::1", "2001:db8::2", "203.0.113.9"}, dialStagger, []string{"[2001:db8::1]:80", "203.0.113.9:80"}},
		{"two at once", []string{"203.0.113.1", "203.0.113.2", "203.0.113.9"}, 5 * time.Second, []string{"203.0.113.1:80", "203.0.113.2:80", "203.0.113.9:80"}},
		{"none is up", []string{"203.0.113.1", "203.0.113.2"}, 10 * time.Second, []string{"203.0.113.1:80", "203.0.113.2:80"}},
		{"one is there twice", []string{"203.0.113.3", "::ffff:203.0.113.3"}, 0, []string{"203.0.113.3:80"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var dials []string
				inFlight := 0
				g := Guard(dialer(func(ctx context.Context, _, address string) (net.Conn, error) {
					mu.Lock()
					dials = append(dials, address)
					if inFlight++; inFlight > dialAtOnce {
						t.Errorf("%d dials at once", inFlight)
					}
					mu.Unlock()
					defer func() { mu.Lock(); inFlight--; mu.Unlock() }()
					switch address {
					case "203.0.113.9:80":
						a, b := net.Pipe()
						b.Close()
						return a, nil
					case "203.0.113.3:80":
						return nil, syscall.ECONNREFUSED
					}
					<-ctx.Done()
					return nil, ctx.Err()
				}), &Policy{Allow: rules(t, "*:80")}, Anonymous)
				g.Lookup = answers(test.lookup...)
				begun := time.Now()
				c, err := g.Dial(t.Context(), "tcp", "db:80")
				if took := time.Since(begun); took != test.took || !slices.Equal(dials, test.dials) {
					t.Errorf("dialled %v in %v, want %v in %v", dials, took, test.dials, test.took)
				}
				if (err == nil) != slices.Contains(dials, "203.0.113.9:80") {
					t.Errorf("error %v", err)
				}
				if err == nil {
					c.Close()
				}
			})
		})
	}
}

// TestLoserIsClosed has both addresses answer, the first too late.
func TestLoserIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late, peer := net.Pipe()
		won, other := net.Pipe()
		defer other.Close()
		g := Guard(dialer(func(ctx context.Context, _, address string) (net.Conn, error) {
			if address == "203.0.113.1:80" {
				<-ctx.Done() // cancelled, and connected all the same
				return late, nil
			}
			return won, nil
		}), &Policy{Allow: rules(t, "*:80")}, Anonymous)
		g.Lookup = answers("203.0.113.1", "203.0.113.2")
		c, err := g.Dial(t.Context(), "tcp", "db:80")
		if err != nil || c != won {
			t.Fatal(c, err)
		}
		if _, err := peer.Read(make([]byte, 1)); err == nil {
			t.Error("the late conn is open")
		}
		c.Close()
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(ctx)
	g := Guard(dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}), &Policy{Allow: rules(t, "*:80")}, Anonymous)
	g.Lookup = answers("203.0.113.1", "203.0.113.2")
	if _, err := g.Dial(ctx, "tcp", "db:80"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSocketsAndServicesAreJudgedAndPassedOn(t *testing.T) {
	passed := errors.New("passed on")
	for _, test := range []struct{ name, allow, network, address, want string }{
		{"socket", "unix:/run/x", "unix", "/run/../run/x", "unix /run/x"},
		{"another socket", "unix:/run/x", "unix", "/run/y", ""},
		{"service", "service:lab*", "service", "lab7", "service lab7"},
		{"another service", "service:lab*", "service", "prod", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			rs := rules(t, test.allow)
			got := ""
			g := Guard(dialer(func(_ context.Context, network, address string) (net.Conn, error) {
				got = network + " " + address
				return nil, passed
			}), &Policy{Allow: rs, AllowListen: rs}, Anonymous)
			for _, use := range []func() error{
				func() error { _, err := g.Dial(ctx, test.network, test.address); return err },
				func() error { _, err := g.Listen(ctx, test.network, test.address); return err },
			} {
				got = ""
				if err := use(); got != test.want || errors.Is(err, passed) != (test.want != "") {
					t.Errorf("%q, %v; want %q", got, err, test.want)
				}
			}
		})
	}
}
