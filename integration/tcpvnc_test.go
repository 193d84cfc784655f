package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// TestViewerDesktop is the second of the two things wstun is for: a VNC viewer
// that knows only TCP, through a WebSocket, with and without an HTTP proxy that
// asks for a password on the way.
func TestViewerDesktop(t *testing.T) {
	desktop := startDesktop(t)
	s := startServer(t, "--allow", desktop)
	want := drawnSnapshot(t, desktop)
	for _, tt := range []struct {
		name  string
		proxy func(testing.TB) *httpProxy
	}{
		{"direct", nil},
		{"squid", startSquid},
		{"tinyproxy", startTinyproxy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"-L", "0:" + desktop, s.ws()}
			var proxy *httpProxy
			if tt.proxy != nil {
				proxy = tt.proxy(t)
				args = append([]string{"--proxy", proxy.url("alice", "secret")}, args...)
			}
			c := startClient(t, args...)
			got := snapshot(t, c.local(t, desktop))
			if n := colours(got); n < manyColours {
				t.Errorf("the picture has %d colours, want at least %d", n, manyColours)
			}
			// The same pixels, once through JPEG each.
			if d := difference(got, want); d > 0.01 {
				t.Errorf("the picture differs from the one taken directly by %.3f", d)
			}
			if proxy != nil {
				c.stop(t)
				proxy.carried(t, s.addr)
			}
		})
	}
}

// TestProxyRefuses: what a proxy does instead of letting through is said with
// the proxy's name and a hint, and the secret is not repeated.
func TestProxyRefuses(t *testing.T) {
	s := startServer(t, "--allow", "127.0.0.1:*")
	ssh := &httpProxy{addr: listen(t, func(c *net.TCPConn) {
		io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1\r\n")
		io.Copy(io.Discard, c)
	})}
	for _, tt := range []struct {
		name  string
		proxy func(testing.TB) *httpProxy
		want  string
	}{
		{"squid, wrong password", startSquid, "407"},
		{"tinyproxy, wrong password", startTinyproxy, "401"}, // where others say 407
		{"an ssh server", func(testing.TB) *httpProxy { return ssh }, "SSH-2.0"},
		{"nobody", func(t testing.TB) *httpProxy { return &httpProxy{addr: loopback(freePort(t))} }, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := tt.proxy(t)
			// It may end or go on trying: here only what it says counts.
			c := start(t, program(t), "client", "--proxy", proxy.url("alice", "guess"), "-L", "0:127.0.0.1:1", s.ws())
			c.await(t, "proxy "+proxy.addr, tt.want)
			if strings.Contains(c.output(), "guess") {
				t.Error("the password is in the log")
			}
		})
	}
}

// An httpProxy lets alice with the password "secret" through.
type httpProxy struct {
	addr    string
	logs    func() string // what it wrote of requests so far
	restart func()        // nil: it cannot
}

func (p *httpProxy) url(user, password string) string {
	return fmt.Sprintf("http://%s:%s@%s", user, password, p.addr)
}

// carried checks that a connection to addr went through the proxy: squid says
// so only when it has ended.
func (p *httpProxy) carried(t testing.TB, addr string) {
	t.Helper()
	eventually(t, "the proxy's log has CONNECT "+addr, func() bool {
		for line := range strings.Lines(p.logs()) {
			if contains(line, "CONNECT", addr) {
				return true
			}
		}
		return false
	})
}

func startSquid(t testing.TB) *httpProxy {
	t.Helper()
	needs(t, "squid")
	const auth = "/usr/lib/squid/basic_ncsa_auth"
	if _, err := os.Stat(auth); err != nil {
		missing(t, auth)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	// Not under t.TempDir, which only this user may enter, see below.
	dir, err := os.MkdirTemp("", "wstun-squid-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	passwords := writeFile(t, dir, "passwords", "alice:"+string(hash)+"\n")
	port := freePort(t)
	config := []string{
		"http_port " + loopback(port),
		"auth_param basic program " + auth + " " + passwords,
		"auth_param basic children 1",
		"auth_param basic realm test",
		"acl known proxy_auth REQUIRED",
		"http_access allow known",
		"http_access deny all",
		"access_log stdio:" + dir + "/access.log",
		"cache_log " + dir + "/cache.log",
		"cache deny all",
		"cache_mem 1 MB",
		"pid_filename none",
		"coredump_dir " + dir,
		"shutdown_lifetime 0 seconds",
		"pinger_enable off",
		"visible_hostname test",
		"netdb_filename none",
		"max_filedescriptors 1024",
		// Without these it looks for files that another squid may own.
		"mime_table /usr/share/squid/mime.conf",
		"icon_directory /usr/share/squid/icons",
	}
	if os.Geteuid() == 0 {
		// It insists on giving up root, and its helper must read the passwords.
		const nobody = 65534
		config = append(config, "cache_effective_user nobody")
		for _, path := range []string{dir, passwords} {
			if err := os.Chown(path, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := writeFile(t, dir, "squid.conf", strings.Join(config, "\n")+"\n")
	// -N: one process; -d 1: what it does goes to stderr too.
	launch := func() *process {
		p := start(t, "squid", "-N", "-d", "1", "-n", fmt.Sprintf("wstun%d", port), "-f", file)
		p.await(t, "Accepting HTTP Socket connections")
		return p
	}
	p := launch()
	return &httpProxy{
		addr: loopback(port),
		logs: func() string {
			log, _ := os.ReadFile(dir + "/access.log")
			return string(log)
		},
		restart: func() {
			p.stop(t)
			p = launch()
		},
	}
}

func startTinyproxy(t testing.TB) *httpProxy {
	t.Helper()
	needs(t, "tinyproxy")
	port := freePort(t)
	file := writeFile(t, t.TempDir(), "tinyproxy.conf", strings.Join([]string{
		fmt.Sprintf("Port %d", port),
		"Listen 127.0.0.1",
		"Allow 127.0.0.1",
		"BasicAuth alice secret",
		"LogLevel Info",
		"MaxClients 100",
		"Timeout 600",
		// No ConnectPort: every port is allowed.
	}, "\n")+"\n")
	p := start(t, "tinyproxy", "-d", "-c", file)
	p.await(t, "Accepting connections")
	return &httpProxy{addr: loopback(port), logs: p.output}
}
