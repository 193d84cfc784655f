package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// listen serves TCP on a free port of loopback until the test ends. handle has
// the conn to itself; it is closed when handle returns, or at the test's end.
func listen(t testing.TB, handle func(*net.TCPConn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
		over  bool
	)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if over {
				c.Close()
			}
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		over = true
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// echoTarget sends back what it gets, and its end.
func echoTarget(t testing.TB) (addr string) {
	return listen(t, func(c *net.TCPConn) {
		io.Copy(c, c)
		c.CloseWrite()
	})
}

// A result is what a target saw of one connection.
type result struct {
	n      int64
	digest string
	err    error
}

// sinkTarget reads all of each connection and says what it was.
func sinkTarget(t testing.TB) (addr string, results <-chan result) {
	ch := make(chan result, 1000)
	return listen(t, func(c *net.TCPConn) {
		ch <- drain(c)
	}), ch
}

// sourceTarget sends content to each connection and closes it at once.
func sourceTarget(t testing.TB, content func() io.Reader) (addr string) {
	return listen(t, func(c *net.TCPConn) {
		io.Copy(c, content())
	})
}

// drain reads r to its end.
func drain(r io.Reader) result {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return result{n, fmt.Sprintf("%x", h.Sum(nil)), err}
}

// noise gives n bytes that are different for each seed and cannot be guessed
// or compressed: a byte that is lost, doubled or from elsewhere shows.
func noise(seed uint64, n int64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// noiseBytes is noise at once.
func noiseBytes(seed uint64, n int64) []byte {
	b, _ := io.ReadAll(noise(seed, n))
	return b
}

// receive waits for what a target says.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing after %v: %s", patience, what)
		panic("not reached")
	}
}

// dial connects to a forward until the test ends.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := dialTCP(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialTCP(addr string) (*net.TCPConn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(2 * patience))
	return c.(*net.TCPConn), nil
}

// exchange sends n bytes to an echo and checks what comes back while it sends.
func exchange(c io.ReadWriter, seed uint64, n int64) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{c}, noise(seed, n))
		sent <- err
	}()
	want := drain(noise(seed, n))
	got := drain(io.LimitReader(struct{ io.Reader }{c}, n))
	if err := errors.Join(<-sent, got.err); err != nil {
		return err
	}
	if got.n != n || got.digest != want.digest {
		return fmt.Errorf("%d of %d bytes came back, digest %.8s, want %.8s", got.n, n, got.digest, want.digest)
	}
	return nil
}

// serves checks that the server still does its work: an echo through the
// browser endpoint. Its --target must be an echo.
func (s *server) serves(t testing.TB) {
	t.Helper()
	c := dialWS(t, s.ws())
	defer c.Close()
	if err := exchange(c, 1, 10_000); err != nil {
		t.Fatalf("the server does not serve any more: %v", err)
	}
	c.closeWith(t, 1000)
}

// sameBytes compares without printing megabytes.
func sameBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		a, b := drain(bytes.NewReader(got)), drain(bytes.NewReader(want))
		t.Fatalf("%s: %d bytes, digest %.8s; want %d bytes, digest %.8s", what, a.n, a.digest, b.n, b.digest)
	}
}
