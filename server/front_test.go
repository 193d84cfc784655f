package server

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/access"
	"wstun/internal/netx/netxtest"
)

// users has alice, with a token, and bob, with the password "secret".
func users(t testing.TB) (u *access.Users, token string) {
	t.Helper()
	token, sum := access.NewToken()
	const hash = "$2a$10$5Ko.PUQHo./Q4cUbof5RYuJ7EocaWC4HkK4wcLUwWBdXsFL.QjG6u" // of the least cost that is taken
	u, err := access.ParseUsers("users.yaml", []byte(fmt.Sprintf("- name: alice\n  tokens:\n    - name: t\n      sha256: %s\n- name: bob\n  password: %s\n", sum, hash)))
	if err != nil {
		t.Fatal(err)
	}
	return u, token
}

func header(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i+1 < len(kv); i += 2 {
		h.Set(kv[i], kv[i+1])
	}
	return h
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestPlainGetIsAnsweredAsTheWebSocketWouldBe(t *testing.T) {
	list, token := users(t)
	deny, err := access.ParseRule("127.0.0.1:5901")
	if err != nil {
		t.Fatal(err)
	}
	policy := func(u *access.Users) Config {
		cfg := Config{Policy: &access.Policy{Users: u, Deny: []access.Rule{deny}}}
		for _, r := range []string{"/desk=127.0.0.1:5900", "/denied=127.0.0.1:5901"} {
			if err := cfg.Routes.Add(r); err != nil {
				t.Fatal(err)
			}
		}
		return cfg
	}
	front := access.Front{Origins: []string{"https://page.example"}}
	open, closed := serve(t, policy(nil), front), serve(t, policy(list), front)
	open.listen(t, target)
	closed.listen(t, target)
	own := func(s *site) string { return "http://" + s.addr }

	for _, tt := range []struct {
		name   string
		s      *site
		path   string
		header http.Header
		want   int // of the plain GET; 426 stands for 101
	}{
		{"a program", open, "/desk", nil, 426},
		{"a page of this host", open, "/desk", header("Origin", own(open)), 426},
		{"a page of another port", open, "/desk", header("Origin", "http://127.0.0.1:1"), 403},
		{"a listed page", open, "/desk", header("Origin", "https://page.example"), 426},
		{"an unknown page", open, "/desk", header("Origin", "https://evil.example"), 403},
		{"a sandboxed page", open, "/desk", header("Origin", "null"), 403},
		{"a rebound page", open, "/desk", header("Host", "evil.example", "Origin", "http://evil.example"), 421},
		{"a rebound name", open, "/desk", header("Host", "evil.example"), 421},
		{"a listed page's name as Host", open, "/desk", header("Host", "page.example"), 426},
		{"localhost", open, "/desk", header("Host", "localhost:99"), 426},
		{"another path", open, "/nothing", nil, 404},
		{"a denied target", open, "/denied", nil, 403},
		{"credentials nobody asked for", open, "/desk", header("Authorization", basic("x", "y")), 426},

		{"no credentials", closed, "/desk", nil, 401},
		{"no credentials, another path", closed, "/nothing", nil, 401},
		{"no credentials, a denied target", closed, "/denied", nil, 401},
		{"a token", closed, "/desk", header("Authorization", "Bearer "+token), 426},
		{"a password", closed, "/desk", header("Authorization", basic("bob", "secret")), 426},
		{"a wrong token", closed, "/desk", header("Authorization", "Bearer x"+token), 401},
		{"a wrong password", closed, "/desk", header("Authorization", basic("bob", "Secret")), 401},
		{"an unknown user", closed, "/desk", header("Authorization", basic("eve", "secret")), 401},
		{"another scheme", closed, "/desk", header("Authorization", "Digest x"), 401},
		{"a token and another path", closed, "/nothing", header("Authorization", "Bearer "+token), 404},
		{"a token and a denied target", closed, "/denied", header("Authorization", "Bearer "+token), 403},
		{"an unknown page comes before credentials", closed, "/desk", header("Origin", "https://evil.example"), 403},
		{"a rebound name comes before credentials", closed, "/desk", header("Host", "evil.example", "Origin", "http://evil.example"), 421},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plain, _ := tt.s.request(t, false, tt.path, tt.header)
			upgrade, _ := tt.s.request(t, true, tt.path, tt.header)
			asUpgrade := tt.want
			if asUpgrade == 426 {
				asUpgrade = 101
			}
			if plain.StatusCode != tt.want || upgrade.StatusCode != asUpgrade {
				t.Fatalf("GET %d, WebSocket %d, want %d", plain.StatusCode, upgrade.StatusCode, tt.want)
			}
			if !plain.Close || tt.want != 426 && !upgrade.Close {
				t.Error("no Connection: close")
			}
			text := body(t, plain)
			if tt.want != 426 && text != body(t, upgrade) {
				t.Errorf("GET is told %q", text)
			}
			if strings.Contains(text, "5901") || plain.Header.Get("Content-Security-Policy") == "" || plain.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%q %v", text, plain.Header)
			}
			if tt.want == 401 && plain.Header.Get("WWW-Authenticate") == "" {
				t.Error("no WWW-Authenticate")
			}
			if tt.header.Get("Origin") == "https://page.example" && plain.Header.Get("Access-Control-Allow-Origin") != "https://page.example" {
				t.Errorf("the page cannot read it: %v", plain.Header)
			}
		})
	}
}

func TestOriginAnyNeverAllowsCredentials(t *testing.T) {
	s := serve(t, Config{}, access.Front{Origins: []string{"any"}})
	resp, _ := s.request(t, false, "/", header("Origin", "https://some.example"))
	if h := resp.Header; h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Access-Control-Allow-Credentials") != "" {
		t.Error(h)
	}
}

func TestHealthNeedsNeitherCredentialsNorName(t *testing.T) {
	list, _ := users(t)
	s := serve(t, Config{Policy: &access.Policy{Users: list}}, access.Front{})
	resp, _ := s.request(t, false, "/healthz", header("Host", "10.1.2.3", "Origin", "https://evil.example"))
	if resp.StatusCode != 200 || body(t, resp) != "ok\n" {
		t.Errorf("%s", resp.Status)
	}
	if resp, _ = s.request(t, true, "/healthz", nil); resp.StatusCode != 401 {
		t.Errorf("a WebSocket there: %s", resp.Status)
	}
}

func TestSubprotocols(t *testing.T) {
	plain, named := serve(t, Config{}, access.Front{}), serve(t, Config{Subprotocol: "mqtt"}, access.Front{})
	list, token := users(t)
	closed := serve(t, Config{Policy: &access.Policy{Users: list}}, access.Front{})
	bearer := "bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))
	for _, s := range []*site{plain, named, closed} {
		s.listen(t, target)
	}
	for _, tt := range []struct {
		name, offered string
		s             *site
		status        int
		selected      string // or what the refusal's text has
	}{
		{"none", "", plain, 101, ""},
		{"binary", "binary", plain, 101, "binary"},
		{"websockify's two", "binary, base64", plain, 101, "binary"},
		{"binary last", "base64,  binary", plain, 101, "binary"},
		{"unknown", "mqtt", plain, 400, "mqtt"},
		{"unknown, several", "a, b", plain, 400, "a"},
		{"the configured", "mqtt", named, 101, "mqtt"},
		{"the configured before binary", "mqtt, binary", named, 101, "mqtt"},
		{"binary where another is configured", "binary", named, 101, "binary"},
		{"a credential and binary", bearer + ", binary", closed, 101, "binary"},
		{"binary and a credential", "binary, " + bearer, closed, 101, "binary"},
		{"a credential alone", bearer, closed, 400, "beside"},
		{"a wrong credential", "bearer.AAAA, binary", closed, 401, ""},
		{"a credential where none is asked", bearer + ", binary", plain, 101, "binary"},
		{"a later tunnel", "wstun.v9", plain, 400, "wstun.v1"},
		{"a tunnel without a version", "wstun.", plain, 400, "wstun.v1"},
		{"two tunnels", "wstun.v9, wstun.v1", plain, 101, "wstun.v1"},
		{"a tunnel and binary", "binary, wstun.v1", plain, 101, "wstun.v1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			if tt.offered != "" {
				h.Set("Sec-WebSocket-Protocol", tt.offered)
			}
			resp, _ := tt.s.request(t, true, "/", h)
			if resp.StatusCode != tt.status {
				t.Fatalf("%s: %s", resp.Status, body(t, resp))
			}
			if tt.status == 101 {
				if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != tt.selected {
					t.Errorf("selected %q", got)
				}
			} else if text := body(t, resp); !strings.Contains(text, tt.selected) || strings.Contains(text, bearer) || !resp.Close {
				t.Errorf("%q", text)
			}
			if strings.Contains(resp.Header.Get("Sec-WebSocket-Protocol"), "bearer") {
				t.Error("a credential was echoed")
			}
		})
	}
}

func TestTunnelOfAPageNeedsItsOrigin(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	resp, _ := s.request(t, true, "/", header("Sec-WebSocket-Protocol", "wstun.v1", "Origin", "https://evil.example"))
	if resp.StatusCode != 403 {
		t.Errorf("%s", resp.Status)
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	for _, tt := range []struct {
		name, request string
		status        string
	}{
		{"POST", "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", "405"},
		{"a WebSocket by POST", "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", "405"},
		{"a WebSocket with a body", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 3\r\n\r\nabc", "400"},
		{"a large header", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", "431"},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", "400"},
		{"no HTTP", "\x16\x03\x01\x00\x05hello\r\n\r\n", "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := dialTCP(t, s.addr)
			io.WriteString(conn, tt.request)
			got, _ := io.ReadAll(conn) // to the end: the server closes
			if !strings.HasPrefix(string(got), "HTTP/1.1 "+tt.status) {
				t.Errorf("%.200q", got)
			}
		})
	}
}

func TestRequestThatDoesNotComeIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := hurry()
		c, peer := netxtest.Pipe()
		hook(c, http.StateNew)
		start := time.Now()
		if _, err := peer.Read(make([]byte, 1)); err == nil || time.Since(start) != upgradeTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		hook(c, http.StateClosed)

		c, peer = netxtest.Pipe()
		hook(c, http.StateNew)
		time.Sleep(upgradeTimeout - time.Millisecond)
		hook(c, http.StateActive)
		time.Sleep(time.Hour)
		if _, err := peer.Write([]byte("x")); err != nil {
			t.Errorf("a conn with a request was cut off: %v", err)
		}
	})
}

func TestRoutes(t *testing.T) {
	var r Routes
	for _, s := range []string{"/desk=10.0.0.1:5900", "/lab/=lab:22", "/a//b/../c=unix:/run/c.sock", "/only", "/both/"} {
		if err := r.Add(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if _, ok := r.find("/only"); ok {
		t.Error("a default that is not there was found")
	}
	def, err := ParseTarget("vnc:5900")
	if err != nil {
		t.Fatal(err)
	}
	r.Default = &def
	for path, want := range map[string]string{
		"/desk": "10.0.0.1:5900", "/desk/": "10.0.0.1:5900", "//desk": "10.0.0.1:5900", "/x/../desk": "10.0.0.1:5900",
		"/lab": "lab:22", "/lab/": "lab:22", "/a/c": "unix:/run/c.sock",
		"/only": "vnc:5900", "/only/": "vnc:5900", "/both": "vnc:5900",
		"/": "", "/Desk": "", "/desk/x": "", "/des": "", "/only/x": "",
	} {
		got, ok := r.find(clean(path))
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %v %v, want %q", path, got, ok, want)
		}
	}
	if n := len(r.Rules()); n != 4 {
		t.Errorf("%d rules", n)
	}
	r = Routes{Default: &def}
	for _, path := range []string{"/", "/any/thing"} {
		if _, ok := r.find(path); !ok {
			t.Errorf("%s is not found", path)
		}
	}
	for _, bad := range []string{"desk=a:1", "=a:1", "/a=", "/a=b", "/a=b:0", "/a=b:99999", "/{x}=a:1", "/a?x=a:1", "/a*=b:1"} {
		if err := r.Add(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := r.Add("/a=b:1"); err != nil {
		t.Fatal(err)
	}
	if err := r.Add("/a/=b:2"); err == nil {
		t.Error("a path has two targets")
	}
}
