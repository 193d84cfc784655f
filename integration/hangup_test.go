package integration

import (
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
)

// A closed terminal ends the client in order: the server does not keep its
// session for it, and local connections see a reset.
func TestTerminalIsClosed(t *testing.T) {
	// Where the tests run under nohup the program would ignore the signal too.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	target := echoTarget(t)
	s := startServer(t, "--allow", target)
	c := startClient(t, "-L", "127.0.0.1:0:"+target, s.ws())
	conn := dial(t, c.local(t, target))
	if err := exchange(conn, 1, 1000); err != nil {
		t.Fatal(err)
	}
	c.cmd.Process.Signal(syscall.SIGHUP)
	awaitReset(t, conn)
	s.await(t, "session closed")
	if code := c.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// `wstun client -W … | head -1`: the target learns that nobody reads, though
// standard input goes on.
func TestReaderOfStandardOutputIsGone(t *testing.T) {
	ends := make(chan error, 1)
	target := listen(t, func(conn *net.TCPConn) {
		var err error
		for err == nil {
			_, err = conn.Write(make([]byte, 64<<10))
		}
		ends <- err
	})
	s := startServer(t, "--allow", target)
	in, keepOpen, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer keepOpen.Close()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program(t), "client", "-W", target, s.ws())
	cmd.Stdin, cmd.Stdout = in, w
	p := startCommand(t, cmd)
	in.Close()
	w.Close()
	if _, err := io.ReadFull(out, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if code := p.exit(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	p.await(t, "nobody reads standard output")
	if err := receive(t, ends, "the end of the target's connection"); err == nil {
		t.Error("the target saw an end in order")
	}
	s.await(t, "session closed")
}
