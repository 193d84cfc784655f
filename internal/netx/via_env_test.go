package netx_test

import (
	"net/url"
	"strings"
	"testing"

	"wstun/internal/netx"
)

func TestProxyFor(t *testing.T) {
	type env map[string]string
	for _, test := range []struct {
		name, target string
		env          env
		want         string
	}{
		{"nothing set", "wss://host/", env{}, ""},
		{"wss", "wss://host/", env{"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "http://a:1"},
		{"ws", "ws://host/", env{"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "http://b:2"},
		{"https", "https://host/", env{"HTTPS_PROXY": "http://a:1"}, "http://a:1"},
		{"only the other", "ws://host/", env{"HTTPS_PROXY": "http://a:1"}, ""},
		{"all", "ws://host/", env{"ALL_PROXY": "socks5://me:pass@c:3"}, "socks5://me:pass@c:3"},
		{"all is last", "wss://host/", env{"ALL_PROXY": "socks5://c:3", "HTTPS_PROXY": "http://a:1"}, "http://a:1"},
		{"lower case first", "wss://host/", env{"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://a:1"},
		{"no scheme", "wss://host/", env{"HTTPS_PROXY": "a:1"}, "http://a:1"},
		{"address without scheme", "wss://host/", env{"HTTPS_PROXY": "10.0.0.1:1"}, "http://10.0.0.1:1"},
		{"loopback", "wss://127.0.0.2/", env{"HTTPS_PROXY": "http://a:1"}, ""},
		{"loopback of IPv6", "wss://[::1]:8/", env{"HTTPS_PROXY": "http://a:1"}, ""},
		{"localhost", "ws://localhost:8080/", env{"HTTP_PROXY": "http://a:1"}, ""},
		{"junk", "wss://host/", env{"HTTPS_PROXY": "http://me:s3cret@[bad"}, "error"},
		{"junk and all", "wss://host/", env{"HTTPS_PROXY": "://", "ALL_PROXY": "http://a:1"}, "error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, err := url.Parse(test.target)
			if err != nil {
				t.Fatal(err)
			}
			got, err := netx.ProxyFor(target, func(name string) string { return test.env[name] })
			if err != nil {
				if test.want != "error" || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("got error %v", err)
				}
				return
			}
			if s := str(got); s != test.want {
				t.Errorf("got %q, want %q", s, test.want)
			}
		})
	}
}

func TestNoProxy(t *testing.T) {
	for _, test := range []struct {
		list, target string
		direct       bool
	}{
		{"*", "ws://host", true},
		{"a, host ,b", "ws://host", true},
		{"HOST", "ws://Host", true},
		{"host", "ws://db.host", true},
		{"host", "ws://ghost", false},
		{".host", "ws://db.host", true},
		{".host", "ws://host", false},
		{"*.host", "ws://db.host", true},
		{"host:80", "ws://host", true},
		{"host:80", "wss://host", false},
		{"host:443", "wss://host", true},
		{"host:8080", "ws://host:8080", true},
		{"10.0.0.1", "ws://10.0.0.1", true},
		{"10.0.0.1", "ws://10.0.0.10", false},
		{"10.0.0.1:80", "ws://10.0.0.1:81", false},
		{"10.0.0.0/8", "ws://10.9.9.9", true},
		{"10.0.0.0/8", "ws://11.9.9.9", false},
		{"10.0.0.0/8", "ws://host", false},
		{"fd00::/8", "ws://[fd00::1]", true},
		{"fd00::1", "ws://[fd00::1]", true},
		{"[fd00::1]:80", "ws://[fd00::1]", true},
		{"1", "ws://10.0.0.1", false},
		{",, .,:", "ws://host", false},
	} {
		t.Run(test.list+" "+test.target, func(t *testing.T) {
			target, err := url.Parse(test.target)
			if err != nil {
				t.Fatal(err)
			}
			env := map[string]string{"ALL_PROXY": "http://a:1", "NO_PROXY": test.list}
			got, err := netx.ProxyFor(target, func(name string) string { return env[name] })
			if err != nil || (got == nil) != test.direct {
				t.Errorf("got %v, %v, want direct %v", got, err, test.direct)
			}
		})
	}
}

func str(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.String()
}
