package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"wstun/internal/access"
	"wstun/internal/line"
	"wstun/internal/netx/netxtest"
	"wstun/internal/wsconn"
	"wstun/mux"
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

// A falling is a carrier whose writes stop arriving behind the first message
// that begins with its byte.
type falling struct {
	*wsconn.Conn
	behind byte
	fallen *atomic.Bool
}

const (
	helloMessage = 0x02
	closeFrame   = 0x14
)

func (f *falling) WriteMessages(msgs ...[]byte) error {
	for _, m := range msgs {
		if f.fallen.Load() {
			return nil
		}
		if m[0] == f.behind {
			f.fallen.Store(true)
		}
		if err := f.Conn.WriteMessages(m); err != nil {
			return err
		}
	}
	return nil
}

// fall makes a line whose first carrier falls behind a byte. The later ones,
// which it asks for when back is closed, do not; nil: it gets none.
func (s *site) fall(t testing.TB, behind byte, back <-chan struct{}) (*line.Conn, *falling) {
	t.Helper()
	dial := func(ctx context.Context) (*wsconn.Conn, error) {
		return wsconn.Dial(ctx, "ws://"+s.addr, wsconn.DialOptions{Subprotocol: "wstun.v1"})
	}
	ws, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := &falling{ws, behind, new(atomic.Bool)}
	l, err := line.Dial(t.Context(), f, line.Hello{}, line.Config{Redial: func(ctx context.Context, alive func()) (line.Carrier, error) {
		select {
		case <-back:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return dial(ctx)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Abort(line.CodeAborted, nil)
		l.Abort(line.CodeAborted, nil)
		l.Wait()
	})
	return l, f
}

// closing is a session that the server has closed in order, of which the client,
// whose connection breaks just then, does not know.
func (s *site) closing(t testing.TB, back <-chan struct{}) *line.Conn {
	t.Helper()
	l, f := s.fall(t, closeFrame, back)
	m, err := mux.Client(l, mux.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.log.Await(t, "session opened")
	l.CloseWrite()
	s.log.Await(t, "session closed")
	t.Cleanup(func() { m.Close() })
	f.Abort(nil)
	return l
}

// What happens to a session that is closed is of interest to nobody, but to a
// client that was cut off meanwhile.
func TestNothingIsLoggedOfASessionBehindItsClose(t *testing.T) {
	s := serve(t, Config{ResumeWindow: time.Minute}, access.Front{})
	back := make(chan struct{})
	l := s.closing(t, back)
	close(back)
	if err := l.Drained(t.Context()); err != nil {
		t.Error(err)
	}
	l.Close()
	l.Wait()
	for _, said := range []string{"session detached", "session resumed", "session moved", "session lost"} {
		if strings.Contains(s.log.String(), said) {
			t.Errorf("it says %q", said)
		}
	}
}

func TestStopDoesNotWaitForTheClientOfAClosedSession(t *testing.T) {
	s := serve(t, Config{ResumeWindow: time.Hour}, access.Front{})
	s.closing(t, nil)
	start := time.Now()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 4*time.Second { // there is a second for a CLOSE
		t.Errorf("it took %v", took)
	}
}

func TestLogSaysWhoCameBackOnceAndHowLongASessionIsKept(t *testing.T) {
	s := serve(t, Config{ResumeWindow: 90 * time.Second}, access.Front{})
	tun, _, _ := s.streamTo(t, s.listen(t, target))
	tun.ws.Abort(nil)
	<-tun.resumed
	s.log.Await(t, "session resumed")
	detached, resumed := s.line(t, "session detached"), s.line(t, "session resumed")
	if !strings.Contains(detached, `"kept for"=1m30s`) {
		t.Errorf("it says %s", detached)
	}
	if n := strings.Count(resumed, "from="); n != 1 {
		t.Errorf("%d times from=: %s", n, resumed)
	}
}

// A session of whose client nothing came is not kept for the whole window, and
// that is what the log says.
func TestLogSaysThatASessionWithoutAClientIsKeptForHalfAMinute(t *testing.T) {
	s := serve(t, Config{ResumeWindow: time.Hour}, access.Front{})
	_, f := s.fall(t, helloMessage, nil)
	f.Abort(nil)
	if said := s.line(t, "session detached"); !strings.Contains(said, `"kept for"=30s`) {
		t.Errorf("it says %s", said)
	}
}

// line waits for the first line of the log with text.
func (s *site) line(t testing.TB, text string) string {
	t.Helper()
	s.log.Await(t, text)
	for l := range strings.Lines(s.log.String()) {
		if strings.Contains(l, text) {
			return l
		}
	}
	panic("not reached")
}
