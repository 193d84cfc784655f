package integration

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The files that a user makes with hash-password and token, used on both ends.
func TestUsersAsTheToolsMakeThem(t *testing.T) {
	target := echoTarget(t)
	dir := t.TempDir()
	var hash strings.Builder
	if p := pipeline(t, strings.NewReader("correct horse\n"), &hash, program(t), "hash-password"); p.exit(t) != 0 {
		t.Fatal(p.output())
	}
	code, made := run(t, program(t), "token", "laptop")
	if code != 0 {
		t.Fatal(made)
	}
	token, entry := "", ""
	for l := range strings.Lines(made) {
		if f := strings.Fields(l); len(f) > 0 && strings.HasPrefix(f[len(f)-1], "wstun_") {
			token = f[len(f)-1]
		}
		if strings.Contains(l, "sha256:") {
			entry = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(l), "-"))
		}
	}
	if token == "" || entry == "" {
		t.Fatalf("no token in %q", made)
	}
	sum := entry[strings.Index(entry, "sha256:"):]
	sum = strings.Trim(strings.Fields(sum)[1], "}, ")
	yaml := "- name: alice\n  password: " + strings.TrimSpace(hash.String()) + "\n- name: bob\n  tokens:\n    - {name: laptop, sha256: " + sum + "}\n"
	s := startServer(t, "--allow", target, "--target", target, "--users", writeFile(t, dir, "users.yaml", yaml), "--tls-self-signed")

	password := writeFile(t, dir, "password", "correct horse\n")
	tokenFile := writeFile(t, dir, "token", token+"\n")
	for name, who := range map[string][]string{
		"alice": {"--user", "alice", "--password-file", password},
		"bob":   {"--token-file", tokenFile},
	} {
		t.Run(name, func(t *testing.T) {
			c := startClient(t, append([]string{"-L", "127.0.0.1:0:" + target, "--tls-insecure", s.wss()}, who...)...)
			c.await(t, "connected", "user="+name)
			roundTrip(t, "tcp", c.local(t, target))
			s.await(t, "relay ended", "user="+name, "to="+target)
		})
	}
	for _, bad := range []string{"correct horse", token, sum} {
		if strings.Contains(s.output(), bad) {
			t.Errorf("the server's log has a secret")
		}
	}
}

// A browser's ways to say who it is: Basic, and a token as a subprotocol.
func TestBrowserCredentials(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--target", target, "--users", usersFile(t))
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret"))
	c := dialWS(t, s.ws(), withHeader("Authorization", basic))
	if err := exchange(c, 1, 1000); err != nil {
		t.Error(err)
	}
	for name, header := range map[string][2]string{
		"none":           {"X-Nothing", "x"},
		"wrong password": {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:Secret"))},
		"unknown user":   {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("mallory:secret"))},
		"wrong token":    {"Sec-WebSocket-Protocol", "binary, bearer." + base64.RawURLEncoding.EncodeToString([]byte("wstun_x"))},
	} {
		if status, _ := refusedWS(t, s.ws(), withHeader(header[0], header[1])); status != 401 {
			t.Errorf("%s: %d", name, status)
		}
	}
}

func TestJSONLogIsOneObjectALine(t *testing.T) {
	target := echoTarget(t)
	cmd := exec.Command(program(t), "server", "--listen", "127.0.0.1:0", "--target", target, "--log-format", "json")
	p := startCommand(t, cmd)
	endsInOrder(t, p)
	var l struct{ Msg, Addr string }
	if err := json.Unmarshal([]byte(p.await(t, `"listening"`)), &l); err != nil || l.Addr == "" {
		t.Fatalf("%+v, %v", l, err)
	}
	c := dialWS(t, "ws://"+l.Addr)
	if err := exchange(c, 1, 1234); err != nil {
		t.Fatal(err)
	}
	c.closeWith(t, 1000)
	var ended struct {
		Msg, User, From, To, Why, Via string
		Sent, Received                int
	}
	if err := json.Unmarshal([]byte(p.await(t, `"relay ended"`)), &ended); err != nil {
		t.Fatal(err)
	}
	if ended.User != "anonymous" || ended.To != target || ended.Sent != 1234 || ended.Received != 1234 || ended.Via != "browser" {
		t.Errorf("%+v", ended)
	}
}

func TestStoppingLetsConnectionsEnd(t *testing.T) {
	target := echoTarget(t)
	for _, tt := range []struct {
		name    string
		signals int
		want    bool // the connection may end by itself
	}{{"one signal", 1, true}, {"two signals", 2, false}} {
		t.Run(tt.name, func(t *testing.T) {
			s := startServer(t, "--target", target)
			c := dialWS(t, s.ws())
			if err := exchange(c, 1, 1000); err != nil {
				t.Fatal(err)
			}
			for range tt.signals {
				s.cmd.Process.Signal(syscall.SIGTERM)
				s.await(t, "stopping")
			}
			if tt.want {
				if err := exchange(c, 2, 1000); err != nil {
					t.Errorf("cut while draining: %v", err)
				}
				c.closeWith(t, 1000)
			}
			if code := s.exit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestDemoChecksItself(t *testing.T) {
	code, out := run(t, program(t), "demo", "--once")
	if code != 0 || strings.Count(out, "  ok  ") != 2 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if code, out := run(t, program(t), "demo", "--onec"); code != 2 || !strings.Contains(out, "--once") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
