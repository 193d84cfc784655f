package client

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wstun/internal/netx"
)

// A fakeNetwork listens in memory. Addresses in broken fail with that error.
type fakeNetwork struct {
	broken map[string]error // by network and address
	picks  []string         // the ports that 0 becomes, one after another
	calls  []string
	open   map[string]bool
}

func (n *fakeNetwork) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, syscall.ECONNREFUSED
}

func (n *fakeNetwork) Listen(_ context.Context, network, address string) (net.Listener, error) {
	key := network + " " + address
	n.calls = append(n.calls, key)
	if err := n.broken[key]; err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: os.NewSyscallError("bind", err)}
	}
	if host, port, _ := net.SplitHostPort(address); port == "0" {
		address, n.picks = net.JoinHostPort(host, n.picks[0]), n.picks[1:]
	}
	if n.open == nil {
		n.open = map[string]bool{}
	}
	n.open[address] = true
	return &fakeListener{n: n, address: address}, nil
}

type fakeListener struct {
	net.Listener // nil: nothing else is to be called
	n            *fakeNetwork
	address      string
}

func (l *fakeListener) Addr() net.Addr { return fakeAddr(l.address) }

func (l *fakeListener) Close() error {
	delete(l.n.open, l.address)
	return nil
}

type fakeAddr string

func (a fakeAddr) Network() string { return "tcp" }
func (a fakeAddr) String() string  { return string(a) }

func TestListen(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		broken     map[string]error
		picks      []string
		want       string // the listeners, or the error
		calls      int
	}{
		{name: "both loopbacks", spec: "5900:vnc:1", want: "127.0.0.1:5900 [::1]:5900", calls: 2},
		{name: "one address", spec: "127.0.0.1:5900:vnc:1", want: "127.0.0.1:5900", calls: 1},
		{name: "every address", spec: "*:5900:vnc:1", want: ":5900", calls: 1},
		{name: "one port for both", spec: "0:vnc:1", picks: []string{"41"}, want: "127.0.0.1:41 [::1]:41", calls: 2},
		{
			name: "picks again", spec: "0:vnc:1", picks: []string{"41", "42"},
			broken: map[string]error{"tcp [::1]:41": syscall.EADDRINUSE},
			want:   "127.0.0.1:42 [::1]:42", calls: 4,
		},
		{
			name: "picks forever", spec: "0:vnc:1", picks: strings.Split(strings.Repeat("41 ", portTries), " "),
			broken: map[string]error{"tcp [::1]:41": syscall.EADDRINUSE},
			want:   "-L 0:vnc:1: port 41 on ::1 is in use", calls: 2 * portTries,
		},
		{
			name: "no IPv6", spec: "5900:vnc:1",
			broken: map[string]error{"tcp [::1]:5900": syscall.EADDRNOTAVAIL},
			want:   "127.0.0.1:5900", calls: 2,
		},
		{
			name: "no IPv4", spec: "0:vnc:1", picks: []string{"41"},
			broken: map[string]error{"tcp 127.0.0.1:0": syscall.EAFNOSUPPORT},
			want:   "[::1]:41", calls: 2,
		},
		{
			name: "no family", spec: "5900:vnc:1",
			broken: map[string]error{"tcp 127.0.0.1:5900": syscall.EAFNOSUPPORT, "tcp [::1]:5900": syscall.EAFNOSUPPORT},
			want:   "-L 5900:vnc:1: listen tcp: bind: address family not supported by protocol", calls: 2,
		},
		{
			name: "busy", spec: "5900:vnc:5900",
			broken: map[string]error{"tcp 127.0.0.1:5900": syscall.EADDRINUSE},
			want:   "-L 5900:vnc:5900: port 5900 on 127.0.0.1 is in use", calls: 1,
		},
		{
			name: "busy on the second", spec: "5900:vnc:5900",
			broken: map[string]error{"tcp [::1]:5900": syscall.EADDRINUSE},
			want:   "-L 5900:vnc:5900: port 5900 on ::1 is in use", calls: 2,
		},
		{
			name: "busy everywhere", spec: "*:5900:vnc:5900",
			broken: map[string]error{"tcp :5900": syscall.EADDRINUSE},
			want:   "-L *:5900:vnc:5900: port 5900 on every address is in use", calls: 1,
		},
		{
			name: "not root", spec: "*:80:web:80",
			broken: map[string]error{"tcp :80": syscall.EACCES},
			want:   "-L *:80:web:80: port 80 on every address needs more rights than this user has", calls: 1,
		},
		{
			name: "address of another machine", spec: "10.1.1.1:80:web:80",
			broken: map[string]error{"tcp 10.1.1.1:80": syscall.EADDRNOTAVAIL},
			want:   "-L 10.1.1.1:80:web:80: 10.1.1.1 is no address of this machine", calls: 1,
		},
		{
			name: "any other failure", spec: "80:web:80",
			broken: map[string]error{"tcp 127.0.0.1:80": syscall.EMFILE},
			want:   "-L 80:web:80: listen on 127.0.0.1:80: listen tcp: bind: too many open files", calls: 1,
		},
		{
			name: "0.0.0.0 is IPv4", spec: "0.0.0.0:80:web:80", want: "0.0.0.0:80", calls: 1,
			broken: map[string]error{"tcp 0.0.0.0:80": syscall.EINVAL},
		},
		{
			name: "[::] is IPv6", spec: "[::]:80:web:80", want: "[::]:80", calls: 1,
			broken: map[string]error{"tcp [::]:80": syscall.EINVAL},
		},
		{
			name: "udp", spec: "53:dns:53/udp", want: "127.0.0.1:53 [::1]:53", calls: 2,
			broken: map[string]error{"tcp 127.0.0.1:53": syscall.EINVAL},
		},
		{name: "abstract unix", spec: "unix:@desk:vnc:1", want: "@desk", calls: 1},
		{
			name: "abstract unix in use", spec: "unix:@desk:vnc:1", calls: 1,
			broken: map[string]error{"unix @desk": syscall.EADDRINUSE},
			want:   "-L unix:@desk:vnc:1: @desk is in use",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs, err := ParseForward(tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			n := &fakeNetwork{broken: tt.broken, picks: tt.picks}
			lns, err := fs[0].Listen.Listen(t.Context(), n)
			got := addresses(lns)
			if err != nil {
				got = err.Error()
				if len(n.open) > 0 || lns != nil {
					t.Errorf("failed and left %v open, returned %v", n.open, lns)
				}
			}
			if got != tt.want || len(n.calls) != tt.calls {
				t.Errorf("got %q after %q\nwant %q", got, n.calls, tt.want)
			}
		})
	}
}

func addresses(lns []net.Listener) string {
	var s []string
	for _, ln := range lns {
		s = append(s, ln.Addr().String())
	}
	return strings.Join(s, " ")
}

func TestListenOnHost(t *testing.T) {
	b := Bind{Network: "tcp", Addresses: []string{"127.0.0.1:0", "[::1]:0"}}
	lns, err := b.Listen(t.Context(), &netx.Host{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(lns)

	_, port, _ := net.SplitHostPort(lns[0].Addr().String())
	for _, ln := range lns {
		if _, p, _ := net.SplitHostPort(ln.Addr().String()); p != port {
			t.Errorf("listeners have different ports: %s", addresses(lns))
		}
	}
	b = Bind{Network: "tcp", Addresses: []string{"127.0.0.1:" + port, "[::1]:" + port}, Spec: "-L x"}
	again, err := b.Listen(t.Context(), &netx.Host{})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), "-L x: port "+port+" on 127.0.0.1 is in use") {
		t.Errorf("second listen: %v", err)
	}
	closeAll(again)
}

func closeAll(lns []net.Listener) {
	for _, ln := range lns {
		ln.Close()
	}
}

func TestListenUnix(t *testing.T) {
	host := &netx.Host{}
	path := filepath.Join(t.TempDir(), "s")
	b := Bind{Network: "unix", Addresses: []string{path}, Spec: "-L x"}

	lns, err := b.Listen(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := b.Listen(t.Context(), host); err == nil || err.Error() != "-L x: "+path+" is in use" {
		t.Errorf("second listen: %v", err)
	}
	// What a process leaves that was killed.
	lns[0].(*net.UnixListener).SetUnlinkOnClose(false)
	lns[0].Close()

	lns, err = b.Listen(t.Context(), host)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	lns[0].Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Listen(t.Context(), host); err == nil || err.Error() != "-L x: "+path+" exists and is no socket" {
		t.Errorf("over a file: %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("the file is now %q", got)
	}
}
