package impair_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wstun/internal/impair"
	"wstun/internal/netx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 30 * time.Second
	// moment is how long a test looks whether something happens that must not:
	// if it is too short the test sees less, but does not fail.
	moment = 30 * time.Millisecond
)

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// start gives a relay and the server that it leads to.
func start(t testing.TB) (*impair.Relay, net.Listener) {
	t.Helper()
	ln := listen(t)
	return impair.Listen(t, ln.Addr().String()), ln
}

func dial(t testing.TB, r *impair.Relay) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return live(t, c)
}

func accept(t testing.TB, ln net.Listener) net.Conn {
	t.Helper()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return live(t, c)
}

func live(t testing.TB, c net.Conn) net.Conn {
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// connect gives both ends of a connection through r.
func connect(t testing.TB, r *impair.Relay, ln net.Listener) (client, server net.Conn) {
	t.Helper()
	client = dial(t, r)
	return client, accept(t, ln)
}

// random gives n bytes that differ everywhere.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Errorf("send %q: %v", text, err)
	}
}

func expect(t testing.TB, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(c, got); string(got) != text {
		t.Errorf("received %q, %v, want %q", got[:n], err, text)
	}
}

// expectEnd reads text and then the end: nil is a FIN.
func expectEnd(t testing.TB, c net.Conn, text string, end error) {
	t.Helper()
	got, err := io.ReadAll(c)
	if string(got) != text || !errors.Is(err, end) || end == nil && err != nil {
		t.Errorf("received %q, %v, want %q, %v", got, err, text, end)
	}
}

// expectNothing looks whether c stays silent for a moment.
func expectNothing(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(moment))
	if n, err := c.Read(make([]byte, 9)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("received %d bytes, %v, want silence", n, err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
}

// over waits until the relay has no connection any more.
func over(r *impair.Relay) {
	r.Await("all is over", func() bool { return r.Open() == 0 })
}

// swap is each of the two ways through a relay.
func swap(t *testing.T, f func(t *testing.T, dir, back impair.Direction, pick func(client, server net.Conn) (from, to net.Conn))) {
	t.Run("to server", func(t *testing.T) {
		f(t, impair.ToServer, impair.ToClient, func(c, s net.Conn) (net.Conn, net.Conn) { return c, s })
	})
	t.Run("to client", func(t *testing.T) {
		f(t, impair.ToClient, impair.ToServer, func(c, s net.Conn) (net.Conn, net.Conn) { return s, c })
	})
}

func TestAllComesThroughAndIsCounted(t *testing.T) {
	r, ln := start(t)
	const n = 10
	var wg sync.WaitGroup
	for i := range n {
		client, server := connect(t, r, ln)
		want := random(1<<20 + i)
		for _, c := range []net.Conn{client, server} {
			wg.Go(func() { c.Write(want); netx.CloseWrite(c) })
			wg.Go(func() {
				if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
					t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
				}
			})
		}
	}
	wg.Wait()
	over(r)
	const bytes = n<<20 + n*(n-1)/2
	if r.Conns() != n || r.Cuts() != 0 || r.Bytes(impair.ToServer) != bytes || r.Bytes(impair.Both) != 2*bytes {
		t.Errorf("counted %d connections, %d cuts, %d bytes to the server, %d in all",
			r.Conns(), r.Cuts(), r.Bytes(impair.ToServer), r.Bytes(impair.Both))
	}
}

func TestHalfCloseIsPassedOn(t *testing.T) {
	swap(t, func(t *testing.T, _, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		first, last := pick(connect(t, r, ln))
		send(t, first, "request")
		netx.CloseWrite(first)
		expectEnd(t, last, "request", nil)
		send(t, last, "answer")
		expect(t, first, "answer")
		last.Close()
		expectEnd(t, first, "", nil)
		over(r)
	})
}

func TestResetIsPassedOn(t *testing.T) {
	for name, before := range map[string]func(from, to net.Conn){
		"at once":                  func(_, _ net.Conn) {},
		"when the other has ended": func(from, to net.Conn) { netx.CloseWrite(to); io.ReadAll(from) },
		"while bytes wait for its sender": func(_, to net.Conn) {
			to.SetWriteDeadline(time.Now().Add(moment))
			to.Write(make([]byte, 64<<20))
		},
	} {
		t.Run(name, func(t *testing.T) {
			swap(t, func(t *testing.T, _, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
				for range 20 {
					r, ln := start(t)
					from, to := pick(connect(t, r, ln))
					before(from, to)
					send(t, from, "half an ans")
					expect(t, to, "half an ans")
					netx.Abort(from, nil)
					expectEnd(t, to, "", syscall.ECONNRESET)
					over(r)
				}
			})
		})
	}
}

// The kernel reports a reset once. If that is to the relay's write, its read
// sees an EOF, and the other side must not be told of an end.
func TestResetThatAWriteMeetsIsPassedOn(t *testing.T) {
	swap(t, func(t *testing.T, _, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		for range 100 {
			r, ln := start(t)
			from, to := pick(connect(t, r, ln))
			ended := make(chan error)
			go func() {
				for {
					if _, err := to.Write(make([]byte, 100)); err != nil {
						ended <- err
						return
					}
				}
			}()
			io.CopyN(io.Discard, from, 10_000)
			netx.Abort(from, nil)
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		}
	})
}

// A sender's reset must get past bytes that nobody takes.
func TestResetIsPassedOnThoughTheOtherSideDoesNotRead(t *testing.T) {
	swap(t, func(t *testing.T, dir, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		from, to := pick(connect(t, r, ln))
		fill(t, from)
		netx.Abort(from, nil)
		over(r)
		if _, err := io.Copy(io.Discard, to); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
	})
}

// fill writes until nothing more is taken.
func fill(t *testing.T, c net.Conn) {
	t.Helper()
	for err := error(nil); err == nil; {
		c.SetWriteDeadline(time.Now().Add(10 * moment))
		if _, err = c.Write(make([]byte, 1<<20)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	c.SetWriteDeadline(time.Now().Add(patience))
}

// An HTTP server that answers and closes is sent one more byte: whoever sent it
// has the answer, and learns that nobody was there.
func TestLateByteIsAnsweredByAReset(t *testing.T) {
	swap(t, func(t *testing.T, _, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		from, to := pick(connect(t, r, ln))
		send(t, from, "a whole answer")
		from.Close()
		expect(t, to, "a whole answer")
		expectEnd(t, to, "", nil)
		send(t, to, "late")
		over(r)
		if _, err := to.Write([]byte("x")); err == nil {
			t.Error("the relay still takes bytes")
		}
	})
}

func TestDelay(t *testing.T) {
	const delay = 150 * time.Millisecond
	swap(t, func(t *testing.T, dir, back impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		from, to := pick(connect(t, r, ln))
		r.Delay(dir, delay)
		start := time.Now()
		send(t, from, "there")
		expect(t, to, "there")
		if d := time.Since(start); d < delay || d > 20*delay {
			t.Errorf("arrived after %v, want %v", d, delay)
		}
		start = time.Now()
		from.Close()
		expectEnd(t, to, "", nil)
		if d := time.Since(start); d < delay {
			t.Errorf("the end arrived after %v, want %v", d, delay)
		}
	})
}

func TestDelayedResetComesBehindTheBytes(t *testing.T) {
	r, ln := start(t)
	client, server := connect(t, r, ln)
	const delay = 150 * time.Millisecond
	r.Delay(impair.ToServer, delay)
	start := time.Now()
	send(t, client, "last words")
	netx.Abort(client, nil)
	expectEnd(t, server, "last words", syscall.ECONNRESET)
	if d := time.Since(start); d < delay {
		t.Errorf("arrived after %v, want %v", d, delay)
	}
}

func TestBothSidesResetWithBytesUnderWay(t *testing.T) {
	r, ln := start(t)
	client, server := connect(t, r, ln)
	r.Delay(impair.Both, moment)
	for _, c := range []net.Conn{client, server} {
		send(t, c, "to whom it may concern")
		netx.Abort(c, nil)
	}
	over(r)
}

// A window of 256 KiB would let pass 16 MiB in 32 seconds.
func TestDelayDoesNotLimitHowMuchGoes(t *testing.T) {
	r, ln := start(t)
	client, server := connect(t, r, ln)
	r.Delay(impair.Both, 500*time.Millisecond)
	want := random(16 << 20)
	start := time.Now()
	go func() { client.Write(want); client.Close() }()
	if got, err := io.ReadAll(server); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestShorterDelayIsForBytesUnderWayToo(t *testing.T) {
	r, ln := start(t)
	client, server := connect(t, r, ln)
	r.Delay(impair.ToServer, time.Hour)
	send(t, client, "under way")
	expectNothing(t, server)
	r.Delay(impair.ToServer, 0)
	send(t, client, " and behind")
	expect(t, server, "under way and behind")
}

func TestRate(t *testing.T) {
	const n, rate = 400_000, 1_000_000
	swap(t, func(t *testing.T, dir, back impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		r.Rate(dir, rate)
		start := time.Now()
		var wg sync.WaitGroup
		for range 2 { // they share the path
			from, to := pick(connect(t, r, ln))
			want := random(n / 2)
			wg.Go(func() { from.Write(want); from.Close() })
			wg.Go(func() {
				if got, err := io.ReadAll(to); !bytes.Equal(got, want) || err != nil {
					t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d < 200*time.Millisecond || d > 8*time.Second {
			t.Errorf("%d bytes at %d a second took %v", n, rate, d)
		}
	})
}

func TestRateCanChange(t *testing.T) {
	r, ln := start(t)
	client, server := connect(t, r, ln)
	r.Rate(impair.ToServer, 20)
	want := random(1 << 20)
	go func() { client.Write(want); client.Close() }()
	expect(t, server, string(want[:1]))
	r.Rate(impair.ToServer, 0)
	if got, err := io.ReadAll(server); !bytes.Equal(got, want[1:]) || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(want)-1, err)
	}
}

// All faults that lose nothing, together.
func TestSlowLateAndHoledBytesAreTheSame(t *testing.T) {
	r, ln := start(t)
	r.Delay(impair.Both, 10*time.Millisecond)
	r.Rate(impair.Both, 20<<20)
	client, server := connect(t, r, ln)
	want := random(4 << 20)
	var wg sync.WaitGroup
	for _, c := range []net.Conn{client, server} {
		wg.Go(func() { c.Write(want); netx.CloseWrite(c) })
		wg.Go(func() {
			h := sha256.New()
			if n, err := io.Copy(h, c); err != nil || [32]byte(h.Sum(nil)) != sha256.Sum256(want) {
				t.Errorf("%d bytes of %d, %v", n, len(want), err)
			}
		})
	}
	for i, dir := range []impair.Direction{impair.ToServer, impair.ToClient, impair.Both} {
		part := int64(i+1) << 20
		r.Await("some has come", func() bool { return r.Bytes(impair.ToServer) > part && r.Bytes(impair.ToClient) > part })
		r.Hole(dir, true)
		before := r.Bytes(dir)
		<-time.After(moment)
		if n := r.Bytes(dir) - before; n > 0 {
			t.Errorf("%d bytes came through the hole", n)
		}
		r.Hole(dir, false)
	}
	wg.Wait()
}

func BenchmarkThroughput(b *testing.B) {
	for name, through := range map[string]bool{"relay": true, "direct": false} {
		b.Run(name, func(b *testing.B) {
			ln := listen(b)
			addr := ln.Addr().String()
			if through {
				addr = impair.Listen(b, addr).Addr()
			}
			client, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			server := accept(b, ln)
			block := make([]byte, 64<<10)
			b.SetBytes(int64(len(block)))
			go func() {
				for range b.N {
					client.Write(block)
				}
			}()
			io.CopyN(io.Discard, struct{ io.Reader }{server}, int64(b.N)*int64(len(block)))
		})
	}
}

func BenchmarkPingPong(b *testing.B) {
	r, ln := start(b)
	client, server := connect(b, r, ln)
	buf := make([]byte, 1)
	for b.Loop() {
		client.Write(buf)
		server.Read(buf)
		server.Write(buf)
		client.Read(buf)
	}
}
