package server

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"wstun/internal/access"
	"wstun/internal/netx/netxtest"
)

// talk sends text from a to b and checks that it comes.
func talk(t testing.TB, a io.Writer, b io.Reader, text string) {
	t.Helper()
	buf := make([]byte, len(text))
	if _, err := io.WriteString(a, text); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, buf); err != nil || string(buf) != text {
		t.Fatalf("got %q, %v, want %q", buf, err, text)
	}
}

// streamTo opens a stream of a session of its own.
func (s *site) streamTo(t testing.TB, conns <-chan *netxtest.Conn) (tun *tunnel, st io.ReadWriteCloser, c *netxtest.Conn) {
	t.Helper()
	tun, err := s.tunnel(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tun.Dial(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	c = <-conns
	talk(t, conn, c, "question")
	return tun, conn, c
}

func TestStreamOutlivesItsWebSocket(t *testing.T) {
	s := serve(t, Config{ResumeWindow: time.Minute}, access.Front{})
	tun, st, c := s.streamTo(t, s.listen(t, target))
	defer st.Close()
	for range 3 {
		tun.ws.Abort(nil)
		<-tun.resumed
		talk(t, c, st, "answer")
		talk(t, st, c, "another question")
	}
	s.log.Await(t, "session detached")
	s.log.Await(t, "session resumed")
	c.Close()
	if _, err := st.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the target's end: %v", err)
	}
}

func TestSessionThatDoesNotComeBackIsGivenUpWithItsTargets(t *testing.T) {
	s := serve(t, Config{ResumeWindow: time.Second}, access.Front{})
	tun, st, c := s.streamTo(t, s.listen(t, target))
	defer st.Close()
	tun.line.Abort(1, nil) // says so…
	tun.ws.Drop()          // … but not to the server
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target sees %v", err)
	}
	s.log.Await(t, "session lost")
}

func TestDrainingServerTakesItsSessionsBack(t *testing.T) {
	s := serve(t, Config{ResumeWindow: time.Minute}, access.Front{})
	tun, st, c := s.streamTo(t, s.listen(t, target))
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	<-tun.away
	tun.ws.Abort(nil)
	<-tun.resumed
	talk(t, c, st, "the rest")
	if g := <-tun.away; g.Flags != 1 {
		t.Errorf("the second connection is told %+v", g)
	}
	st.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the target sees %v", err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDrainDoesNotWaitForASessionWithoutAConnectionForEver(t *testing.T) {
	s := serve(t, Config{ResumeWindow: time.Hour}, access.Front{})
	tun, st, c := s.streamTo(t, s.listen(t, target))
	tun.line.Abort(1, nil)
	tun.ws.Drop()
	st.Close()
	s.log.Await(t, "session detached")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("time is up"))
	if err := s.Shutdown(ctx); err == nil || err.Error() != "time is up" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target sees %v", err)
	}
}
