package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// roundTrip says something to an echo at addr and reads it back.
func roundTrip(t testing.TB, network, addr string) {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := exchange(c, 7, 50_000); err != nil {
		t.Errorf("through %s: %v", addr, err)
	}
}

// unixEcho is echoTarget on a unix socket.
func unixEcho(t testing.TB, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					c.Write(buf[:n])
				}
			}()
		}
	}()
}

func TestForwardsOfEveryForm(t *testing.T) {
	dir := t.TempDir()
	sock, local := filepath.Join(dir, "target.sock"), filepath.Join(dir, "local.sock")
	unixEcho(t, sock)
	target := echoTarget(t)
	_, port, _ := net.SplitHostPort(target)
	p1, p2, p3 := freePort(t), freePort(t), freePort(t)
	s := startServer(t, "--allow", target, "--allow", "unix:"+sock, "--allow", "localhost:"+port, "--target", target)
	c := launchClient(t, fmt.Sprintf("-L%d:%s", p1, target), s.http(),
		"-L", fmt.Sprintf("127.0.0.1:%d:localhost:%s", p2, port),
		"-L", fmt.Sprintf("%d:%s", p3, sock),
		"-L", "unix:"+local+":"+target)
	c.await(t, "connected")
	for _, tt := range []struct{ name, network, addr string }{
		{"attached value", "tcp", loopback(p1)},
		{"both loopbacks", "tcp", fmt.Sprintf("[::1]:%d", p1)},
		{"with BIND, to a name", "tcp", loopback(p2)},
		{"ssh's form to a unix socket", "tcp", loopback(p3)},
		{"from a unix socket", "unix", local},
	} {
		t.Run(tt.name, func(t *testing.T) { roundTrip(t, tt.network, tt.addr) })
	}
	if fi, err := os.Stat(local); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v %v", fi.Mode(), err)
	}
}

func TestPortRangeAndEnvironment(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--allow", target, "--target", target)
	first := freePort(t)
	cmd := exec.Command(program(t), "client")
	cmd.Env = []string{"WSTUN_SERVER=" + s.ws(),
		fmt.Sprintf("WSTUN_CLIENT_LOCAL_FORWARD=127.0.0.1:%d:%s\n127.0.0.1:0:%s", first, target, target)}
	c := &client{startCommand(t, cmd)}
	endsInOrder(t, c.process)
	c.await(t, "connected")
	for _, line := range c.awaitN(t, 2, "forwarding") {
		roundTrip(t, "tcp", capture(t, fromPattern, line))
	}
}

// The client is started first; connections wait for the server, once.
func TestClientWaitsForItsServer(t *testing.T) {
	target := echoTarget(t)
	port := freePort(t)
	c := launchClient(t, "-L", "127.0.0.1:0:"+target, fmt.Sprintf("ws://127.0.0.1:%d", port))
	c.await(t, "waiting for the server", "connection refused")
	done := make(chan error, 1)
	addr := c.local(t, target)
	conn := dial(t, addr)
	go func() { done <- exchange(conn, 1, 10_000) }()
	startServerCommand(t, exec.Command(program(t), "server", "--listen", loopback(port), "--allow", target))
	if err := receive(t, done, "the waiting connection goes through"); err != nil {
		t.Error(err)
	}
	conn.Close() // or the server would wait for it when it stops
	if n := strings.Count(c.output(), "waiting for the server"); n != 1 {
		t.Errorf("said %d times that it waits", n)
	}
}

func TestRoutesAndFiles(t *testing.T) {
	one, two := echoTarget(t), sourceTarget(t, func() io.Reader { return noise(3, 1000) })
	web := t.TempDir()
	writeFile(t, web, "index.html", "<title>it is here</title>")
	writeFile(t, web, ".secret", "hidden")
	os.Mkdir(filepath.Join(web, "folder"), 0o755)
	os.Symlink("/etc/passwd", filepath.Join(web, "passwd"))
	s := startServer(t, "--route", "/one="+one, "--route", "/two/deep="+two, "--web", web)
	c := dialWS(t, s.ws()+"/one/")
	if err := exchange(c, 1, 100_000); err != nil {
		t.Error(err)
	}
	if r := drain(struct{ io.Reader }{dialWS(t, s.ws()+"/two/deep")}); r.n != 1000 {
		t.Errorf("%d bytes, %v", r.n, r.err)
	}
	for path, want := range map[string]int{
		"/": 200, "/healthz": 200, "/one": 426, "/two/deep": 426, "/two": 404, "/.secret": 404,
		"/folder/": 404, "/passwd": 404, "/../../etc/passwd": 404, "/%2e%2e/etc/passwd": 404,
	} {
		code, out := run(t, "curl", "-s", "--path-as-is", "-o", os.DevNull, "-w", "%{http_code}", s.http()+path)
		if code != 0 || strings.TrimSpace(out) != fmt.Sprint(want) {
			t.Errorf("GET %s: %s, want %d", path, out, want)
		}
	}
	if status, _ := refusedWS(t, s.ws()+"/three"); status != 404 {
		t.Errorf("an unknown path: %d", status)
	}
}
