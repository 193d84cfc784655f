package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"wstun/internal/access"
	"wstun/internal/line"
	"wstun/internal/netx"
	"wstun/internal/wsconn"
)

func dialTCP(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestTextAndBinaryBothCarryBytesAndBordersMeanNothing(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	w := s.browser(t, "/", nil)
	large := strings.Repeat("x", 200_000)
	w.send(fin|opBinary, "bin,")
	w.send(fin|opText, "text,")
	w.send(fin|opText, "\xff\xfe,") // no UTF-8, and bytes all the same
	w.send(opText, "frag")
	w.send(opCont, "")
	w.send(fin|opPing, "in between")
	w.send(opCont, "men")
	w.send(fin|opCont, "ted,")
	w.send(fin|opBinary, "")
	w.send(opBinary, large)
	w.send(fin|opCont, ".")
	w.sendClose(1000, "")
	got, err := io.ReadAll(<-conns)
	if want := "bin,text,\xff\xfe,fragmented," + large + "."; string(got) != want || err != nil {
		t.Errorf("%d bytes %.60q, %v", len(got), got, err)
	}
	if op, p, err := w.next(); op != opPong || string(p) != "in between" {
		t.Errorf("frame %d %q, %v", op, p, err)
	}
}

func TestTargetThatClosesIsAClose1000BehindAllItsBytes(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	for _, n := range []int{0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3 << 20} {
		w := s.browser(t, "/", nil)
		want := make([]byte, n)
		rand.Read(want)
		go func() {
			c := <-conns
			c.Write(want)
			c.Close()
		}()
		got, code, reason := w.rest(t)
		if !bytes.Equal(got, want) || code != 1000 || reason != "the target closed the connection" {
			t.Errorf("%d bytes of %d, %d %q", len(got), n, code, reason)
		}
		w.sendClose(1000, "")
		if _, err := w.br.ReadByte(); err != io.EOF {
			t.Errorf("behind both Close frames: %v", err)
		}
	}
}

func TestFailureOfTheTargetIsAClose1011ThatNamesNoAddress(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	if _, code, reason := s.browser(t, "/", nil).rest(t); code != 1011 || reason != "the target refused the connection" {
		t.Errorf("refused: %d %q", code, reason)
	}
	conns := s.listen(t, target)
	w := s.browser(t, "/", nil)
	c := <-conns
	io.WriteString(c, "half an ans")
	c.Abort(nil)
	if got, code, reason := w.rest(t); string(got) != "half an ans" || code != 1011 || reason != "the target reset the connection" {
		t.Errorf("reset: %q, %d %q", got, code, reason)
	}
}

func TestCloseOfTheBrowserIsAnEndToTheTarget(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	for _, code := range []uint16{1000, 1001, 4000} {
		w := s.browser(t, "/", nil)
		c := <-conns
		w.send(fin|opBinary, "all of it")
		w.sendClose(code, "bye")
		if got, err := io.ReadAll(c); string(got) != "all of it" || err != nil {
			t.Errorf("%d: %q, %v", code, got, err)
		}
		if _, err := c.Write([]byte("too late for the browser")); err != nil {
			t.Errorf("%d: the target's other half is gone: %v", code, err)
		}
		c.Close()
	}
}

func TestBrowserThatVanishesResetsTheTarget(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	for name, end := range map[string]func(*ws){
		"EOF":              func(w *ws) { w.Close() },
		"a reset":          func(w *ws) { netx.Abort(w.Conn, nil) },
		"half a frame":     func(w *ws) { w.Write([]byte{0x82, 0x85, 0, 0}); w.Close() },
		"a broken frame":   func(w *ws) { w.send(fin|0x40|opBinary, "x") },
		"an unmasked one":  func(w *ws) { w.Write([]byte{0x82, 1, 'x'}) },
		"a lone fragment":  func(w *ws) { w.send(fin|opCont, "x") },
		"an unknown frame": func(w *ws) { w.send(fin|3, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			w := s.browser(t, "/", nil)
			c := <-conns
			w.send(fin|opBinary, "half a requ")
			io.ReadFull(c, make([]byte, 11))
			end(w)
			if _, err := c.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the target sees %v", err)
			}
		})
	}
}

func TestRefusedBrowserNeverReachesATarget(t *testing.T) {
	list, _ := users(t)
	s := serve(t, Config{Policy: &access.Policy{Users: list}}, access.Front{})
	conns := s.listen(t, target)
	if resp, _ := s.request(t, true, "/", nil); resp.StatusCode != 401 {
		t.Error(resp.Status)
	}
	_, err := s.tunnel(t, header("Authorization", basic("bob", "wrong")))
	var se *wsconn.StatusError
	if !errors.As(err, &se) || se.Code != 401 {
		t.Errorf("a tunnel: %v", err)
	}
	if len(conns) > 0 {
		t.Error("the target was dialled")
	}
}

func TestDrainLetsRunningBrowsersFinishAndRefusesNewOnes(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	w := s.browser(t, "/", nil)
	c := <-conns
	tun, err := s.tunnel(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := tun.Dial(t.Context(), "tcp", target); err != nil {
		t.Fatal(err)
	} else {
		st.Close()
	}
	(<-conns).Close()
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	<-s.drain
	if g := <-tun.away; g.Flags != 1 {
		t.Errorf("%+v", g)
	}
	if _, err := tun.Dial(t.Context(), "tcp", target); !errors.Is(err, netx.ErrDraining) {
		t.Errorf("a new stream: %v", err)
	}
	// A tunnel is let in as far as its handshake, since it may be one that comes back.
	var reject *line.RejectError
	if _, err := s.tunnel(t, nil); !errors.As(err, &reject) || reject.Code != line.RejectDraining || reject.RetryAfter() == 0 {
		t.Errorf("a new session: %v", err)
	}
	for _, h := range []http.Header{nil, header("Upgrade", "websocket")} {
		r := httptest.NewRequest("GET", "http://"+s.addr+"/", nil)
		if h != nil {
			r.Header = header("Connection", "Upgrade", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
		}
		for k, v := range h {
			r.Header[k] = v
		}
		rec := httptest.NewRecorder()
		(&front{s.Server, access.Front{Loopback: true, Public: true}}).ServeHTTP(rec, r)
		if rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
			t.Errorf("a new request %v: %d %s", h, rec.Code, rec.Body)
		}
	}
	io.WriteString(c, "still here")
	c.Close()
	if got, code, _ := w.rest(t); string(got) != "still here" || code != 1000 {
		t.Errorf("%q, %d", got, code)
	}
	w.sendClose(1000, "")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", s.addr); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

func TestDrainThatTakesTooLongAbortsWhatIsLeft(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	w := s.browser(t, "/", nil)
	browserTarget := <-conns
	tun, err := s.tunnel(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := tun.Dial(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	streamTarget := <-conns
	io.WriteString(streamTarget, "x")
	io.ReadFull(st, make([]byte, 1))
	cause := errors.New("time is up")
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	<-s.drain
	cancel(cause)
	if _, code, reason := w.rest(t); code != 1001 || reason != "the server is stopping" {
		t.Errorf("the browser: %d %q", code, reason)
	}
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("the stream: %v", err)
	}
	for _, c := range []net.Conn{browserTarget, streamTarget} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a target: %v", err)
		}
	}
	w.sendClose(1001, "")
	if err := <-done; !errors.Is(err, cause) {
		t.Error(err)
	}
}

// pulsing returns a browser of the server's side, not yet swept, and its peer.
func pulsing(t *testing.T) (*browser, *ws) {
	got := make(chan *wsconn.Conn, 1)
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := wsconn.Accept(w, r, "")
		if err != nil {
			t.Error(err)
		}
		got <- c
	}))
	t.Cleanup(ts.Close)
	_, w := (&site{addr: ts.Listener.Addr().String()}).request(t, true, "/", nil)
	c := <-got
	t.Cleanup(func() { c.Drop(); c.Wait() })
	return &browser{c}, w
}

func TestSilentBrowserIsAskedAndThenGivenUp(t *testing.T) {
	b, w := pulsing(t)
	var p pulse
	const tick, interval = 5 * time.Second, 25 * time.Second
	p.beat(b, tick, interval) // takes the counters as they are
	p.quiet = 0
	for range 4 {
		p.beat(b, tick, interval)
		if p.pinged {
			t.Fatal("asked too early")
		}
	}
	p.beat(b, tick, interval)
	if op, _, err := w.next(); op != opPing || err != nil || !p.pinged {
		t.Fatalf("frame %d, %v", op, err)
	}
	for p.waiting < pongTimeout-tick {
		p.beat(b, tick, interval)
	}
	if b.Broken() != nil {
		t.Fatal("given up too early")
	}
	p.beat(b, tick, interval)
	if _, err := io.Copy(io.Discard, w.br); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("not given up: %v", err)
	}
}

func TestBrowserThatAnswersIsKept(t *testing.T) {
	b, w := pulsing(t)
	go io.Copy(io.Discard, struct{ io.Reader }{b})
	var p pulse
	const tick, interval = 5 * time.Second, 25 * time.Second
	for range 3 {
		for !p.pinged {
			p.beat(b, tick, interval)
		}
		if op, _, err := w.next(); op != opPing || err != nil {
			t.Fatalf("frame %d, %v", op, err)
		}
		before, _ := b.Traffic()
		w.send(fin|opPong, "")
		for now := before; now == before; now, _ = b.Traffic() {
			<-time.After(time.Millisecond)
		}
		p.beat(b, tick, interval)
		if p.pinged || p.waiting != 0 {
			t.Fatalf("%+v", p)
		}
	}
}
