package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"wstun/internal/line"
	"wstun/internal/netx"
)

func TestForwardReachesTheFarSide(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	io.WriteString(c, "request")
	netx.CloseWrite(c)
	st := (<-f.sessions).grant(t)
	if got, err := io.ReadAll(st); string(got) != "request" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	io.WriteString(st, "answer")
	st.Close()
	if got, err := io.ReadAll(c); string(got) != "answer" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	r.log.Await(t, "relay ended")
}

// freePort returns an address where nobody listens.
func freePort(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestServerThatIsNotThereYetIsWaitedForAndSaidOnce(t *testing.T) {
	addr := freePort(t)
	tries := make(chan struct{}, 100)
	r := newClient(t, &url.URL{Scheme: "ws", Host: addr}, func(c *Config) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			tries <- struct{}{}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}).start(t)
	c := r.dial(t) // made while there is no server: it waits
	io.WriteString(c, "early")
	for range 3 {
		<-tries
	}
	if n := strings.Count(r.log.String(), `level=WARN msg="waiting for the server"`); n != 1 {
		t.Errorf("said %d times", n)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skip(err)
	}
	f := farOn(t, ln, 0)
	t.Cleanup(func() { r.end(nil) }) // before the server's end, which waits for its sessions
	st := (<-f.sessions).grant(t)
	if _, err := io.ReadFull(st, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestConnectionThatWaitsTooLongIsReset(t *testing.T) {
	r := newClient(t, &url.URL{Scheme: "ws", Host: freePort(t)}, func(c *Config) { c.Wait = time.Millisecond }).start(t)
	isReset(t, r.dial(t), "the local connection")
	r.log.Await(t, "not connected to the server")
}

func TestRefusedOpenResetsTheLocalConnectionAndIsLogged(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	s := <-f.sessions
	req, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if req.Network != "tcp" || req.Address != "vnc:5900" {
		t.Errorf("asked for %s %s", req.Network, req.Address)
	}
	req.Refuse(netx.ErrDenied)
	isReset(t, c, "the local connection")
	r.log.Await(t, "the server says: not allowed")
	c = r.dial(t) // and the session lives
	io.WriteString(c, "x")
	io.ReadFull(s.grant(t), make([]byte, 1))
}

func TestLossOfTheSessionResetsItsConnectionsAndANewOneIsMade(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	s := <-f.sessions
	st := s.grant(t)
	io.WriteString(st, "half")
	io.ReadFull(c, make([]byte, 4))
	s.cut()
	isReset(t, c, "the local connection")
	c = r.dial(t)
	io.WriteString(c, "again")
	st = (<-f.sessions).grant(t)
	if _, err := io.ReadFull(st, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	r.log.Await(t, "connection lost")
}

func TestRefusalsBeforeTheFirstSession(t *testing.T) {
	for _, tt := range []struct {
		status, exit int
		hint         string
	}{
		{401, 3, "--token-file"}, {403, 3, ""}, {421, 3, ""},
		{400, 1, ""}, {404, 1, "wstun server"}, {426, 1, "wstun server"}, {200, 1, "wstun server"},
	} {
		f := newFar(t)
		f.say(tt.status, "because of the moon")
		r := newClient(t, f.url, nil)
		err := r.Run()
		var e *Error
		if !errors.As(err, &e) || e.ExitCode() != tt.exit {
			t.Errorf("%d: %#v", tt.status, err)
			continue
		}
		if !strings.Contains(err.Error(), http.StatusText(tt.status)) && !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d: %q", tt.status, err)
		}
		if tt.hint != "" && !strings.Contains(strings.Join(e.Hints(), "\n"), tt.hint) {
			t.Errorf("%d: hints %q", tt.status, e.Hints())
		}
		if _, err := r.local.Dial(t.Context(), "tcp", local); err == nil {
			t.Errorf("%d: it still listens", tt.status)
		}
	}
}

func TestBusyServerIsWaitedFor(t *testing.T) {
	for _, status := range []int{429, 502, 503, 504} {
		f := newFar(t)
		f.say(status, "later")
		r := newClient(t, f.url, nil)
		_, err := r.connect(t.Context())
		var e *Error
		if !errors.As(err, &e) || !e.Temporary {
			t.Errorf("%d: %v", status, err)
		}
		if status == 503 && retryAfter(err) != time.Second {
			t.Errorf("Retry-After is not taken: %v", retryAfter(err))
		}
	}
}

func TestServerThatIsNone(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
			netx.CloseWrite(c)
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	r := newClient(t, &url.URL{Scheme: "ws", Host: ln.Addr().String()}, nil)
	err = r.Run()
	var e *Error
	if !errors.As(err, &e) || e.ExitCode() != 1 || !strings.Contains(err.Error(), "not an HTTP server") || !strings.Contains(err.Error(), "SSH-2.0") {
		t.Errorf("%v", err)
	}
}

func TestAnswerThatBreaksOffIsWaitedFor(t *testing.T) {
	for _, part := range []string{"", "H", "HTTP/1", "HTTP/1.1 10", "HTTP/1.1 101 Swi", "HTTP/1.1 101 Switching Protocols\r\nUpgr"} {
		t.Run(part, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
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
					http.ReadRequest(bufio.NewReader(c))
					io.WriteString(c, part)
					c.Close()
				}
			}()
			r := newClient(t, &url.URL{Scheme: "ws", Host: ln.Addr().String()}, nil).start(t)
			r.log.Await(t, "waiting for the server")
		})
	}
}

func TestOnceConnectedARefusalIsNoEnd(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil).start(t)
	s := <-f.sessions
	r.log.Await(t, "connected")
	f.say(401, "no")
	s.cut()
	r.log.Await(t, "(401)")
	f.say(0, "")
	<-f.sessions
	select {
	case err := <-r.done:
		t.Errorf("Run returned %v", err)
		r.done <- err
	default:
	}
}

func TestGoAwayMovesNewConnectionsAndLeavesTheOldAlone(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	s := <-f.sessions
	st := s.grant(t)
	s.line.GoAway(line.GoAway{Code: line.CodeShutdown, Deadline: time.Minute, Flags: line.NewSession})
	s2 := <-f.sessions
	c2 := r.dial(t)
	io.WriteString(c2, "new")
	if _, err := io.ReadFull(s2.grant(t), make([]byte, 3)); err != nil {
		t.Error(err)
	}
	io.WriteString(c, "old")
	if _, err := io.ReadFull(st, make([]byte, 3)); err != nil {
		t.Error(err)
	}
	io.WriteString(st, "still")
	st.Close()
	if got, err := io.ReadAll(c); string(got) != "still" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	<-s.Done() // the old session ends with its last stream
}

func TestShutdownLetsRunningConnectionsFinish(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	st := (<-f.sessions).grant(t)
	io.WriteString(c, "x")
	io.ReadFull(st, make([]byte, 1))
	done := make(chan error, 1)
	go func() { done <- r.Shutdown(context.Background()) }()
	<-r.soft.Done()
	for { // the listener closes
		if ln, err := r.local.Listen(t.Context(), "tcp", local); err == nil {
			ln.Close()
			break
		}
		runtime.Gosched()
	}
	io.WriteString(st, "last words")
	st.Close()
	if got, err := io.ReadAll(c); string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	err := <-r.done
	if err != nil {
		t.Errorf("Run: %v", err)
	}
	r.done <- err
}

func TestShutdownThatTakesTooLongResetsWhatIsLeft(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	st := (<-f.sessions).grant(t)
	io.WriteString(c, "x")
	io.ReadFull(st, make([]byte, 1))
	cause := errors.New("time is up")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	if err := r.Shutdown(ctx); !errors.Is(err, cause) {
		t.Error(err)
	}
	isReset(t, c, "the local connection")
	isReset(t, st, "the stream")
	err := <-r.done
	if err != nil {
		t.Errorf("Run: %v", err)
	}
	r.done <- err
}

func TestPortThatIsTakenEndsRunBeforeAnythingElse(t *testing.T) {
	f := newFar(t)
	r := newClient(t, f.url, nil)
	ln, err := r.local.Listen(t.Context(), "tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := r.Run(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v", err)
	}
	if len(f.sessions) > 0 {
		t.Error("it has connected")
	}
}

func TestCredentialsAreAskedForAtEachHandshake(t *testing.T) {
	f := newFar(t)
	asked := make(chan struct{}, 10)
	r := newClient(t, f.url, func(c *Config) {
		c.Credentials = func() (string, error) { asked <- struct{}{}; return "Bearer x", nil }
	}).start(t)
	s := <-f.sessions
	r.log.Await(t, "connected")
	s.cut()
	<-f.sessions
	<-asked
	<-asked
}

func TestBackoffGrowsUpToItsBoundAndHeedsTheServer(t *testing.T) {
	for range 200 {
		var b backoff
		limit := float64(firstPause)
		for i := range 40 {
			if d := b.next(0); d < 0 || float64(d) > limit {
				t.Fatalf("pause %d is %v, at most %v", i, d, time.Duration(limit))
			}
			limit = min(limit*1.7, float64(maxPause))
		}
		if d := b.next(time.Minute); d != time.Minute {
			t.Fatalf("the server asked for a minute, got %v", d)
		}
	}
}

// stdio runs Stdio with in, and returns what it wrote and returned.
func runStdio(r *running, in io.Reader) (out func() (string, error)) {
	var b bytes.Buffer
	done := make(chan error, 1)
	go func() {
		done <- r.Stdio(context.Background(), "tcp", "db1:22", io.NopCloser(in), writeCloser{&b})
	}()
	return func() (string, error) {
		err := <-done
		return b.String(), err
	}
}

type writeCloser struct{ io.Writer }

func (writeCloser) Close() error { return nil }

func TestStdioEndsWellOnlyWhenEverythingIsAcknowledged(t *testing.T) {
	f := newFar(t)
	out := runStdio(newClient(t, f.url, nil), strings.NewReader("request"))
	s := <-f.sessions
	st := s.grant(t)
	if got, err := io.ReadAll(st); string(got) != "request" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	io.WriteString(st, "answer")
	st.Close()
	go func() { // the server's part of the end
		<-s.Done()
	}()
	if got, err := out(); got != "answer" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// As ssh does when it is used as a ProxyCommand: it waits for us to end first.
func TestStdioDoesNotWaitForInputWhenTheFarEndHasEnded(t *testing.T) {
	f := newFar(t)
	in, keyboard := io.Pipe() // nobody types
	defer keyboard.Close()
	out := runStdio(newClient(t, f.url, nil), in)
	st := (<-f.sessions).grant(t)
	io.WriteString(st, "bye")
	st.Close()
	if got, err := out(); got != "bye" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestStdioCarriesMegabytesBothWays(t *testing.T) {
	f := newFar(t)
	want := make([]byte, 5<<20)
	rand.Read(want)
	out := runStdio(newClient(t, f.url, nil), bytes.NewReader(want))
	st := (<-f.sessions).grant(t)
	io.Copy(struct{ io.Writer }{st}, struct{ io.Reader }{st})
	st.Close()
	if got, err := out(); got != string(want) || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestStdioWithoutASessionSaysWhy(t *testing.T) {
	f := newFar(t)
	f.say(403, "pages only")
	_, err := runStdio(newClient(t, f.url, nil), strings.NewReader(""))()
	var e *Error
	if !errors.As(err, &e) || e.ExitCode() != 3 {
		t.Errorf("%v", err)
	}
}

func TestStdioThatIsNotTakenToItsEndFails(t *testing.T) {
	for name, end := range map[string]func(*farSession, net.Conn){
		"a reset":        func(_ *farSession, st net.Conn) { netx.Abort(st, nil) },
		"a lost session": func(s *farSession, _ net.Conn) { s.cut() },
		"an early end of the server": func(s *farSession, st net.Conn) {
			io.ReadAll(st)
			netx.CloseWrite(st)
			s.cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFar(t)
			out := runStdio(newClient(t, f.url, nil), strings.NewReader("request"))
			s := <-f.sessions
			st := s.grant(t)
			io.WriteString(st, "half")
			end(s, st)
			if got, err := out(); err == nil {
				t.Errorf("it says that all went well, with %q", got)
			}
		})
	}
}

func TestStdioThatIsRefusedExitsWith3(t *testing.T) {
	f := newFar(t)
	out := runStdio(newClient(t, f.url, nil), strings.NewReader(""))
	s := <-f.sessions
	req, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req.Refuse(netx.ErrDenied)
	_, err = out()
	var e *Error
	if !errors.As(err, &e) || e.ExitCode() != 3 || !strings.Contains(err.Error(), "db1:22") || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("%v", err)
	}
}
