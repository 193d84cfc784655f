package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"wstun/internal/impair"
)

// A session is resumed with the credentials of now, and by the user that made
// it alone.
func TestOnlyTheSameUserGetsASessionBack(t *testing.T) {
	tokens := map[string]string{"alice": "wstun_alice0123456789abcdef0123456789", "bob": "wstun_bob0123456789abcdef012345678901", "nobody": "wstun_nobody"}
	var users strings.Builder
	for _, name := range []string{"alice", "bob"} {
		fmt.Fprintf(&users, "- name: %s\n  tokens:\n    - {name: laptop, sha256: %x}\n", name, sha256.Sum256([]byte(tokens[name])))
	}
	for _, tt := range []struct {
		name, whose string
		says        []string
	}{
		{"the same user", "alice", []string{"resumed after", "nothing lost"}},
		{"nobody for a while", "nobody", []string{"cannot resume yet", "401"}},
		{"another user", "bob", []string{"session lost", "does not know the session"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, target := t.TempDir(), echoTarget(t)
			s := startServer(t, "--drain-timeout", "1s", "--allow", target, "--users", writeFile(t, dir, "users.yaml", users.String()))
			r := impair.Listen(t, s.addr)
			use := func(whose string) string { return writeFile(t, dir, "token", tokens[whose]+"\n") }
			c := startClient(t, "-L", "127.0.0.1:0:"+target, "--token-file", use("alice"), "ws://"+r.Addr())
			conn := dial(t, c.local(t, target))
			if err := exchange(conn, 1, 1000); err != nil {
				t.Fatal(err)
			}
			use(tt.whose)
			r.Cut(impair.Reset)
			c.await(t, tt.says...)
			if tt.whose == "bob" {
				awaitReset(t, conn)
				c.await(t, "connected", "user=bob")
				return
			}
			use("alice")
			if err := exchange(conn, 2, 1000); err != nil {
				t.Error(err)
			}
		})
	}
}

// The server says what it keeps, and for how long.
func TestServerSaysWhichSessionsWaitForTheirClient(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--allow", target, "--resume-window", "90s", "--memory", "64M", "--max-detached", "3")
	r := impair.Listen(t, s.addr)
	c := startClient(t, "-L", "127.0.0.1:0:"+target, "ws://"+r.Addr())
	conn := dial(t, c.local(t, target))
	if err := exchange(conn, 1, 100_000); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(s.await(t, "session opened"))
	id = id[strings.Index(id, "session="):][:len("session=")+8]
	r.Refuse(true)
	r.Cut(impair.Reset)
	s.await(t, "session detached", id, "1m30s")
	r.Refuse(false)
	s.await(t, "session resumed", id, "from=127.0.0.1:", "after=")
	if err := exchange(conn, 2, 100_000); err != nil {
		t.Error(err)
	}
}

func TestSizesAndTimesThatMakeNoSense(t *testing.T) {
	for _, tt := range []struct{ flag, value, says string }{
		{"--memory", "lots", "write 256M or 2G"},
		{"--memory", "1K", "too little"},
		{"--resume-window", "soon", "write 30s, 5m or 1h30m"},
		{"--resume-window", "500ms", "too short; write 1s or more, or 0"},
		{"--resume-window", "1ns", "too short; write 1s or more, or 0"},
		{"--max-detached", "-1", "not a number"},
	} {
		code, out := run(t, program(t), "server", tt.flag+"="+tt.value)
		if code != 2 || !strings.Contains(out, tt.says) || !strings.Contains(out, tt.flag) {
			t.Errorf("%s %s: exit code %d and %q", tt.flag, tt.value, code, out)
		}
	}
	if _, err := os.Stat("/proc/meminfo"); err == nil {
		if _, out := run(t, program(t), "server", "--help"); !strings.Contains(out, "--memory SIZE") {
			t.Errorf("help: %q", out)
		}
	}
}

// The session that waits for the next connection has no time limit.
func TestFirstConnectionWithoutMuxMayComeLate(t *testing.T) {
	t.Parallel()
	target := echoTarget(t)
	s := startServer(t, "--allow", target)
	c := startClient(t, "--no-mux", "-L", "127.0.0.1:0:"+target, s.ws())
	<-time.After(12 * time.Second) // longer than an OPEN may take behind a SYN
	if err := exchange(dial(t, c.local(t, target)), 1, 1000); err != nil {
		t.Error(err)
	}
}

// The path is away for 8 s just as the session closes: all has arrived, and
// `wstun client -W` ended with an error, since it was never told so.
func TestPathIsAwayWhileTheSessionClosesAndTheUserSeesNoError(t *testing.T) {
	t.Parallel()
	const away = 8 * time.Second
	answer := noiseBytes(3, 10_000)
	target := sourceTarget(t, func() io.Reader { return bytes.NewReader(answer) })
	s := startServer(t, "--allow", target)
	play := func(t testing.TB, r *impair.Relay, during func()) {
		var got bytes.Buffer
		cmd := exec.Command(program(t), "client", "-W", target, "ws://"+r.Addr())
		cmd.Stdout = &got
		c := startCommand(t, cmd)
		during()
		if code := c.exit(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
		sameBytes(t, "the answer", got.Bytes(), answer)
	}
	whole := impair.Listen(t, s.addr)
	play(t, whole, func() {})
	whole.Await("all is over", func() bool { return whole.Open() == 0 })
	n := whole.Bytes(impair.ToClient)
	for _, how := range []impair.Ending{impair.Reset, impair.Silence} {
		for _, missing := range []int64{0, 10, 20, 35, 70, 150, 400} {
			t.Run(fmt.Sprintf("told %t, %d bytes before the end", how == impair.Reset, missing), func(t *testing.T) {
				t.Parallel()
				r := impair.Listen(t, s.addr)
				r.CutAt(impair.ToClient, n-missing, how)
				for range 3 { // until Refuse
					r.CutAt(impair.ToServer, 0, impair.Reset)
				}
				play(t, r, func() {
					r.Await("the cut, or an end that came before", func() bool {
						return r.Cuts() > 0 || r.Conns() > 0 && r.Open() == 0
					})
					r.Refuse(true)
					<-time.After(away)
					r.Refuse(false)
				})
			})
		}
	}
}
