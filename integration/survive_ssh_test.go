package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSurviveSSH: a login and a running scp are not ended by what ends the
// WebSocket under them, through a forward and as ssh's ProxyCommand.
func TestSurviveSSH(t *testing.T) {
	needs(t, "sshd", "ssh", "scp", "ssh-keygen")
	dir := t.TempDir()
	content := noiseBytes(31, 64<<20)
	file := filepath.Join(dir, "content")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	digest := drain(bytes.NewReader(content)).digest
	for _, tt := range ways {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sshd := startSSHD(t)
			// ssh ends its ProxyCommand with SIGHUP, perhaps before that has told
			// the server, which then keeps the session.
			s := startServer(t, "--allow", sshd.addr)
			w := tt.lead(t, s)
			users := []*sshUser{forwardUser(t, w, sshd), proxyCommandUser(t, w, sshd)}
			for i, u := range users {
				u.copy(t, sshd, file, i == 0)
			}
			for i := range tt.cuts {
				for _, u := range users {
					u.works(t, 2*i)
					u.copied(t, int64(len(content))*int64(i+1)/int64(tt.cuts+2))
				}
				w.cut()
				for _, u := range users {
					u.works(t, 2*i+1)
				}
				for _, u := range users {
					u.resumed(t, i+1)
				}
			}
			for _, u := range users {
				u.works(t, 2*tt.cuts)
				u.finish(t, digest)
			}
		})
	}
}

// An sshUser has a shell open and copies a file meanwhile.
type sshUser struct {
	name    string
	options []string // of ssh and scp
	shell   *console
	pid     string // of the shell, at the far end
	scp     *process
	dest    string     // of the copy
	logs    []*process // where the tunnels say what happens to them
}

// forwardUser goes through one client with -L.
func forwardUser(t testing.TB, w *way, sshd *sshServer) *sshUser {
	t.Helper()
	c := startClient(t, append(w.args, "-L", "0:"+sshd.addr, w.url)...)
	port := portOf(t, c.local(t, sshd.addr))
	u := &sshUser{name: "-L", logs: []*process{c.process}}
	u.login(t, sshd, append([]string{"-o", "Port=" + port}, sshd.options("none")...))
	return u
}

// proxyCommandUser has a client with -W under each program.
func proxyCommandUser(t testing.TB, w *way, sshd *sshServer) *sshUser {
	t.Helper()
	command := append([]string{program(t), "client"}, w.args...)
	u := &sshUser{name: "-W"}
	u.login(t, sshd, sshd.options(strings.Join(append(command, "-W", "%h:%p", w.url), " ")))
	u.logs = []*process{u.shell.process} // ssh's stderr is its ProxyCommand's too
	return u
}

func (u *sshUser) login(t testing.TB, sshd *sshServer, options []string) {
	t.Helper()
	u.options = options
	u.shell = startConsole(t, "ssh", append(options, "-tt", sshd.host, "exec sh")...)
	u.pid = u.works(t, -1)
}

// scpRate has 64 MiB take eight seconds at least, in Kbit/s.
const scpRate = "64000"

// copy begins to copy a file to the far end or from there.
func (u *sshUser) copy(t testing.TB, sshd *sshServer, file string, there bool) {
	t.Helper()
	u.dest = filepath.Join(t.TempDir(), "copy")
	from, to := sshd.host+":"+file, u.dest
	if there {
		from, to = file, sshd.host+":"+u.dest
	}
	u.scp = start(t, "scp", append(u.options, "-l", scpRate, from, to)...)
	if u.logs[0] == u.shell.process {
		u.logs = append(u.logs, u.scp)
	}
}

var answerPattern = regexp.MustCompile(`answer-\d+-(\d+)`)

// works types something into the shell, which the terminal shows as well, and
// waits for the answer. It must be the shell of before.
func (u *sshUser) works(t testing.TB, n int) (pid string) {
	t.Helper()
	u.shell.say(t, fmt.Sprintf("echo answer-$((%d + 100))-$$", n))
	pid = capture(t, answerPattern, u.shell.await(t, fmt.Sprintf("answer-%d-", n+100)))
	if u.pid != "" && pid != u.pid {
		t.Fatalf("%s: shell %s answers, it was %s", u.name, pid, u.pid)
	}
	return pid
}

// copied waits until so much of the copy is there, but not all.
func (u *sshUser) copied(t testing.TB, n int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s: %d bytes are copied", u.name, n), func() bool {
		info, err := os.Stat(u.dest)
		return err == nil && info.Size() >= n
	})
	u.copies(t)
}

// copies checks that scp is not over: otherwise what is done to it proves nothing.
func (u *sshUser) copies(t testing.TB) {
	t.Helper()
	select {
	case <-u.scp.done:
		t.Fatalf("%s: scp is over (exit code %d)", u.name, u.scp.code)
	default:
	}
}

// resumed waits until each tunnel has been resumed n times.
func (u *sshUser) resumed(t testing.TB, n int) {
	t.Helper()
	for _, p := range u.logs {
		resumed(t, p, n)
	}
}

func (u *sshUser) finish(t testing.TB, digest string) {
	t.Helper()
	if code := u.scp.exit(t); code != 0 {
		t.Errorf("%s: scp: exit code %d", u.name, code)
	}
	got, err := os.Open(u.dest)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if r := drain(got); r.digest != digest {
		t.Errorf("%s: scp copied %d bytes, digest %.8s, want %.8s", u.name, r.n, r.digest, digest)
	}
	u.shell.say(t, "exit 7")
	if code := u.shell.exit(t); code != 7 {
		t.Errorf("%s: ssh: exit code %d, want 7, the shell's", u.name, code)
	}
	for _, p := range u.logs {
		neverEnds(t, p)
	}
}
