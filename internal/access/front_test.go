package access

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// request is a WebSocket's, or a plain GET; origin "" is none.
func request(host, origin string, upgrade bool) *http.Request {
	r := &http.Request{Method: "GET", Host: host, URL: &url.URL{Path: "/"}, Header: http.Header{}}
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	if upgrade {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
	}
	return r
}

func TestCheckHost(t *testing.T) {
	loopback := &Front{Loopback: true, Public: true, Hostname: "box.example"}
	open := &Front{Public: true, Hostname: "Box.Example"}
	closed := &Front{Hostname: "box.example"}
	named := &Front{Hosts: []string{"Desk.example."}, Public: true}
	anyHost := &Front{Hosts: []string{"any"}, Public: true, Loopback: true}
	cert := &Front{CertNames: []string{"*.cert.example", "one.example"}, Origins: []string{"https://page.example:8443", "null"}, Public: true}
	for _, test := range []struct {
		name    string
		front   *Front
		hosts   string // each with and without a port
		page    bool   // a page's WebSocket, and a plain GET, pass
		machine bool   // a WebSocket without Origin passes
	}{
		{"loopback, its names", loopback, "localhost LocalHost. app.localhost 127.0.0.1 127.1.2.3 [::1] [::ffff:127.0.0.1]", true, true},
		{"loopback, others", loopback, "evil.example box box.example 10.0.0.5 0.0.0.0 [fd00::1] evil.localhost.example", false, false},
		{"open, addresses", open, "203.0.113.5 10.0.0.5 [2001:db8::1]", true, true},
		{"open, names nobody can rebind", open, "localhost box box.example desk.lan desk.local a.b.internal x.home.arpa app.localhost", true, true},
		{"open, other names", open, "evil.example evil.lan.example lan.example 127.0.0.1.example", false, true},
		{"nothing public", closed, "evil.example desk.example", true, true},
		{"named", named, "desk.example DESK.example. 203.0.113.5 [::1]", true, true},
		{"named, others", named, "evil.example box localhost a.desk.example", false, false},
		{"any", anyHost, "evil.example", true, true},
		{"certificate and origin", cert, "a.cert.example one.example page.example", true, true},
		{"certificate, others", cert, "a.b.cert.example cert.example two.example", false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for host := range strings.FieldsSeq(test.hosts) {
				for _, h := range []string{host, host + ":8080", host + ":"} {
					checkHost(t, test.front, request(h, "http://"+h, true), test.page)
					checkHost(t, test.front, request(h, "", false), test.page)
					checkHost(t, test.front, request(h, "", true), test.machine)
				}
			}
		})
	}
}

func checkHost(t *testing.T, f *Front, r *http.Request, ok bool) {
	t.Helper()
	err := f.CheckHost(r)
	if (err == nil) != ok {
		t.Errorf("host %q, %v: %v", r.Host, r.Header, err)
	}
	var fe *FrontError
	if err == nil {
		return
	}
	if !errors.As(err, &fe) || fe.Status != 421 || !strings.Contains(fe.Text, "--host ") || !strings.Contains(err.Error(), fe.Flag) {
		t.Errorf("host %q: %#v", r.Host, err)
		return
	}
	with := *f
	with.Hosts = append(with.Hosts, strings.TrimPrefix(fe.Flag, "--host "))
	if err := errors.Join(with.Validate(), with.CheckHost(r)); err != nil {
		t.Errorf("%s does not help: %v", fe.Flag, err)
	}
}

func TestCheckHostOfGarbage(t *testing.T) {
	f := &Front{Loopback: true}
	for _, host := range []string{"", ":", ":80", "[", "[]", "[::1", "::1", "[localhost]", "a b", "a/b", "localhost:x", "localhost:99999", "localhost:80:80", "127.1", "\x00", "localhost@evil.example", strings.Repeat("a", 300)} {
		err := f.CheckHost(request(host, "", false))
		var fe *FrontError
		if !errors.As(err, &fe) || fe.Status != 421 {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestHealthAndACMEAreNotAskedForTheirHost(t *testing.T) {
	f := &Front{Loopback: true, Public: true}
	for path, want := range map[string]bool{
		"/healthz": true, "/.well-known/acme-challenge/x": true,
		"/": false, "/healthz/x": false, "/.well-known/acme-challenge/../../vnc": false,
	} {
		for _, upgrade := range []bool{false, true} {
			r := request("evil.example", "", upgrade)
			r.URL.Path = path
			if ok := f.CheckHost(r) == nil; ok != (want && !upgrade) {
				t.Errorf("%s, upgrade %v: passed %v", path, upgrade, ok)
			}
		}
	}
}

func TestCheckOrigin(t *testing.T) {
	for _, test := range []struct {
		name, origins, host, origin string
		want                        string // the flag of the refusal; "ok" for none
	}{
		{"absent", "", "desk:8080", "", "ok"},
		{"same", "", "desk:8080", "http://desk:8080", "ok"},
		{"same, another spelling", "", "DESK.:8080", "http://desk:8080", "ok"},
		{"another scheme", "", "desk:8080", "https://desk:8080", "ok"},
		{"default port left out", "", "desk", "https://desk", "ok"},
		{"default port in Host", "", "desk:443", "https://desk", "ok"},
		{"default port in both", "", "desk:80", "http://desk:80", "ok"},
		{"IPv6", "", "[::1]:8080", "http://[0::1]:8080", "ok"},
		{"another port", "", "desk:8080", "http://desk:9090", "--origin http://desk:9090"},
		{"another default port", "", "desk:80", "https://desk", "--origin https://desk"},
		{"another host", "", "desk", "https://page.example", "--origin https://page.example"},
		{"host within", "", "desk.example", "https://desk.example.evil.example", "--origin https://desk.example.evil.example"},
		{"IPv6 of another", "", "desk", "https://[fd00::1]:8443", "--origin 'https://[fd00::1]:8443'"},
		{"no page's scheme", "", "desk", "ftp://desk", "--origin ftp://desk"},
		{"null", "", "desk", "null", "--origin null"},
		{"null listed", "null", "desk", "null", "ok"},
		{"listed", "https://page.example", "desk", "https://page.example", "ok"},
		{"listed with its port", "https://page.example:443", "desk", "https://page.example", "ok"},
		{"listed with another scheme", "https://page.example", "desk", "http://page.example", "--origin http://page.example"},
		{"listed with another port", "https://page.example", "desk", "https://page.example:8443", "--origin https://page.example:8443"},
		{"extension listed", "chrome-extension://abc", "desk", "chrome-extension://abc", "ok"},
		{"any", "any", "desk", "https://page.example", "ok"},
		{"any, null", "any", "desk", "null", "ok"},
		{"path", "", "desk", "http://desk/", ""},
		{"user", "", "desk", "http://desk@evil.example", ""},
		{"user of this host", "", "desk", "http://evil@desk", ""},
		{"no scheme", "", "desk", "desk", ""},
		{"two in one", "", "desk", "http://desk http://evil.example", ""},
		{"empty host", "", "desk", "http://", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &Front{Origins: strings.Fields(test.origins)}
			r := request(test.host, test.origin, true)
			err := f.CheckOrigin(r)
			if test.want == "ok" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var fe *FrontError
			if !errors.As(err, &fe) || fe.Status != 403 || fe.Flag != test.want || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%#v", err)
			}
			if strings.Contains(fe.Text, "--") {
				t.Errorf("a page is told %q", fe.Text)
			}
			if test.want == "" {
				return
			}
			f.Origins = append(f.Origins, strings.Trim(strings.TrimPrefix(fe.Flag, "--origin "), "'"))
			if err := errors.Join(f.Validate(), f.CheckOrigin(r)); err != nil {
				t.Errorf("%s does not help: %v", fe.Flag, err)
			}
		})
	}
	for _, values := range [][]string{{""}, {"http://desk", "http://desk"}} {
		r := request("desk", "", true)
		r.Header["Origin"] = values
		if (&Front{}).CheckOrigin(r) == nil {
			t.Errorf("Origin %q passes", values)
		}
	}
}

// TestFrontAndCredentials asks from every sort of page with every sort of
// credentials: what a browser adds by itself never makes up for a wrong page.
func TestFrontAndCredentials(t *testing.T) {
	users, token, _ := someUsers(t)
	credentials := map[string]http.Header{
		"none": {}, "password": basic("alice", "secret"), "subprotocol": protocols(token), "wrong": basic("alice", "x"),
	}
	for _, test := range []struct{ name, host, origin, open, closed string }{
		// open and closed are the status with no users and with some, for right credentials.
		{"no page", "desk.example", "", "101", "101"},
		{"own page", "desk.lan", "http://desk.lan", "101", "101"},
		{"page listed", "desk.lan", "https://page.example", "101", "101"},
		{"page of another", "desk.lan", "https://evil.example", "403", "403"},
		{"page rebound", "evil.example", "http://evil.example", "421", "101"},
		{"sandboxed page", "desk.lan", "null", "403", "403"},
	} {
		for kind, header := range credentials {
			t.Run(test.name+", "+kind, func(t *testing.T) {
				for _, p := range []*Policy{{}, {Users: users}} {
					f := &Front{Origins: []string{"https://page.example"}, Public: p.Users == nil, Basic: p.Users != nil, Hostname: "box"}
					r := request(test.host, test.origin, true)
					for key, values := range header {
						r.Header[key] = values
					}
					want := test.open
					if p.Users != nil {
						if want = test.closed; want == "101" && (kind == "none" || kind == "wrong") {
							want = "401"
						}
					}
					if got := status(f, p, r); got != want {
						t.Errorf("users %v: %s, want %s", p.Users != nil, got, want)
					}
				}
			})
		}
	}
}

func status(f *Front, p *Policy, r *http.Request) string {
	var fe *FrontError
	if errors.As(f.CheckHost(r), &fe) || errors.As(f.CheckOrigin(r), &fe) {
		return fmt.Sprint(fe.Status)
	}
	if _, err := p.Authenticate(r); err != nil {
		return "401"
	}
	return "101"
}

func TestAllowOrigin(t *testing.T) {
	for _, test := range []struct{ name, origins, origin, want string }{
		{"absent", "https://page.example", "", " false false"},
		{"not listed", "https://page.example", "https://evil.example", " false false"},
		{"own", "", "http://desk", " false false"},
		{"listed", "https://page.example", "https://page.example", "https://page.example true true"},
		{"any", "any https://page.example", "https://page.example", "* false true"},
		{"null", "null", "null", "null false true"},
		{"null not listed", "https://page.example", "null", " false false"},
		{"garbage", "https://page.example", "https://page.example\r\n", " false false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			origin, credentials, ok := (&Front{Origins: strings.Fields(test.origins)}).AllowOrigin(request("desk", test.origin, false))
			if !ok {
				origin = ""
			}
			if got := fmt.Sprint(origin, " ", credentials, " ", ok); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestFrontValidate(t *testing.T) {
	for _, test := range []struct {
		name  string
		front Front
		want  string
	}{
		{"nothing", Front{}, ""},
		{"names", Front{Hosts: []string{"desk.example", "any", "10.0.0.5", "fd00::1"}}, ""},
		{"host with a port", Front{Hosts: []string{"desk.example:8080"}}, "a name alone"},
		{"host as URL", Front{Hosts: []string{"https://desk.example"}}, "a name alone"},
		{"glob", Front{Hosts: []string{"*.desk.example"}}, "a name alone"},
		{"empty host", Front{Hosts: []string{""}}, "a name alone"},
		{"origins", Front{Origins: []string{"https://page.example", "null", "http://[::1]:80"}, Basic: true}, ""},
		{"origin without a scheme", Front{Origins: []string{"page.example"}}, "write the whole origin"},
		{"origin with a path", Front{Origins: []string{"https://page.example/"}}, "ends after host and port"},
		{"star", Front{Origins: []string{"*"}}, "write the whole origin"},
		{"any without passwords", Front{Origins: []string{"any"}}, ""},
		{"any with passwords", Front{Origins: []string{"any"}, Basic: true}, "with passwords"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.front.Validate()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"http://desk", "https://desk:443", "null", "http://[::1]:80", "http://desk@evil", "http://desk.", "chrome-extension://a"} {
		f.Add(s, "desk")
		f.Add(s, "[::1]:80")
	}
	f.Fuzz(func(t *testing.T, s, host string) {
		front := &Front{Origins: []string{"https://page.example"}, Loopback: true}
		r := request(host, "", true)
		r.Header["Origin"] = []string{s}
		front.CheckHost(r)
		o, err := parseOrigin(s)
		if err != nil {
			if front.CheckOrigin(r) == nil {
				t.Fatalf("%q passes at %q", s, host)
			}
			return
		}
		if again, err := parseOrigin(o.String()); err != nil || again != o {
			t.Fatalf("%q is %v, and then %v, %v", s, o, again, err)
		}
		if front.CheckOrigin(r) != nil {
			return
		}
		// Whatever passes, a browser reads as the same host.
		u, err := url.Parse(s)
		h, herr := parseHost(host)
		if err != nil || herr != nil || u.User != nil {
			t.Fatalf("%q passes at %q: %v, %v", s, host, err, herr)
		}
		if name, _, _ := canonicalHost(u.Hostname()); name != h.name && name != "page.example" {
			t.Fatalf("%q passes at %q", s, host)
		}
	})
}
