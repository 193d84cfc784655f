package access

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleParseRule() {
	r, err := ParseRule("*.lab=10.0.0.0/8:8000-8010,22/tcp")
	fmt.Println(r, err)
	_, err = ParseRule("vnc")
	fmt.Println(err)
	// Output:
	// *.lab=10.0.0.0/8:22,8000-8010/tcp <nil>
	// rule "vnc": no ports: write vnc:5900, or vnc:* for any port
}

func TestParseRule(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"name", "vnc:5900", "vnc:5900"},
		{"name in another spelling", "VNC.Example.:5900", "vnc.example:5900"},
		{"letters beyond ASCII", "*.MÜNCHEN.example:22", "*.xn--mnchen-3ya.example:22"},
		{"underscore", "my_db:5432", "my_db:5432"},
		{"any port", "vnc:*", "vnc:*"},
		{"tcp", "vnc:5900/tcp", "vnc:5900/tcp"},
		{"udp", "dns:53/udp", "dns:53/udp"},
		{"ports in any order", "vnc:8000-8010,22,8005-8020,22", "vnc:22,8000-8020"},
		{"all ports named", "vnc:1-65535", "vnc:1-65535"},
		{"glob", "*.lab:22", "*.lab:22"},
		{"any name", "*:22", "*:22"},
		{"more stars than needed", "***.lab:22", "*.lab:22"},
		{"IPv4", "10.0.0.5:22", "10.0.0.5:22"},
		{"range of one", "10.0.0.5/32:22", "10.0.0.5:22"},
		{"CIDR", "10.0.0.0/8:22/tcp", "10.0.0.0/8:22/tcp"},
		{"IPv6", "[FD00::1]:22", "[fd00::1]:22"},
		{"IPv6 CIDR", "[fd00::/8]:22", "[fd00::/8]:22"},
		{"IPv4-mapped", "[::ffff:10.0.0.5]:22", "10.0.0.5:22"},
		{"IPv4-mapped CIDR", "[::ffff:10.0.0.0/104]:22", "10.0.0.0/8:22"},
		{"pinned", "db=10.0.0.5/32:5432", "db=10.0.0.5/32:5432"},
		{"pinned to IPv6", "*.lab=[fd00::/8]:22", "*.lab=[fd00::/8]:22"},
		{"service", "service:lab7", "service:lab7"},
		{"services", "service:lab*", "service:lab*"},
		{"every service", "service:*", "service:*"},
		{"a host called service", "service:80", "service:80"},
		{"a host called unix", "unix:80", "unix:80"},
		{"socket", "unix:/run//x/../app.sock", "unix:/run/app.sock"},
		{"abstract socket", "unix:@app", "unix:@app"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := ParseRule(test.in)
			if err != nil || r.String() != test.want {
				t.Errorf("%v, %v; want %s", r, err, test.want)
			}
		})
	}
	if r, _ := ParseRule("service:80"); r.kind != hostKind {
		t.Error("service:80 is not port 80 of a host")
	}
}

func TestParseRuleSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"nothing", "", "HOST:PORT"},
		{"no ports", "10.0.0.0/8", "write 10.0.0.0/8:5900"},
		{"empty ports", "vnc:", "write vnc:5900"},
		{"IPv6 without ports", "[fd00::1]", "write [fd00::1]:5900"},
		{"no host", ":22", "no host"},
		{"IPv6 without brackets", "fd00::1:22", "needs brackets"},
		{"length after the brackets", "[fd00::]/8:22", "[fd00::/8]"},
		{"brackets around a name", "[vnc]:22", "brackets are for"},
		{"port 0", "vnc:0", "ports are 1 to 65535"},
		{"port too high", "vnc:65536", `"65536" is no port`},
		{"port with a sign", "vnc:+22", `"+22" is no port`},
		{"backward range", "vnc:30-20", "write 20-30"},
		{"unknown network", "vnc:22/sctp", `"22/sctp" is no port`},
		{"stray bits", "10.1.2.3/8:22", "write 10.0.0.0/8"},
		{"length too long", "10.0.0.0/33:22", "no range of addresses"},
		{"glob of an address", "10.0.*:22", "ranges of addresses are written 10.0.0.0/8"},
		{"short address", "127.1:22", "no name"},
		{"number as address", "2130706433:22", "no name"},
		{"hex address", "0x7f.0x1:22", "no name"},
		{"zone", "[fe80::1%eth0]:22", "zone"},
		{"pinned to an address", "db=10.0.0.5:22", "write db=10.0.0.5/32:22"},
		{"pinned to a name", "db=x:22", "no range of addresses"},
		{"regexp", "^db$:22", `has a '^'`},
		{"space", " vnc:22", `has a ' '`},
		{"empty label", "a..b:22", "empty"},
		{"service of capital dots", "service:a.b", "write service:lab7"},
		{"relative path", "unix:run/x", "absolute"},
		{"path with a glob of nothing", "unix:*", "absolute"},
		{"path with a line break", "unix:/a\nb", "has no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseRule(test.in)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestParseListenRule(t *testing.T) {
	for in, ok := range map[string]bool{
		"localhost:8080": true, "*:8080": true, "127.0.0.1:8080": true, "10.0.0.0/8:8080": true,
		"service:lab7": true, "unix:/run/x": true, "[::]:80": true,
		"vnc:5900": false, "*.lab:22": false, "*=10.0.0.0/8:22": false, "localhost=127.0.0.0/8:22": false,
	} {
		if _, err := ParseListenRule(in); (err == nil) != ok {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for _, test := range []struct{ name, network, in, want string }{
		{"name", "tcp", "VNC.:5900", "vnc:5900"},
		{"udp", "udp", "dns:53", "dns:53/udp"},
		{"letters beyond ASCII", "tcp", "bücher.Example:80", "xn--bcher-kva.example:80"},
		{"other digits and dots", "tcp", "１２７。0．0.1:80", "127.0.0.1:80"},
		{"IPv6", "tcp", "[FD00:0::1]:22", "[fd00::1]:22"},
		{"IPv4-mapped", "tcp", "[::ffff:127.0.0.1]:22", "127.0.0.1:22"},
		{"socket", "unix", "/run/./a//b", "unix:/run/a/b"},
		{"socket above the root", "unix", "/../run/x", "unix:/run/x"},
		{"abstract socket", "unix", "@x", "unix:@x"},
		{"service", "service", "lab7", "service:lab7"},
		{"no host", "tcp", ":22", ""},
		{"every host", "tcp", "*:22", ""},
		{"port 0", "tcp", "vnc:0", ""},
		{"named port", "tcp", "vnc:ssh", ""},
		{"no port", "tcp", "vnc", ""},
		{"IPv6 without brackets", "tcp", "::1:22", ""},
		{"name in brackets", "tcp", "[vnc]:22", ""},
		{"IPv4 in brackets", "tcp", "[127.0.0.1]:22", ""},
		{"zone", "tcp", "[fe80::1%eth0]:22", ""},
		{"short address", "tcp", "127.1:22", ""},
		{"octal address", "tcp", "0177.0.0.1:22", ""},
		{"hex address", "tcp", "0x7f000001:22", ""},
		{"NUL", "tcp", "vnc\x00.example:22", ""},
		{"service of capital dots", "service", "a.b", ""},
		{"relative path", "unix", "run/x", ""},
		{"root", "unix", "/a/..", ""},
		{"unnamed socket", "unix", "@", ""},
		{"unknown network", "sctp", "vnc:22", ""},
		{"part of a network", "tcp4", "vnc:22", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseTarget(test.network, test.in)
			if test.want == "" {
				if err == nil {
					t.Errorf("%v passed", got)
				}
				return
			}
			if err != nil || got.String() != test.want {
				t.Errorf("%v, %v; want %s", got, err, test.want)
			}
		})
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"vnc:5900", "*:*", "*.lab=10.0.0.0/8:22/tcp", "[fd00::/8]:1-2", "service:lab*", "unix:/run/x", "service:80"} {
		for _, host := range []string{"127.0.0.1", "::ffff:7f00:1", "64:ff9b::7f00:1", "LOCALHOST.", "0x7f.1", "１２７.0.0.1"} {
			f.Add(s, host)
		}
	}
	f.Fuzz(func(t *testing.T, s, host string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || !again.Equal(r) || again.String() != r.String() {
			t.Fatalf("%q is %q, which is %q, %v", s, r, again, err)
		}
		if !strings.Contains(r.glob, "*") || r.prefix.IsValid() || r.kind != hostKind {
			return
		}
		target, err := ParseTarget("tcp", net.JoinHostPort(host, "80"))
		if err != nil || !target.IP.IsValid() || spanOf(target.IP).class == public {
			return
		}
		p := &Policy{Allow: []Rule{r}}
		if p.Authorize(Anonymous, Dial, target) == nil {
			t.Fatalf("%q allows %v", r, target)
		}
	})
}

func FuzzParseTarget(f *testing.F) {
	for _, network := range []string{"tcp", "udp", "unix", "service"} {
		for _, s := range []string{"vnc:5900", "[::1]:22", "/run/x", "@x", "lab7", "１２７.0.0.1:80"} {
			f.Add(network, s)
		}
	}
	f.Fuzz(func(t *testing.T, network, s string) {
		target, err := ParseTarget(network, s)
		if err != nil {
			return
		}
		again, err := ParseTarget(network, target.Address())
		if err != nil || again != target {
			t.Fatalf("%q is %+v, and then %+v, %v", s, target, again, err)
		}
		r := RuleFor(target)
		back, err := ParseRule(r.String())
		back.target = true
		if err != nil || !back.Equal(r) {
			t.Fatalf("the rule for %v is %v, which reads %v, %v", target, r, back, err)
		}
		if err := (&Policy{Allow: []Rule{r}}).Authorize(Anonymous, Dial, target); err != nil {
			t.Fatalf("the rule for %v does not allow it: %v", target, err)
		}
	})
}
