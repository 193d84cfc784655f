package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// TestSSH: ssh and scp reach a real sshd with wstun as their ProxyCommand.
func TestSSH(t *testing.T) {
	sshd := startSSHD(t)
	s := startServer(t, "--allow", sshd.addr)
	options := sshd.options(fmt.Sprintf("%s client -W %%h:%%p %s", program(t), s.ws()))
	dir := t.TempDir()
	want := noiseBytes(22, 64<<20)
	local := filepath.Join(dir, "local")
	if err := os.WriteFile(local, want, 0o600); err != nil {
		t.Fatal(err)
	}
	digest := drain(bytes.NewReader(want)).digest

	code, out := run(t, "ssh", append(options, sshd.host, "echo $((6 * 7)); exit 7")...)
	if !strings.Contains(out, "42\n") || code != 7 {
		t.Errorf("a command over ssh: exit code %d and %q, want 7 and 42", code, out)
	}

	remote := filepath.Join(dir, "remote")
	code, out = run(t, "scp", append(options, local, sshd.host+":"+remote)...)
	if code != 0 {
		t.Fatalf("scp there: exit code %d: %s", code, out)
	}
	code, out = run(t, "ssh", append(options, sshd.host, "sha256sum "+remote)...)
	if code != 0 || !strings.Contains(out, digest) {
		t.Errorf("sha256sum over ssh: exit code %d and %q, want %s", code, out, digest)
	}
	back := filepath.Join(dir, "back")
	code, out = run(t, "scp", append(options, sshd.host+":"+remote, back)...)
	if code != 0 {
		t.Fatalf("scp back: exit code %d: %s", code, out)
	}
	got, err := os.ReadFile(back)
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "what scp brought back", got, want)
}

// TestSSHLogoutIsToldToTheServer: when ssh has ended nobody comes back for its
// session, so the server does not keep it, nor the connection to sshd.
func TestSSHLogoutIsToldToTheServer(t *testing.T) {
	sshd := startSSHD(t)
	s := startServer(t, "--allow", sshd.addr)
	options := sshd.options(fmt.Sprintf("%s client -W %%h:%%p %s", program(t), s.ws()))
	for i := range 5 {
		if code, out := run(t, "ssh", append(options, sshd.host, "true")...); code != 0 {
			t.Fatalf("ssh: exit code %d: %s", code, out)
		}
		s.awaitN(t, i+1, "session closed")
	}
}

// TestSSHRefused: where the server does not allow the target, ssh ends at once
// and its user reads why.
func TestSSHRefused(t *testing.T) {
	needs(t, "ssh")
	s := startServer(t, "--allow", "127.0.0.1:1")
	proxy := fmt.Sprintf("%s client -W %%h:%%p %s", program(t), s.ws())
	code, out := run(t, "ssh", "-F", "none", "-o", "ProxyCommand="+proxy, "-p", "2", "127.0.0.1", "true")
	if code != 255 || !strings.Contains(out, "127.0.0.1:2") {
		t.Errorf("ssh: exit code %d and %q, want 255 and the target that is not allowed", code, out)
	}
}

// An sshServer is a real sshd with a key of its own, for the tester alone.
type sshServer struct {
	addr string
	host string // user@host
	port string
	dir  string
}

func startSSHD(t testing.TB) *sshServer {
	t.Helper()
	needs(t, "sshd", "ssh", "scp", "ssh-keygen")
	if os.Geteuid() == 0 {
		// As root sshd wants its empty folder, which only its service makes.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	who, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		if code, out := run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)); code != 0 {
			t.Fatal(out)
		}
	}
	port := freePort(t)
	config := writeFile(t, dir, "sshd_config", strings.Join([]string{
		"ListenAddress " + loopback(port),
		"HostKey " + dir + "/host",
		"AuthorizedKeysFile " + dir + "/user.pub",
		"PidFile none",
		"StrictModes no", // the keys lie under /tmp
		"UsePAM no",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin yes",
		"Subsystem sftp internal-sftp",
	}, "\n")+"\n")
	// sshd starts itself anew for each connection, by its full path.
	p := start(t, lookPath(t, "sshd"), "-D", "-e", "-f", config)
	p.await(t, "Server listening on 127.0.0.1")
	return &sshServer{loopback(port), who.Username + "@127.0.0.1", fmt.Sprint(port), dir}
}

// options are those of ssh and scp alike: they use what is given here and
// nothing that the tester has in ~/.ssh.
func (s *sshServer) options(proxyCommand string) []string {
	var list []string
	for _, option := range []string{
		"ProxyCommand=" + proxyCommand,
		"Port=" + s.port,
		"IdentityFile=" + s.dir + "/user",
		"IdentitiesOnly=yes",
		"IdentityAgent=none",
		"UserKnownHostsFile=" + s.dir + "/known_hosts",
		"GlobalKnownHostsFile=/dev/null",
		"StrictHostKeyChecking=accept-new",
		"BatchMode=yes",
	} {
		list = append(list, "-o", option)
	}
	return append([]string{"-F", "none"}, list...)
}
