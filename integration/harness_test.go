package integration

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// A server is a running `wstun server`.
type server struct {
	*process
	addr string // 127.0.0.1:PORT of its first listener
}

func (s *server) ws() string    { return "ws://" + s.addr }
func (s *server) wss() string   { return "wss://" + s.addr }
func (s *server) http() string  { return "http://" + s.addr }
func (s *server) https() string { return "https://" + s.addr }

var (
	addrPattern = regexp.MustCompile(`\baddr=(127\.0\.0\.1:\d+)`)
	fromPattern = regexp.MustCompile(`\bfrom=(127\.0\.0\.1:\d+)`)
)

// startServer runs `wstun server` on a free port of loopback until the test
// ends, when it must stop in order.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	return startServerCommand(t, exec.Command(program(t), append([]string{"server", "--listen", "127.0.0.1:0"}, args...)...))
}

func startServerCommand(t testing.TB, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{process: startCommand(t, cmd)}
	s.name = "wstun server"
	endsInOrder(t, s.process)
	s.addr = capture(t, addrPattern, s.await(t, "listening", "addr=127.0.0.1:"))
	return s
}

// A client is a running `wstun client`.
type client struct{ *process }

// startClient runs `wstun client` until the test ends, when it must stop in
// order, and waits for its session and for its forwards.
func startClient(t testing.TB, args ...string) *client {
	t.Helper()
	c := launchClient(t, args...)
	c.await(t, "connected")
	return c
}

// launchClient is startClient for a client that has yet to find its server:
// its forwards listen, a session it need not have.
func launchClient(t testing.TB, args ...string) *client {
	t.Helper()
	c := &client{start(t, program(t), append([]string{"client"}, args...)...)}
	c.name = "wstun client"
	endsInOrder(t, c.process)
	forwards := 0
	for _, arg := range args {
		if arg == "-L" {
			forwards++
		}
	}
	if forwards > 0 {
		c.awaitN(t, forwards, "forwarding")
	}
	return c
}

// local gives the local address of the client's forward to a target.
func (c *client) local(t testing.TB, target string) string {
	t.Helper()
	return capture(t, fromPattern, c.await(t, "forwarding", "from=127.0.0.1:", "to="+target))
}

// endsInOrder stops the process when the test ends and checks how it does.
func endsInOrder(t testing.TB, p *process) {
	t.Cleanup(func() {
		if p.shot || t.Failed() {
			return // start kills it; more complaints would hide the first
		}
		if code := p.stop(t); code != 0 {
			t.Errorf("%s: exit code %d after SIGTERM, want 0", p.name, code)
		}
		for _, bad := range []string{"DATA RACE", "panic:", "goroutine 1 ["} {
			if strings.Contains(p.output(), bad) {
				t.Errorf("%s printed %q", p.name, bad)
			}
		}
	})
}

func capture(t testing.TB, pattern *regexp.Regexp, line string) string {
	t.Helper()
	m := pattern.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no %v in the line %q", pattern, line)
	}
	return m[1]
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// freePort gives a port for a program that cannot pick one itself. It lies
// below those that the system hands out, so that no connection takes it before
// the program does.
func freePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if ports.given[port] {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		ln.Close()
		if ports.given == nil {
			ports.given = make(map[int]bool)
		}
		ports.given[port] = true
		return port
	}
	t.Fatal("no free port")
	return 0
}

// loopback is 127.0.0.1:port.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// writeFile writes a file for a program and gives its path.
func writeFile(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// descriptors counts what a process has open.
func (p *process) descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// peakMemory is the most memory a process had resident so far, in bytes.
func (p *process) peakMemory(t testing.TB) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int64
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
