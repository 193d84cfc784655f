package access

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"wstun/internal/netx"
)

// rules parses what is separated by blanks.
func rules(t testing.TB, s string) []Rule {
	t.Helper()
	var rs []Rule
	for word := range strings.FieldsSeq(s) {
		r, err := ParseRule(word)
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func target(t testing.TB, op Op, s string) Target {
	t.Helper()
	parse, network := ParseTarget, "tcp"
	if op == Listen {
		parse = ParseBind
	}
	for _, n := range []string{"unix", "service"} {
		if rest, ok := strings.CutPrefix(s, n+":"); ok {
			network, s = n, rest
		}
	}
	if rest, ok := strings.CutSuffix(s, "/udp"); ok {
		network, s = "udp", rest
	}
	target, err := parse(network, s)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// The columns of TestMatrix.
var matrixAddresses = strings.Fields(`
	203.0.113.5 2606:4700::1
	10.0.0.5 fd00::5 100.64.0.5 ::ffff:10.0.0.5
	127.0.0.1 ::1
	169.254.169.254 fe80::1 fd00:ec2::254 100.100.100.200
	0.0.0.0 ::
	224.0.0.1 ff02::1 240.0.0.1 255.255.255.255 198.18.0.1 192.0.0.192
	64:ff9b::a00:5 64:ff9b:1::a00:5 2002:a00:5::1 2001:0:1::1 ::a00:5 ::ffff:0:10.0.0.5
	5f00::1`)

// TestMatrix asks for every class of address, once by a name that has it and
// once as such, under every form of rule.
func TestMatrix(t *testing.T) {
	const none = "-- ---- -- ---- -- ------ ------ -"
	for _, test := range []struct{ name, rule, ask, byName, byAddress string }{
		{"exact name", "db.lab:22", "db.lab", "++ ++++ -- ---- -- ------ ------ -", none},
		{"exact name without a dot", "db:22", "db", "++ ++++ ++ ---- -- ------ ------ -", none},
		{"exact name in .localhost", "db.localhost:22", "db.localhost", "++ ++++ ++ ---- -- ------ ------ -", none},
		{"another name", "db.lab:22", "db2.lab", none, none},
		{"a name's tail", "b.lab:22", "db.lab", none, none},
		{"a name's head", "db.lab:22", "db.lab.example", none, none},
		{"glob", "*.lab:22", "db.lab", "++ ---- -- ---- -- ------ ------ -", none},
		{"glob, two labels", "*.lab:22", "a.db.lab", "++ ---- -- ---- -- ------ ------ -", none},
		{"glob, no label", "*.lab:22", "lab", none, none},
		{"glob around", "d*b.l*b:22", "db.lab", "++ ---- -- ---- -- ------ ------ -", none},
		{"any name", "*:22", "db", "++ ---- -- ---- -- ------ ------ -", "++ ---- -- ---- -- ------ ------ -"},
		{"all of IPv4", "0.0.0.0/0:22", "db", "+- ---- -- ---- -- ------ ------ -", "+- ---- -- ---- -- ------ ------ -"},
		{"half of IPv4", "128.0.0.0/1:22", "db", "+- ---- -- ---- -- ------ ------ -", "+- ---- -- ---- -- ------ ------ -"},
		{"all of IPv6", "[::/0]:22", "db", "-+ ---- -- ---- -- ------ ------ -", "-+ ---- -- ---- -- ------ ------ -"},
		{"global IPv6", "[2000::/3]:22", "db", "-+ ---- -- ---- -- ------ ------ -", "-+ ---- -- ---- -- ------ ------ -"},
		{"upper IPv6", "[8000::/1]:22", "db", none, none},
		{"RFC 1918", "10.0.0.0/8:22", "db", "-- +--+ -- ---- -- ------ ------ -", "-- +--+ -- ---- -- ------ ------ -"},
		{"more than RFC 1918", "8.0.0.0/6:22", "db", none, none},
		{"ULA without metadata", "[fc00::/7]:22", "db", "-- -+-- -- ---- -- ------ ------ -", "-- -+-- -- ---- -- ------ ------ -"},
		{"shared without metadata", "100.64.0.0/10:22", "db", "-- --+- -- ---- -- ------ ------ -", "-- --+- -- ---- -- ------ ------ -"},
		{"loopback range", "127.0.0.0/8:22", "db", "-- ---- +- ---- -- ------ ------ -", "-- ---- +- ---- -- ------ ------ -"},
		{"link-local range", "169.254.0.0/16:22", "db", "-- ---- -- +--- -- ------ ------ -", "-- ---- -- +--- -- ------ ------ -"},
		{"NAT64 range", "[64:ff9b::/96]:22", "db", "-- ---- -- ---- -- ------ +----- -", "-- ---- -- ---- -- ------ +----- -"},
		{"reserved range", "[5f00::/16]:22", "db", "-- ---- -- ---- -- ------ ------ +", "-- ---- -- ---- -- ------ ------ +"},
		{"public address", "203.0.113.5:22", "db", "+- ---- -- ---- -- ------ ------ -", "+- ---- -- ---- -- ------ ------ -"},
		{"loopback address", "127.0.0.1:22", "db", "-- ---- +- ---- -- ------ ------ -", "-- ---- +- ---- -- ------ ------ -"},
		{"loopback address, IPv6", "[::1]:22", "db", "-- ---- -+ ---- -- ------ ------ -", "-- ---- -+ ---- -- ------ ------ -"},
		{"metadata address", "[fd00:ec2::254]:22", "db", "-- ---- -- --+- -- ------ ------ -", "-- ---- -- --+- -- ------ ------ -"},
		{"unspecified address", "0.0.0.0:22", "db", "-- ---- -- ---- +- ------ ------ -", "-- ---- -- ---- +- ------ ------ -"},
		{"pinned name", "db.lab=10.0.0.0/8:22", "db.lab", "-- +--+ -- ---- -- ------ ------ -", none},
		{"pinned to loopback", "db.lab=127.0.0.1/32:22", "db.lab", "-- ---- +- ---- -- ------ ------ -", none},
		{"pinned to metadata", "db.lab=169.254.169.254/32:22", "db.lab", "-- ---- -- +--- -- ------ ------ -", none},
		{"pinned to everything", "db.lab=0.0.0.0/0:22", "db.lab", "+- ---- -- ---- -- ------ ------ -", none},
		{"pinned glob", "*.lab=10.0.0.0/8:22", "db.lab", "-- +--+ -- ---- -- ------ ------ -", none},
		{"pinned to hidden IPv4", "db.lab=[2002::/16]:22", "db.lab", "-- ---- -- ---- -- ------ --+--- -", none},
		{"any name, pinned", "*=10.0.0.0/8:22", "db", "-- +--+ -- ---- -- ------ ------ -", "-- +--+ -- ---- -- ------ ------ -"},
		{"other port", "*:23", "db", none, none},
		{"udp", "*:22/udp", "db", none, none},
		{"service", "service:*", "db", none, none},
		{"socket", "unix:/22", "db", none, none},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &Policy{Allow: rules(t, test.rule)}
			for i, s := range matrixAddresses {
				ip := netip.MustParseAddr(s)
				for spelling, want := range map[Target]string{
					target(t, Dial, test.ask+":22").At(ip):                          test.byName,
					target(t, Dial, netip.AddrPortFrom(ip.Unmap(), 22).String()):    test.byAddress,
					{Network: "tcp", Host: test.ask, Port: 22, IP: ip}:              test.byName,
					{Network: "tcp", Host: test.ask, Port: 22, IP: ip.WithZone("")}: test.byName,
				} {
					err := p.Authorize(Anonymous, Dial, spelling)
					if allowed := strings.ReplaceAll(want, " ", "")[i] == '+'; (err == nil) != allowed {
						t.Errorf("%s for %v at %s: %v", test.rule, spelling, s, err)
					}
				}
			}
		})
	}
}

func TestTargetsNameReachesLoopback(t *testing.T) {
	asked := target(t, Dial, "db.lab:22")
	p := &Policy{Allow: []Rule{RuleFor(asked)}}
	for s, want := range map[string]bool{"127.0.0.1": true, "::1": true, "10.0.0.5": true, "203.0.113.5": true, "169.254.169.254": false, "64:ff9b::7f00:1": false} {
		if err := p.Authorize(Anonymous, Dial, asked.At(netip.MustParseAddr(s))); (err == nil) != want {
			t.Errorf("%s: %v", s, err)
		}
	}
	if p.Authorize(Anonymous, Dial, target(t, Dial, "db.lab:22/udp")) == nil {
		t.Error("a tcp target allows udp")
	}
}

func TestAuthorize(t *testing.T) {
	for _, test := range []struct {
		name                string
		allow, listen, deny string
		op                  Op
		target, at          string // at is the answer, if there is one yet
		want                string // the error; "" for none
	}{
		{name: "nothing is open", target: "db:5432", want: "not allowed: no rule permits db:5432; --allow db:5432 would"},
		{name: "udp", target: "db:53/udp", want: "not allowed: no rule permits db:53/udp; --allow db:53/udp would"},
		{name: "address", target: "127.0.0.1:5432", allow: "*:*", want: "not allowed: no rule permits 127.0.0.1:5432; --allow 127.0.0.1:5432 would"},
		{name: "IPv6", target: "[::1]:22", want: "not allowed: no rule permits [::1]:22; --allow '[::1]:22' would"},
		{name: "private answer to a glob", allow: "*.lab:5432", target: "db.lab:5432", at: "10.0.0.5",
			want: "not allowed: no rule permits db.lab:5432 at 10.0.0.5; --allow 'db.lab=10.0.0.5/32:5432' would"},
		{name: "metadata behind a name", allow: "db:5432", target: "db:5432", at: "169.254.169.254",
			want: "not allowed: no rule permits db:5432 at 169.254.169.254; --allow 'db=169.254.169.254/32:5432' would"},
		{name: "loopback behind a name", allow: "db.x:5432", target: "db.x:5432", at: "::1",
			want: "not allowed: no rule permits db.x:5432 at ::1; --allow 'db.x=[::1/128]:5432' would"},
		{name: "public answer", allow: "10.0.0.0/8:5432", target: "db:5432", at: "203.0.113.5",
			want: "not allowed: no rule permits db:5432 at 203.0.113.5; --allow db:5432 would"},
		{name: "service", target: "service:lab7", want: "not allowed: no rule permits service:lab7; --allow service:lab7 would"},
		{name: "socket", target: "unix:/run/a b", want: "not allowed: no rule permits unix:/run/a b; --allow 'unix:/run/a b' would"},
		{name: "a name that a range may hold", allow: "10.0.0.0/8:22", target: "db:22"},
		{name: "a port that no range has", allow: "10.0.0.0/8:22", target: "db:23", want: "not allowed: no rule permits db:23; --allow db:23 would"},
		{name: "denied name", allow: "*:*", deny: "*.lab:22", target: "db.lab:22", want: "not allowed: the rule --deny '*.lab:22' forbids db.lab:22"},
		{name: "denied range, not known yet", allow: "db:*", deny: "10.0.0.0/8:*", target: "db:22"},
		{name: "denied range", allow: "db:*", deny: "10.0.0.0/8:*", target: "db:22", at: "10.0.0.5", want: "not allowed: the rule --deny '10.0.0.0/8:*' forbids db:22 at 10.0.0.5"},
		{name: "denied range hidden in IPv6", allow: "[64:ff9b::/96]:*", deny: "10.0.0.0/8:*", target: "[64:ff9b::a00:5]:22", want: "not allowed: the rule --deny '10.0.0.0/8:*' forbids [64:ff9b::a00:5]:22"},
		{name: "denied range hidden in 6to4", allow: "[2002::/16]:*", deny: "10.0.0.0/8:*", target: "[2002:a00:5::1]:22", want: "not allowed: the rule --deny '10.0.0.0/8:*' forbids [2002:a00:5::1]:22"},
		{name: "denied range hidden in Teredo", allow: "[2001::/32]:*", deny: "10.0.0.0/8:*", target: "[2001:0:1::f5ff:fffa]:22", want: "not allowed: the rule --deny '10.0.0.0/8:*' forbids [2001:0:1::f5ff:fffa]:22"},
		{name: "denied everywhere", allow: "127.0.0.1:25", deny: "*:25", target: "127.0.0.1:25", want: "not allowed: the rule --deny '*:25' forbids 127.0.0.1:25"},
		{name: "denied with more stars", allow: "127.0.0.1:25", deny: "**:25", target: "127.0.0.1:25", want: "not allowed: the rule --deny '*:25' forbids 127.0.0.1:25"},
		{name: "denied service", allow: "service:*", deny: "service:lab*", target: "service:lab7", want: "not allowed: the rule --deny 'service:lab*' forbids service:lab7"},
		{name: "dialling is not listening", listen: "*:*", target: "db:5432", want: "not allowed: no rule permits db:5432; --allow db:5432 would"},

		{name: "nothing may be bound", allow: "*:*", op: Listen, target: "127.0.0.1:8080", want: "not allowed: no rule permits to listen on 127.0.0.1:8080; --allow-listen 127.0.0.1:8080 would"},
		{name: "every address", listen: "localhost:* 0.0.0.0/0:*", op: Listen, target: ":8080", want: "not allowed: no rule permits to listen on *:8080; --allow-listen '*:8080' would"},
		{name: "any port of localhost", op: Listen, target: "localhost:0", want: "not allowed: no rule permits to listen on localhost:0; --allow-listen 'localhost:*' would"},
		{name: "localhost", listen: "localhost:8080", op: Listen, target: "localhost:8080"},
		{name: "localhost is both loopbacks", listen: "localhost:8080", op: Listen, target: "[::1]:8080"},
		{name: "localhost is not all of 127/8", listen: "localhost:8080", op: Listen, target: "127.0.0.2:8080", want: "not allowed: no rule permits to listen on 127.0.0.2:8080; --allow-listen 127.0.0.2:8080 would"},
		{name: "either loopback makes localhost", listen: "[::1]:8080", op: Listen, target: "localhost:8080"},
		{name: "star is any address", listen: "*:8000-9000", op: Listen, target: "10.0.0.5:8080"},
		{name: "low port not named", listen: "*:*", op: Listen, target: "*:80", want: "not allowed: no rule permits to listen on *:80; --allow-listen '*:80' would"},
		{name: "low port named", listen: "*:80", op: Listen, target: "*:80"},
		{name: "range that is bound", listen: "10.0.0.0/8:*", op: Listen, target: "10.0.0.5:8080"},
		{name: "denied bind", listen: "*:*", deny: "*:8080", op: Listen, target: "localhost:8080", want: "not allowed: the rule --deny '*:8080' forbids to listen on localhost:8080"},
		{name: "denied port is another", listen: "*:*", deny: "*:8080", op: Listen, target: "*:0"},
		{name: "unspecified denied", listen: "*:*", deny: "0.0.0.0/0:*", op: Listen, target: "*:8080", want: "not allowed: the rule --deny '0.0.0.0/0:*' forbids to listen on *:8080"},
		{name: "service offered", listen: "service:lab*", op: Listen, target: "service:lab7"},
		{name: "socket bound", op: Listen, target: "unix:/run/x", want: "not allowed: no rule permits to listen on unix:/run/x; --allow-listen unix:/run/x would"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &Policy{Allow: rules(t, test.allow), AllowListen: rules(t, test.listen), Deny: rules(t, test.deny)}
			asked := target(t, test.op, test.target)
			if test.at != "" {
				asked = asked.At(netip.MustParseAddr(test.at))
			}
			err := p.Authorize(Anonymous, test.op, asked)
			if test.want == "" && err == nil {
				return
			}
			if err == nil || err.Error() != test.want {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
			if !errors.Is(err, netx.ErrDenied) {
				t.Error("it is not ErrDenied")
			}
			tryFlag(t, p, err.(*Refusal))
		})
	}
}

// tryFlag adds the rule that the refusal names, and asks again.
func tryFlag(t *testing.T, p *Policy, refusal *Refusal) {
	t.Helper()
	if refusal.Deny != nil {
		if refusal.Flag() != "" {
			t.Errorf("%s would not help", refusal.Flag())
		}
		return
	}
	_, rule, _ := strings.Cut(refusal.Flag(), " ")
	r, err := ParseRule(strings.Trim(rule, "'"))
	if err != nil {
		t.Fatal(err)
	}
	with := &Policy{Allow: append(p.Allow, r), AllowListen: append(p.AllowListen, r)}
	if err := with.Authorize(refusal.Principal, refusal.Op, refusal.Target); err != nil {
		t.Errorf("%s does not help: %v", refusal.Flag(), err)
	}
}

func TestZeroRuleMatchesNothing(t *testing.T) {
	p := &Policy{Allow: []Rule{{}}, AllowListen: []Rule{{}}}
	with := &Policy{Allow: rules(t, "db:22 127.0.0.1:22"), AllowListen: rules(t, "*:1-65535"), Deny: []Rule{{}}}
	for _, asked := range []Target{
		target(t, Dial, "db:22"), target(t, Dial, "127.0.0.1:22"), target(t, Dial, "db:22").At(netip.MustParseAddr("127.0.0.1")),
	} {
		if p.Authorize(Anonymous, Dial, asked) == nil {
			t.Errorf("it allows %v", asked)
		}
		if err := with.Authorize(Anonymous, Dial, asked); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"localhost:8080", "*:8080", "127.0.0.1:8080", "localhost:0"} {
		if p.Authorize(Anonymous, Listen, target(t, Listen, s)) == nil {
			t.Errorf("it allows to listen on %s", s)
		}
		if err := with.Authorize(Anonymous, Listen, target(t, Listen, s)); err != nil {
			t.Error(err)
		}
	}
}

func TestZoneIsRefused(t *testing.T) {
	p := &Policy{Allow: rules(t, "[fe80::/10]:22")}
	asked := target(t, Dial, "db:22").At(netip.MustParseAddr("fe80::1%eth0"))
	if err := p.Authorize(Anonymous, Dial, asked); err == nil {
		t.Error("an address with a zone is allowed")
	}
}
