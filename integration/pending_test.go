package integration

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// A request that announces a body and never sends it must not keep its
// connection, nor keep the server from stopping.
func TestBodyThatNeverComesIsNotWaitedFor(t *testing.T) {
	s := startServer(t, "--target", echoTarget(t))
	requests := map[string]string{
		"health":  "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
		"plain":   "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
		"chunked": "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
		"upgrade": "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 100\r\n\r\n",
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, s.addr)
			io.WriteString(c, request)
			if r := drain(c); isTimeout(r.err) { // dial has set a deadline
				t.Error("the server keeps the connection")
			}
		})
	}
}

func TestStoppingDoesNotWaitForAPendingRequestElsewhere(t *testing.T) {
	cmd := exec.Command(program(t), "server", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--target", echoTarget(t))
	p := startCommand(t, cmd)
	var addrs []string
	for _, l := range p.awaitN(t, 2, "listening") {
		addrs = append(addrs, capture(t, addrPattern, l))
	}
	for _, addr := range addrs {
		io.WriteString(dial(t, addr), "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.await(t, "stopping")
	eventually(t, "no port accepts any more", func() bool {
		for _, addr := range addrs {
			if c, err := net.Dial("tcp", addr); err == nil {
				c.Close()
				return false
			}
		}
		return true
	})
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What is refused ends its connection, so that nothing behind it is taken for
// another request by one side and for a tunnel by a proxy.
func TestNothingBehindARefusedUpgradeIsServed(t *testing.T) {
	s := startServer(t, "--target", echoTarget(t))
	upgrade := "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
	for name, rest := range map[string]string{
		"another version": "Connection: Upgrade\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
		"no key":          "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
		"two keys":        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Key: x\r\n",
		"no connection":   "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, s.addr)
			io.WriteString(c, upgrade+rest+"\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
			answer, err := io.ReadAll(c)
			if n := strings.Count(string(answer), "\r\nDate: "); n != 1 || !strings.Contains(string(answer), "Connection: close") {
				t.Errorf("%d answers, %v:\n%s", n, err, answer)
			}
		})
	}
}

func TestLogLineOfALongHeaderIsShort(t *testing.T) {
	s := startServer(t, "--target", echoTarget(t))
	if status, _ := refusedWS(t, s.ws(), withHeader("Origin", "http://"+strings.Repeat("a", 8000))); status != 403 {
		t.Errorf("status %d", status)
	}
	if l := s.await(t, "request refused"); len(l) > 2000 {
		t.Errorf("a line of %d bytes", len(l))
	}
}

func TestMisspeltVariableIsNamed(t *testing.T) {
	cmd := exec.Command(program(t), "server", "--listen", "127.0.0.1:0", "--target", "vnc:5900")
	cmd.Env = []string{"WSTUN_SERVER_USER=users.yaml"}
	p := startCommand(t, cmd)
	endsInOrder(t, p)
	p.await(t, "WSTUN_SERVER_USER ", "WSTUN_SERVER_USERS")
	p.await(t, "listening")
}

// A query may hold a ticket: it is sent, and said nowhere.
func TestQueryOfTheURLIsNotLogged(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--allow", target)
	c := startClient(t, "-L", "127.0.0.1:0:"+target, s.ws()+"/?token=TOPSECRET")
	if out := c.output(); strings.Contains(out, "TOPSECRET") {
		t.Error(out)
	}
	code, out := run(t, program(t), "client", "-W", target, fmt.Sprintf("ws://127.0.0.1:%d/?token=TOPSECRET", freePort(t)))
	if code != 1 || strings.Contains(out, "TOPSECRET") {
		t.Errorf("exit code %d: %s", code, out)
	}
}
