package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What people and programs get wrong on the command line and in files. What
// comes over the wire is in badwire_test.go.

// A mistake is a command that must fail, and what its user must read.
type mistake struct {
	name string
	args []string
	code int
	want []string // all of them in what it prints
}

func (m mistake) check(t *testing.T) {
	t.Helper()
	code, out := run(t, program(t), m.args...)
	if code != m.code {
		t.Errorf("exit code %d, want %d", code, m.code)
	}
	for _, w := range m.want {
		if !strings.Contains(out, w) {
			t.Errorf("nothing says %q", w)
		}
	}
	if n := strings.Count(out, "\n"); n > 12 {
		t.Errorf("%d lines are more than anybody reads", n)
	}
	for _, bad := range []string{"panic", "goroutine", "%!"} {
		if strings.Contains(out, bad) {
			t.Errorf("it says %q", bad)
		}
	}
	if t.Failed() {
		t.Logf("it was: wstun %s", strings.Join(m.args, " "))
	}
}

// TestWrongCommandLine: usage errors are found before anything is done.
func TestWrongCommandLine(t *testing.T) {
	const url = "ws://127.0.0.1:1"
	for _, m := range []mistake{
		{"unknown command", []string{"sever"}, 2, []string{`"sever"`, "server"}},
		{"unknown flag of server", []string{"server", "--lisen", ":1"}, 2, []string{"-lisen", "hint:", "--listen"}},
		{"unknown flag of client", []string{"client", "--tokenfile", "x", url}, 2, []string{"-tokenfile", "hint:", "--token-file"}},
		{"flag without its value", []string{"server", "--target"}, 2, []string{"--target"}},
		{"target without a port", []string{"server", "--target", "vnc"}, 2, []string{"--target", `"vnc"`, "vnc:5900"}},
		{"target with a wrong port", []string{"server", "--target", "vnc:99999"}, 2, []string{"--target", "99999"}},
		{"rule without ports", []string{"server", "--allow", "vnc"}, 2, []string{"--allow", `"vnc"`}},
		{"route without a target", []string{"server", "--route", "/vnc=vnc"}, 2, []string{"--route", "/vnc=vnc"}},
		{"no URL", []string{"client", "-L", "0:vnc:5900"}, 2, []string{"URL", "WSTUN_SERVER"}},
		{"nothing to forward", []string{"client", url}, 2, []string{"-L"}},
		{"URL of another scheme", []string{"client", "-L", "0:vnc:5900", "ftp://host"}, 2, []string{"ftp", "ws"}},
		{"SPEC without a port", []string{"client", "-L", "5900:vnc", url}, 2, []string{"-L 5900:vnc", `"vnc"`, "5900:vnc:5900"}},
		{"SPEC with a word for a port", []string{"client", "-L", "vnc:vnc:5900", url}, 2, []string{"-L", `"vnc`, ":5900"}},
		{"SPEC with half a bracket", []string{"client", "-L", "5900:[::1:5900", url}, 2, []string{"-L", "]"}},
		{"proxy of another scheme", []string{"client", "-L", "0:vnc:5900", "--proxy", "ftp://h:1", url}, 2, []string{"proxy ftp://h:1"}},
		{"header without a colon", []string{"client", "-L", "0:vnc:5900", "--header", "X", url}, 2, []string{"--header"}},
		{"empty users file name", []string{"server", "--target", "vnc:5900", "--users", ""}, 2, []string{"--users", "empty"}},
		{"empty listener", []string{"server", "--listen="}, 2, []string{"--listen", "empty"}},
		{"target that is a port", []string{"server", "--target", "5900"}, 2, []string{"--target", "localhost:5900"}},
		{"rule that is a port", []string{"server", "--allow", "22"}, 2, []string{"--allow", "vnc:22"}},
		{"subprotocol of ours", []string{"server", "--subprotocol", "wstun.v1"}, 2, []string{"--subprotocol"}},
		{"two certificates", []string{"server", "--tls-self-signed", "--tls-cert", "x"}, 2, []string{"--tls-self-signed", "--tls-cert"}},
		{"key without a certificate", []string{"server", "--tls-key", "x"}, 2, []string{"--tls-cert"}},
		{"pin for ws", []string{"client", "-L", "0:vnc:5900", "--tls-pin", "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", url}, 2, []string{"--tls-pin", "wss://"}},
		{"URL with a port that is none", []string{"client", "-L", "0:vnc:5900", "ws://host:99999"}, 2, []string{"99999"}},
		{"header with a wrong name", []string{"client", "-L", "0:vnc:5900", "--header", "A@B: x", url}, 2, []string{"--header"}},
		{"password in clear through a proxy", []string{"client", "-L", "0:vnc:5900", "--header", "Cookie: secret", "--proxy", "http://127.0.0.1:1", url}, 1, []string{"in clear", "--allow-plaintext-auth"}},
		{"proxy password that is not escaped", []string{"client", "-L", "0:vnc:5900", "--proxy", "http://user:12#4@127.0.0.1:3128", url}, 2, []string{"--proxy", "%23"}},
		{"demo for everybody", []string{"demo", "--listen", "0.0.0.0:0"}, 2, []string{"--listen"}},
		{"pin that is none", []string{"client", "-L", "0:vnc:5900", "--tls-pin", "sha1/x", "wss://127.0.0.1:1"}, 2, []string{"--tls-pin", "sha256/"}},
	} {
		t.Run(m.name, m.check)
	}
}

// TestWrongFiles: a file that is missing, or is not what it should be, is
// named, with what it is for.
func TestWrongFiles(t *testing.T) {
	dir := t.TempDir()
	gone := dir + "/gone"
	junk := writeFile(t, dir, "junk", "this is no certificate\n")
	plain := writeFile(t, dir, "plain", "alice:secret\n")
	cert, other := makeCertificate(t), makeCertificate(t)
	target := []string{"server", "--listen", "127.0.0.1:0", "--target", "127.0.0.1:1"}
	server := func(args ...string) []string { return append(target[:len(target):len(target)], args...) }
	client := func(args ...string) []string {
		return append([]string{"client", "-L", "0:vnc:5900"}, append(args, "wss://127.0.0.1:1")...)
	}
	for _, m := range []mistake{
		{"certificate without key", server("--tls-cert", cert.file), 1, []string{cert.file, "key"}},
		{"missing certificate", server("--tls-cert", gone, "--tls-key", cert.keyFile), 1, []string{"certificate", gone}},
		{"missing key", server("--tls-cert", cert.file, "--tls-key", gone), 1, []string{"key", gone}},
		{"certificate that is none", server("--tls-cert", junk, "--tls-key", cert.keyFile), 1, []string{junk}},
		{"key of another certificate", server("--tls-cert", cert.file, "--tls-key", other.keyFile), 1, []string{other.keyFile, "match"}},
		{"folder in place of a file", server("--users", dir), 1, []string{"--users", dir}},
		{"missing users", server("--users", gone), 1, []string{"--users", gone}},
		{"password that is not hashed", server("--users", plain), 1, []string{plain + ":1", "alice", "bcrypt", "hash-password"}},
		{"missing web folder", server("--web", gone), 1, []string{"--web", gone}},
		{"file in place of the web folder", server("--web", junk), 1, []string{"--web", junk}},
		{"missing CA", client("--tls-ca", gone), 1, []string{"CA", gone}},
		{"CA that is none", client("--tls-ca", junk), 1, []string{junk}},
		{"missing password", client("--user", "alice", "--password-file", gone), 1, []string{"password", gone}},
		{"missing token", client("--token-file", gone), 1, []string{"token", gone}},
	} {
		t.Run(m.name, m.check)
	}
}

// TestBusyPort: whoever has the port keeps it, and the flag is named.
func TestBusyPort(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--target", target, "--allow", target)
	_, port, _ := net.SplitHostPort(s.addr)
	for _, m := range []mistake{
		{"server", []string{"server", "--listen", s.addr, "--target", target}, 1, []string{"--listen", port, "in use"}},
		{"client", []string{"client", "-L", s.addr + ":vnc:5900", s.ws()}, 1, []string{"-L", port, "in use"}},
	} {
		t.Run(m.name, m.check)
	}
	s.serves(t)
}

// TestNoWstunThere: a URL that leads to something else ends the client, which
// says what it found.
func TestNoWstunThere(t *testing.T) {
	web := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return strings.Replace(s.URL, "http", "ws", 1)
	}
	ssh := listen(t, func(c *net.TCPConn) {
		io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1\r\n")
		io.Copy(io.Discard, c)
	})
	echo := echoTarget(t)
	for _, m := range []mistake{
		{"a web page", []string{web(200, "<h1>It works!</h1>")}, 1, []string{"200"}},
		{"a page not found", []string{web(404, "not here")}, 1, []string{"404"}},
		{"an ssh server", []string{"ws://" + ssh}, 1, []string{ssh, "SSH-2.0"}},
		{"an echo", []string{"ws://" + echo}, 1, []string{echo}},
		{"TLS where there is none", []string{strings.Replace(web(200, ""), "ws:", "wss:", 1)}, 1, []string{"HTTP", "hint:", "ws://"}},
	} {
		m.args = append([]string{"client", "-L", "0:vnc:5900"}, m.args...)
		t.Run(m.name, m.check)
	}
}

// TestWrongCertificate: a server that cannot prove who it is gets no session,
// and the client does not go on trying.
func TestWrongCertificate(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--target", target, "--tls-self-signed")
	const pin = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	for _, m := range []mistake{
		{"nobody signed it", []string{s.wss()}, 1, []string{"certificate", "hint:", "--tls-"}},
		{"another CA", []string{"--tls-ca", makeCertificate(t).file, s.wss()}, 1, []string{"certificate", "hint:"}},
		{"wrong pin", []string{"--tls-pin", pin, s.wss()}, 1, []string{"pin", "sha256/"}},
		{"no TLS to a TLS port", []string{s.ws()}, 1, []string{"HTTPS", "hint:"}},
	} {
		m.args = append([]string{"client", "-L", "0:vnc:5900"}, m.args...)
		t.Run(m.name, m.check)
	}
	c := dialWS(t, s.wss())
	if err := exchange(c, 1, 1000); err != nil {
		t.Errorf("the server does not serve any more: %v", err)
	}
}

// usersFile is a file with alice, whose password is "secret".
func usersFile(t testing.TB) string {
	t.Helper()
	var hash bytes.Buffer
	p := pipeline(t, strings.NewReader("secret"), &hash, program(t), "hash-password")
	if code := p.exit(t); code != 0 {
		t.Fatalf("wstun hash-password: exit code %d", code)
	}
	return writeFile(t, t.TempDir(), "users.yaml",
		fmt.Sprintf("- name: alice\n  password: %s\n", strings.TrimSpace(hash.String())))
}

// TestWrongCredentials: the client is told once, and does not try again: that
// would only look like somebody guessing.
func TestWrongCredentials(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--allow", target, "--target", target, "--users", usersFile(t))
	dir := t.TempDir()
	wrong := writeFile(t, dir, "wrong", "guess\n")
	right := writeFile(t, dir, "right", "secret\n")

	var dials atomic.Int32
	front := listen(t, func(c *net.TCPConn) {
		dials.Add(1)
		back, err := net.Dial("tcp", s.addr)
		if err != nil {
			return
		}
		defer back.Close()
		go io.Copy(back, c)
		io.Copy(c, back)
	})
	for _, m := range []mistake{
		{"none", nil, 3, []string{"401", "hint:", "--user"}},
		{"wrong password", []string{"--user", "alice", "--password-file", wrong}, 3, []string{"401", "hint:"}},
		{"unknown user", []string{"--user", "mallory", "--password-file", right}, 3, []string{"401", "hint:"}},
		{"wrong token", []string{"--token-file", wrong}, 3, []string{"401"}},
	} {
		m.args = append(append([]string{"client", "-L", "0:" + target}, m.args...), "ws://"+front)
		t.Run(m.name, func(t *testing.T) {
			before := dials.Load()
			m.check(t)
			if n := dials.Load() - before; n != 1 {
				t.Errorf("the client came %d times, want once", n)
			}
		})
	}
	t.Run("browser", func(t *testing.T) {
		if status, _ := refusedWS(t, s.ws()); status != 401 {
			t.Errorf("status %d, want 401", status)
		}
	})
	t.Run("right", func(t *testing.T) {
		c := startClient(t, "--user", "alice", "--password-file", right, "-L", "0:"+target, s.ws())
		if err := exchange(dial(t, c.local(t, target)), 1, 1000); err != nil {
			t.Error(err)
		}
	})
}

// TestTargetNotAllowed: the user is turned away, and only the server's log says
// which rule would have let him in.
func TestTargetNotAllowed(t *testing.T) {
	target := echoTarget(t)
	forbidden, reached := sinkTarget(t)
	s := startServer(t, "--allow", target, "--target", target)
	rule := "--allow " + forbidden

	t.Run("-W", func(t *testing.T) {
		code, out := run(t, program(t), "client", "-W", forbidden, s.ws())
		if code != 3 || !strings.Contains(out, forbidden) {
			t.Errorf("exit code %d and %q, want 3 and the target", code, out)
		}
		if strings.Contains(out, "--allow") {
			t.Errorf("the client says %q, which is the server's business", out)
		}
	})
	t.Run("-L", func(t *testing.T) {
		c := startClient(t, "-L", "0:"+forbidden, "-L", "0:"+target, s.ws())
		mustBeReset(t, c.local(t, forbidden))
		// The session and its other forward are none the worse.
		if err := exchange(dial(t, c.local(t, target)), 1, 1000); err != nil {
			t.Error(err)
		}
		if strings.Contains(c.output(), "--allow") {
			t.Error("the client's log shows the server's rules")
		}
	})
	s.await(t, rule)
	select {
	case r := <-reached:
		t.Errorf("the target was reached: %+v", r)
	default:
	}
	s.serves(t)
}

// TestSlowLoris: a request that never ends is closed, however steadily it
// comes, and others are served meanwhile.
func TestSlowLoris(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--target", echoTarget(t))
	var conns []net.Conn
	for range 20 {
		c := dial(t, s.addr)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+s.addr+"\r\nX-Slow: ")
		conns = append(conns, c)
	}
	s.serves(t)
	closed := make(chan error, len(conns))
	for _, c := range conns {
		go func() {
			_, err := io.Copy(io.Discard, c)
			closed <- err
		}()
	}
	drip := time.NewTicker(500 * time.Millisecond)
	defer drip.Stop()
	deadline := time.After(patience)
	for left := len(conns); left > 0; {
		select {
		case <-closed:
			left--
		case <-drip.C:
			for _, c := range conns {
				c.Write([]byte("x"))
			}
		case <-deadline:
			t.Fatalf("%d of %d requests without end are still open after %v", left, len(conns), patience)
		}
	}
	s.serves(t)
}
