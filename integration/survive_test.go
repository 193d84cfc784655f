package integration

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"wstun/internal/impair"
)

// A way leads to a server through something that can take away every
// connection that it carries.
type way struct {
	url  string
	args []string // of a client that goes this way
	// cut takes them away and returns when the way can be gone again, or will
	// be by itself. It may also happen a little later.
	cut func()
}

// ways give each what stands between, and how often it cuts.
var ways = []struct {
	name string
	cuts int
	lead func(testing.TB, *server) *way
}{
	{"nginx reloads", 2, throughNginx},
	{"haproxy restarts", 1, throughHAProxy},
	{"squid restarts", 1, throughSquid},
	{"connections are reset", 5, func(t testing.TB, s *server) *way {
		r := impair.Listen(t, s.addr)
		return &way{url: "ws://" + r.Addr(), cut: func() { r.Cut(impair.Reset) }}
	}},
}

func throughNginx(t testing.TB, s *server) *way {
	needs(t, "nginx")
	cert := makeCertificate(t)
	n := startNginx(t, s.addr, cert)
	return &way{
		url:  "wss://" + n.site + "/tunnel/",
		args: []string{"--tls-ca", cert.file},
		cut:  func() { n.reload(t) },
	}
}

func throughSquid(t testing.TB, s *server) *way {
	proxy := startSquid(t)
	return &way{
		url:  s.ws(),
		args: []string{"--proxy", proxy.url("alice", "secret")},
		cut:  proxy.restart,
	}
}

func throughHAProxy(t testing.TB, s *server) *way {
	needs(t, "haproxy")
	addr := loopback(freePort(t))
	config := writeFile(t, t.TempDir(), "haproxy.cfg", fmt.Sprintf(`
defaults
	mode http
	timeout connect 10s
	timeout client 1h
	timeout server 1h
frontend way
	bind %s
	default_backend wstun
backend wstun
	server wstun %s
`, addr, s.addr))
	launch := func() *process {
		// -db: one process, in the foreground.
		p := start(t, "haproxy", "-db", "-f", config)
		eventually(t, "haproxy listens", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		return p
	}
	p := launch()
	return &way{url: "ws://" + addr, cut: func() {
		p.stop(t) // at once: SIGUSR1 would be the gentle one
		p = launch()
	}}
}

// A console is a program that answers what is typed.
type console struct {
	*process
	in io.WriteCloser
}

func startConsole(t testing.TB, program string, args ...string) *console {
	t.Helper()
	cmd := exec.Command(program, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &console{startCommand(t, cmd), in}
}

func (c *console) say(t testing.TB, line string) {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatalf("type %q: %v", line, err)
	}
}

// answers says a line, which n lines answer.
func (c *console) answers(t testing.TB, n int, line string) string {
	t.Helper()
	c.mu.Lock()
	before := len(c.lines)
	c.mu.Unlock()
	c.say(t, line)
	return strings.Join(c.awaitN(t, before+n)[before:], "\n")
}

// resumed waits until the process has lost its connection n times in all, and
// has had another as often, and shows how long that took.
func resumed(t testing.TB, p *process, n int) {
	t.Helper()
	p.awaitN(t, n, "connection lost, resuming")
	t.Log(strings.TrimSpace(p.awaitN(t, n, "resumed after", "nothing lost")[n-1]))
}

// neverEnds checks that the process was never without its session.
func neverEnds(t testing.TB, p *process) {
	t.Helper()
	for _, bad := range []string{"session lost", "has restarted", "connection refused why="} {
		if strings.Contains(p.output(), bad) {
			t.Errorf("%s said %q", p.name, bad)
		}
	}
}

// portOf is the port of HOST:PORT.
func portOf(t testing.TB, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
