package client

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParseForward(t *testing.T) {
	const both = "127.0.0.1:%[1]s [::1]:%[1]s"
	loop := func(port string) string { return fmt.Sprintf(both, port) }
	for _, tt := range []struct {
		spec string
		want string // listening network and addresses > target's network and address, one forward a line
	}{
		{"5900:vnc:5900", "tcp " + loop("5900") + " > tcp vnc:5900"},
		{"5900:VNC.Lab:1", "tcp " + loop("5900") + " > tcp VNC.Lab:1"},
		{"0:vnc:5900", "tcp " + loop("0") + " > tcp vnc:5900"},
		{"65535:vnc:65535", "tcp " + loop("65535") + " > tcp vnc:65535"},
		{"80:a_b-c.example.:80", "tcp " + loop("80") + " > tcp a_b-c.example.:80"},
		{"80:10.0.0.1:80", "tcp " + loop("80") + " > tcp 10.0.0.1:80"},
		{"80:[::1]:80", "tcp " + loop("80") + " > tcp [::1]:80"},
		{"80:[FD00:0::1]:80", "tcp " + loop("80") + " > tcp [fd00::1]:80"},
		{"80:[fe80::1%eth0]:80", "tcp " + loop("80") + " > tcp [fe80::1%eth0]:80"},
		{"localhost:80:vnc:5900", "tcp " + loop("80") + " > tcp vnc:5900"},
		{"127.0.0.1:80:vnc:5900", "tcp 127.0.0.1:80 > tcp vnc:5900"},
		{"127.0.0.1:0:vnc:5900", "tcp 127.0.0.1:0 > tcp vnc:5900"},
		{"[::1]:80:vnc:5900", "tcp [::1]:80 > tcp vnc:5900"},
		{"0.0.0.0:80:vnc:5900", "tcp 0.0.0.0:80 > tcp vnc:5900"},
		{"[::]:80:[::1]:81", "tcp [::]:80 > tcp [::1]:81"},
		{"desk:80:vnc:5900", "tcp desk:80 > tcp vnc:5900"},
		{":80:vnc:5900", "tcp :80 > tcp vnc:5900"},
		{"*:80:vnc:5900", "tcp :80 > tcp vnc:5900"},
		{"*:0:vnc:5900", "tcp :0 > tcp vnc:5900"},
		{"8000-8001:vnc:9000-9001", "tcp " + loop("8000") + " > tcp vnc:9000\ntcp " + loop("8001") + " > tcp vnc:9001"},
		{"*:8000-8001:[::1]:1-2", "tcp :8000 > tcp [::1]:1\ntcp :8001 > tcp [::1]:2"},
		{"8000-8000:vnc:9000", "tcp " + loop("8000") + " > tcp vnc:9000"},
		{"5353:dns:53/udp", "udp " + loop("5353") + " > udp dns:53"},
		{"*:5353-5354:dns:53-54/udp", "udp :5353 > udp dns:53\nudp :5354 > udp dns:54"},
		{"80:unix:/run/web.sock", "tcp " + loop("80") + " > unix /run/web.sock"},
		{"80:unix:/run//a/../web.sock/", "tcp " + loop("80") + " > unix /run/web.sock"},
		{"80:unix:@web", "tcp " + loop("80") + " > unix @web"},
		{"80:unix:/run/udp", "tcp " + loop("80") + " > unix /run/udp"},
		{"80:unix:/run/[a", "tcp " + loop("80") + " > unix /run/[a"},
		{"80:/run/web.sock", "tcp " + loop("80") + " > unix /run/web.sock"},
		{"*:80:/run/web.sock", "tcp :80 > unix /run/web.sock"},
		{"[::1]:80:/run/web.sock", "tcp [::1]:80 > unix /run/web.sock"},
		{"127.0.0.1:80:unix:/run/web.sock", "tcp 127.0.0.1:80 > unix /run/web.sock"},
		{"80:unix:80", "tcp " + loop("80") + " > tcp unix:80"},
		{"unix:80:vnc:80", "tcp unix:80 > tcp vnc:80"},
		{"unix:/tmp/a:vnc:5900", "unix /tmp/a > tcp vnc:5900"},
		{"unix:/tmp/a:[::1]:5900", "unix /tmp/a > tcp [::1]:5900"},
		{"unix:@a:vnc:5900", "unix @a > tcp vnc:5900"},
		{"unix:/tmp/a:unix:/tmp/b", "unix /tmp/a > unix /tmp/b"},
		{"unix:/tmp/a:/tmp/b", "unix /tmp/a > unix /tmp/b"},
		{"unix:/tmp/a:service:desk", "unix /tmp/a > service desk"},
		{"/tmp/a:vnc:5900", "unix /tmp/a > tcp vnc:5900"},
		{"/tmp/a:/tmp/b", "unix /tmp/a > unix /tmp/b"},
		{"80:service:desk-7", "tcp " + loop("80") + " > service desk-7"},
		{"*:80:service:desk", "tcp :80 > service desk"},
		{"80:service:80", "tcp " + loop("80") + " > tcp service:80"},
		{"80:service:80/udp", "udp " + loop("80") + " > udp service:80"},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			fs, err := ParseForward(tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range fs {
				got = append(got, fmt.Sprintf("%s %s > %s %s", f.Listen.Network, strings.Join(f.Listen.Addresses, " "), f.Network, f.Address))
				if f.Spec != tt.spec || f.Listen.Spec != "-L "+tt.spec {
					t.Errorf("Spec = %q, Listen.Spec = %q", f.Spec, f.Listen.Spec)
				}
				roundTrip(t, f)
			}
			if got := strings.Join(got, "\n"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// roundTrip checks that f's String means f.
func roundTrip(t *testing.T, f Forward) {
	t.Helper()
	again, err := ParseForward(f.String())
	if err != nil {
		t.Fatalf("%q becomes %q: %v", f.Spec, f.String(), err)
	}
	for i := range again {
		again[i].Spec, again[i].Listen.Spec = f.Spec, f.Listen.Spec
	}
	if !reflect.DeepEqual(again, []Forward{f}) {
		t.Fatalf("%q becomes %q, which is %+v, not %+v", f.Spec, f.String(), again, f)
	}
}

func TestParseForwardErrors(t *testing.T) {
	for _, tt := range []struct{ spec, want string }{
		{"", "nothing is written; write 5900:localhost:5900"},
		{"5900", "the target is missing; write 5900:localhost:5900"},
		{"8000-8010", "the target is missing; write 8000-8010:localhost:8000-8010"},
		{"0", "the target is missing; write 0:localhost:5900"},
		{"5900:", "the target is missing; write 5900:localhost:5900"},
		{"vnc", "the port to listen on is missing; write 5900:vnc:5900"},
		{"/run/web.sock", "the port to listen on is missing; write 5900:unix:/run/web.sock"},
		{"unix:/run/web.sock", "the port to listen on is missing; write 5900:unix:/run/web.sock"},
		{"service:desk", "the port to listen on is missing; write 5900:service:desk"},
		{"vnc:5901", "the port to listen on is missing; write 5901:vnc:5901"},
		{"[::1]:5901", "the port to listen on is missing; write 5901:[::1]:5901"},
		{"5900:vnc", `the target "vnc" has no port; write 5900:vnc:5900`},
		{"5901:[::1]", `the target "[::1]" has no port; write 5901:[::1]:5901`},
		{"5900:5901", `the target "5901" has no host; write 5900:localhost:5901`},
		{"5900:vnc:", `the target "vnc" has no port; write 5900:vnc:5900`},
		{"127.0.0.1:80:vnc", `the target "vnc" has no port; write 127.0.0.1:80:vnc:80`},
		{"8000-8010:vnc", `the target "vnc" has no port; write 8000-8010:vnc:8000-8010`},
		{"unix:/tmp/a:vnc", `the target "vnc" has no port; write unix:/tmp/a:vnc:5900`},
		{"5900::80", `the target's host "" is empty; write 5900:localhost:80`},
		{"5900:vnc:http", `the target's port "http" is no number from 0 to 65535; write 5900:vnc:5900`},
		{"5900:vnc:65536", `the target's port "65536" is no number from 0 to 65535; write 5900:vnc:5900`},
		{"5900:vnc:+80", `the target's port "+80" is no number from 0 to 65535; write 5900:vnc:5900`},
		{"5900:vnc:80/tcp", `the target's port "80/tcp" is no number from 0 to 65535; write 5900:vnc:5900`},
		{"5900:vnc:0", "the target's port is 0, as only a port to listen on may be; write 5900:vnc:5900"},
		{"5900:*:80", `the target's host "*" is no host's name; write 5900:localhost:80`},
		{"5900:a b:80", `the target's host "a b" is no host's name; write 5900:localhost:80`},
		{"5900:a..b:80", `the target's host "a..b" is no host's name; write 5900:localhost:80`},
		{"5900:http://web:80", `the target's host "//web" is no host's name; write 5900:localhost:80`},
		{"5900:1.2.3.400:80", `the target's host "1.2.3.400" is neither a name nor an IPv4 address; write 5900:localhost:80`},
		{"5900:010.0.0.1:80", `the target's host "010.0.0.1" is neither a name nor an IPv4 address; write 5900:localhost:80`},
		{"5900:0x7f000001:80", `the target's host "0x7f000001" is neither a name nor an IPv4 address; write 5900:localhost:80`},
		{"5900:[vnc]:80", `the target's host "[vnc]" is no IPv6 address; write 5900:localhost:80`},
		{"5900:[10.0.0.1]:80", `the target's host "[10.0.0.1]" is no IPv6 address; write 5900:localhost:80`},
		{"5900:[::1:80", "it has too many colons, an IPv6 address stands in [ ]; write 5900:localhost:5900"},
		{"5900:fd00::1:80", "it has too many colons, an IPv6 address stands in [ ]; write 5900:[fd00::1]:80"},
		{"5900:::1:80", "it has too many colons, an IPv6 address stands in [ ]; write 5900:[::1]:80"},
		{"::1:5900:vnc:80", "it has too many colons, an IPv6 address stands in [ ]; write [::1]:5900:vnc:80"},
		{"[::1]:5900:fd00::1:80", "it has too many colons, an IPv6 address stands in [ ]; write [::1]:5900:[fd00::1]:80"},
		{"unix:/tmp/a:fd00::1:80", `the target "fd00::1:80" has too many colons, an IPv6 address stands in [ ]; write unix:/tmp/a:[fd00::1]:80`},
		{"x:vnc:80", `the port to listen on, "x", is no number from 0 to 65535; write 5900:vnc:80`},
		{"-1:vnc:80", `the port to listen on, "-1", is no number from 0 to 65535; write 5900:vnc:80`},
		{"1.2.3:80:vnc:80", `the address to listen on, "1.2.3", is neither a name nor an IPv4 address; write 80:vnc:80`},
		{"a/b:80:vnc:80", `the address to listen on, "a/b", is no host's name; write 80:vnc:80`},
		{"*:x:vnc:80", `the port to listen on, "x", is no number from 0 to 65535; write *:5900:vnc:80`},
		{"x:vnc:y", `the target's port "y" is no number from 0 to 65535; write 5900:vnc:5900`},
		{"0-5:vnc:80-85", `the port to listen on, "0-5", begins with 0, which picks a port and stands alone; write 5900:localhost:5900`},
		{"8010-8000:vnc:80", `the port to listen on, "8010-8000", ends before it begins; write 5900:vnc:80`},
		{"8000-:vnc:80", `the port to listen on, "8000-", is no number from 0 to 65535; write 5900:vnc:80`},
		{"8000-8010:vnc:80", "11 ports cannot go to 1 port; write 8000-8010:vnc:80-90"},
		{"80:vnc:8000-8010", "1 port cannot go to 11 ports; write 80:vnc:8000"},
		{"8000-8010:vnc:9000-9005/udp", "11 ports cannot go to 6 ports; write 8000-8010:vnc:9000-9010/udp"},
		{"8000-8010:unix:/a", "11 ports cannot go to one socket; write 8000:unix:/a"},
		{"8000-8010:service:desk", "11 ports cannot go to one service; write 8000:service:desk"},
		{"unix:/a:vnc:80-81", "1 port cannot go to 2 ports; write unix:/a:vnc:80"},
		{"unix:/a:dns:53/udp", "a unix socket carries no datagrams; write 5353:dns:53/udp"},
		{"80:unix:run/a", `the path "run/a" does not begin with /; write 80:unix:/run/run/a`},
		{"80:unix:", `the path "" names no socket; write 80:unix:/run/desk.sock`},
		{"80:unix:/", `the path "/" names no socket; write 80:unix:/run/desk.sock`},
		{"80:unix:@", `the path "@" names no socket; write 80:unix:/run/desk.sock`},
		{"unix:a:vnc:80", `the path "a" does not begin with /; write unix:/run/a:vnc:80`},
		{"80:service:Desk", `"Desk" cannot name a service, a-z, 0-9 and - can; write 80:service:desk`},
		{"80:service:", `"" cannot name a service, a-z, 0-9 and - can; write 80:service:desk`},
		{"80:service:desk/udp", `"desk/udp" cannot name a service, a-z, 0-9 and - can; write 80:service:desk`},
		{"80:vnc:80\n", "it has a control character; write 5900:localhost:5900"},
		{"80:[fe80::1%a b]:80", `the target's host "[fe80::1%a b]" is no IPv6 address; write 80:localhost:80`},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			fs, err := ParseForward(tt.spec)
			if err == nil {
				t.Fatalf("got %+v", fs)
			}
			if want := "-L " + tt.spec + ": " + tt.want; err.Error() != want {
				t.Errorf("got\n%s\nwant\n%s", err, want)
			}
			checkRight(t, err, func(s string) error { _, err := ParseForward(s); return err })
		})
	}
}

// checkRight checks that what err proposes to write is right, and that it
// leads to the exit code of a usage error.
func checkRight(t *testing.T, err error, parse func(string) error) {
	t.Helper()
	_, right, _ := strings.Cut(err.Error(), "; write ")
	if e := parse(right); e != nil {
		t.Errorf("the error proposes %q, which is wrong too: %v", right, e)
	}
	var e interface{ ExitCode() int }
	if !errors.As(err, &e) || e.ExitCode() != 2 {
		t.Error("not a usage error")
	}
}

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct{ target, want string }{
		{"vnc:5900", "tcp vnc:5900"},
		{"10.0.0.1:22", "tcp 10.0.0.1:22"},
		{"[::1]:22", "tcp [::1]:22"},
		{"unix:/run/a", "unix /run/a"},
		{"/run/a", "unix /run/a"},
		{"service:desk", "service desk"},
		{"service:80", "tcp service:80"},
		{"", "the target is missing; write localhost:5900"},
		{"vnc", `the target "vnc" has no port; write vnc:5900`},
		{"22", `the target "22" has no host; write localhost:22`},
		{"::1:22", `the target "::1:22" has too many colons, an IPv6 address stands in [ ]; write [::1]:22`},
		{"vnc:5900-5901", `the target "vnc:5900-5901" has more than one port; write vnc:5900`},
		{"dns:53/udp", "/udp belongs to a forward (-L); write dns:53"},
		{"unix:/a\x1b", "the target has a control character; write localhost:5900"},
		{"a:b:c", `the target "a:b:c" has too many colons, an IPv6 address stands in [ ]; write localhost:5900`},
	} {
		t.Run(tt.target, func(t *testing.T) {
			network, address, err := ParseTarget(tt.target)
			if err != nil {
				checkRight(t, err, func(s string) error { _, _, err := ParseTarget(s); return err })
				network, address = err.Error(), ""
			}
			if got := strings.TrimSpace(network + " " + address); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func FuzzParseForward(f *testing.F) {
	for _, s := range []string{
		"5900:vnc:5900", "*:8000-8010:[::1]:9000-9010/udp", "unix:/a:service:desk", "80:/a", ":::::", "[::1]:1:[", "unix:", "service:",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		fs, err := ParseForward(spec)
		if err != nil {
			checkRight(t, errWithoutSpec(err), func(s string) error { _, err := ParseForward(s); return err })
			return
		}
		// A range of all ports would take long, and its middle shows nothing new.
		roundTrip(t, fs[0])
		roundTrip(t, fs[len(fs)-1])
	})
}

// errWithoutSpec drops the spec from err's text, which may contain anything.
func errWithoutSpec(err error) error {
	e := *err.(*specError)
	e.spec, e.reason = "", ""
	return &e
}

func ExampleParseForward() {
	fs, _ := ParseForward("8000-8001:web:80-81")
	for _, f := range fs {
		fmt.Println(f, f.Listen.Addresses)
	}
	_, err := ParseForward("5900:vnc")
	fmt.Println(err)
	// Output:
	// 8000:web:80 [127.0.0.1:8000 [::1]:8000]
	// 8001:web:81 [127.0.0.1:8001 [::1]:8001]
	// -L 5900:vnc: the target "vnc" has no port; write 5900:vnc:5900
}
