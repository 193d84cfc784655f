package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory, tcp and unix make both ends of a connection. The relay reads the
// last two past package net.
func memory(testing.TB) (net.Conn, net.Conn) { return netxtest.Pipe() }

func tcp(t testing.TB) (net.Conn, net.Conn) { return sockets(t, "tcp", "127.0.0.1:0") }

func unix(t testing.TB) (net.Conn, net.Conn) {
	return sockets(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func sockets(t testing.TB, network, address string) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// A chain is client – a relay b – target.
type chain struct {
	client, a, b, target net.Conn
	relay                Relay
	ended                chan error
	cancel               context.CancelCauseFunc
}

// join starts a relay between two connections that pair makes. wrap, if not
// nil, changes what the relay is given.
func join(t testing.TB, pair func(testing.TB) (net.Conn, net.Conn), halfOpen time.Duration, wrap func(net.Conn) net.Conn) *chain {
	c := &chain{ended: make(chan error, 1)}
	c.client, c.a = pair(t)
	c.b, c.target = pair(t)
	c.relay.HalfOpen = halfOpen
	ctx, cancel := context.WithCancelCause(context.Background())
	c.cancel = cancel
	a, b := c.a, c.b
	if wrap != nil {
		a, b = wrap(a), wrap(b)
	}
	go func() { c.ended <- c.relay.Run(ctx, a, b) }()
	return c
}

func (c *chain) close() {
	c.client.Close()
	c.target.Close()
	c.cancel(nil)
}

func everywhere(t *testing.T, f func(t *testing.T, pair func(testing.TB) (net.Conn, net.Conn))) {
	t.Run("memory", func(t *testing.T) { f(t, memory) })
	t.Run("tcp", func(t *testing.T) { f(t, tcp) })
	t.Run("unix", func(t *testing.T) { f(t, unix) })
}

func TestEndOfOneDirectionLeavesTheOther(t *testing.T) {
	everywhere(t, func(t *testing.T, pair func(testing.TB) (net.Conn, net.Conn)) {
		for _, order := range []string{"the client ends first", "the target ends first"} {
			t.Run(order, func(t *testing.T) {
				c := join(t, pair, 0, nil)
				defer c.close()
				first, last := c.client, c.target
				sent, received := &c.relay.Sent, &c.relay.Received
				if order == "the target ends first" {
					first, last, sent, received = last, first, received, sent
				}
				io.WriteString(first, "request")
				netx.CloseWrite(first)
				if got, err := io.ReadAll(last); string(got) != "request" || err != nil {
					t.Fatalf("%q, %v", got, err)
				}
				want := make([]byte, 3<<20)
				rand.Read(want)
				go func() { last.Write(want); netx.CloseWrite(last) }()
				if got, err := io.ReadAll(first); !bytes.Equal(got, want) || err != nil {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if err := <-c.ended; err != nil {
					t.Errorf("the relay: %v", err)
				}
				if sent.Load() != 7 || received.Load() != 3<<20 {
					t.Errorf("counted %d and %d", sent.Load(), received.Load())
				}
				if _, err := c.a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("a conn is left open: %v", err)
				}
			})
		}
	})
}

func TestResetIsPassedOnAsAReset(t *testing.T) {
	for name, pair := range map[string]func(testing.TB) (net.Conn, net.Conn){"memory": memory, "tcp": tcp} {
		for _, who := range []string{"client", "target"} {
			t.Run(name+", by the "+who, func(t *testing.T) {
				c := join(t, pair, 0, nil)
				defer c.close()
				from, to, fails := c.client, c.target, c.a
				if who == "target" {
					from, to, fails = c.target, c.client, c.b
				}
				io.WriteString(from, "half an ans")
				io.ReadFull(to, make([]byte, 11))
				netx.Abort(from, nil)
				if n, err := to.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the other end sees %d bytes, %v", n, err)
				}
				err := <-c.ended
				var f *Fault
				if !errors.As(err, &f) || f.Of != fails || f.Op != "read" || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the relay: %#v", err)
				}
			})
		}
	}
}

func TestResetAfterTheOtherDirectionHasEndedIsStillAReset(t *testing.T) {
	c := join(t, tcp, 0, nil)
	defer c.close()
	netx.CloseWrite(c.client)
	if _, err := c.target.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	netx.Abort(c.target, nil)
	if _, err := c.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
	if err := <-c.ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the relay: %v", err)
	}
}

// An endless target notes whether the relay ever says that all has come.
type endlessTarget struct {
	*net.TCPConn
	ended atomic.Bool
}

func (c *endlessTarget) CloseWrite() error {
	c.ended.Store(true)
	return c.TCPConn.CloseWrite()
}

func (c *endlessTarget) Abort(cause error) error { return netx.Abort(c.TCPConn, cause) }

// The kernel reports a reset once. If a write to the client gets it, a read
// from the client returns 0 bytes, as at an end.
func TestResetThatAWriteMeetsIsNotTakenForAnEndByTheReader(t *testing.T) {
	for range 50 {
		var b *endlessTarget
		first := true
		c := join(t, tcp, 0, func(c net.Conn) net.Conn {
			if first {
				first = false
				return c
			}
			b = &endlessTarget{TCPConn: c.(*net.TCPConn)}
			return b
		})
		go c.target.Write(make([]byte, 64<<20)) // until the relay waits for the client to read
		for c.relay.Received.Load() == 0 {
			runtime.Gosched()
		}
		io.WriteString(c.client, "half a requ")
		io.ReadFull(c.target, make([]byte, 11))
		netx.Abort(c.client, nil)
		err := <-c.ended
		c.close()
		if b.ended.Load() {
			t.Fatalf("the target was told that the client has finished; the relay: %v", err)
		}
	}
}

func TestTargetThatStopsReadingForGoodResetsTheClient(t *testing.T) {
	c := join(t, tcp, 0, nil)
	defer c.close()
	netx.Abort(c.target, nil)
	var err error
	for err == nil {
		_, err = c.client.Write(make([]byte, 1000))
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the client sees %v", err)
	}
	if err := <-c.ended; err == nil {
		t.Error("the relay says that all went well")
	}
}

func TestCancelledRelayResetsBothAndSaysWhy(t *testing.T) {
	cause := errors.New("time is up")
	for name, pair := range map[string]func(testing.TB) (net.Conn, net.Conn){"memory": memory, "tcp": tcp} {
		for _, busy := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				c := join(t, pair, 0, nil)
				defer c.close()
				ends := []net.Conn{c.client, c.target}
				failed := make(chan error, 2)
				for _, end := range ends {
					go func() {
						var err error
						if busy { // both directions wait in a write
							_, err = end.Write(make([]byte, 64<<20))
						} else {
							_, err = end.Read(make([]byte, 1))
						}
						failed <- err
					}()
				}
				if busy {
					for c.relay.Sent.Load() == 0 || c.relay.Received.Load() == 0 {
						runtime.Gosched()
					}
				}
				c.cancel(cause)
				if err := <-c.ended; !errors.Is(err, cause) {
					t.Errorf("the relay: %v", err)
				}
				for range ends {
					if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("an end sees %v", err)
					} else if name == "memory" && !errors.Is(err, cause) {
						t.Errorf("an end is not told why: %v", err)
					}
				}
			})
		}
	}
}

func TestConnThatCannotHalfCloseEndsBothDirections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := join(t, memory, 0, func(c net.Conn) net.Conn { return struct{ net.Conn }{c} })
		io.WriteString(c.client, "all of it")
		netx.CloseWrite(c.client)
		if got, err := io.ReadAll(c.target); string(got) != "all of it" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if err := <-c.ended; err != nil {
			t.Errorf("the relay: %v", err)
		}
		if _, err := c.client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client sees %v", err)
		}
	})
}

// Nobody reads the client while the target takes nothing, so only a look finds
// its reset.
func TestResetIsNoticedWhileTheTargetStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, after := range []time.Duration{0, 100 * time.Millisecond, 700 * time.Millisecond, time.Hour} {
			c := join(t, memory, 0, nil)
			go c.client.Write(make([]byte, 1<<20))
			time.Sleep(after)
			synctest.Wait()
			start := time.Now()
			netx.Abort(c.client, nil)
			err := <-c.ended
			if took := time.Since(start); !errors.Is(err, syscall.ECONNRESET) || took > 1100*time.Millisecond {
				t.Errorf("reset after %v noticed after %v: %v", after, took, err)
			}
			if _, err := io.Copy(io.Discard, struct{ io.Reader }{c.target}); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the target sees %v", err)
			}
			c.close()
		}
	})
}

func TestResetIsNoticedWhileTheTargetStallsOverTCP(t *testing.T) {
	c := join(t, tcp, 0, nil)
	defer c.close()
	wrote := make(chan struct{})
	go func() { // until the reset
		defer close(wrote)
		c.client.Write(make([]byte, 256<<20))
	}()
	for last := int64(-1); c.relay.Sent.Load() != last; { // until the target's buffers are full
		last = c.relay.Sent.Load()
		<-time.After(20 * time.Millisecond)
	}
	netx.Abort(c.client, nil)
	if err := <-c.ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the relay: %v", err)
	}
	<-wrote
}

// What is only slow lives: a look finds nothing wrong.
func TestStalledTargetThatGoesOnGetsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := join(t, memory, 0, nil)
		c.b.(*netxtest.Conn).Stall(true)
		want := make([]byte, 1<<20)
		rand.Read(want)
		go func() { c.client.Write(want); netx.CloseWrite(c.client) }()
		time.Sleep(time.Hour)
		c.b.(*netxtest.Conn).Stall(false)
		if got, err := io.ReadAll(c.target); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		netx.CloseWrite(c.target)
		if err := <-c.ended; err != nil {
			t.Error(err)
		}
	})
}

func TestHalfClosedAndSilentIsReaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, who := range []string{"client", "target"} {
			c := join(t, memory, time.Hour, nil)
			first, last := c.client, c.target
			if who == "target" {
				first, last = last, first
			}
			time.Sleep(5 * time.Hour) // silent but whole
			start := time.Now()
			netx.CloseWrite(first)
			err := <-c.ended
			if took := time.Since(start); err != ErrHalfOpen || took != time.Hour {
				t.Errorf("%s first: after %v: %v", who, took, err)
			}
			if _, err := first.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s first: it sees %v", who, err)
			}
			if _, err := last.Write([]byte{1}); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s first: the other sees %v", who, err)
			}
			c.close()
		}
	})
}

func TestHalfClosedAndActiveIsNotReaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := join(t, memory, time.Hour, nil)
		netx.CloseWrite(c.client)
		for range 100 {
			time.Sleep(59 * time.Minute)
			c.target.Write([]byte("x"))
		}
		netx.CloseWrite(c.target)
		if got, err := io.ReadAll(c.client); len(got) != 100 || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := <-c.ended; err != nil {
			t.Error(err)
		}
	})
}

func TestHalfClosedForEverIfNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := join(t, memory, 0, nil)
		netx.CloseWrite(c.client)
		time.Sleep(1000 * time.Hour)
		select {
		case err := <-c.ended:
			t.Errorf("ended: %v", err)
		default:
		}
		netx.CloseWrite(c.target)
		<-c.ended
	})
}

func TestCountersMayBeReadWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := join(t, memory, 0, nil)
		io.WriteString(c.client, "12345")
		io.WriteString(c.target, "123")
		synctest.Wait()
		if s, r := c.relay.Sent.Load(), c.relay.Received.Load(); s != 5 || r != 3 {
			t.Errorf("%d and %d", s, r)
		}
		c.close()
		<-c.ended
	})
}

// A roomyConn wants room, and says when there is something to read.
type roomyConn struct {
	*netxtest.Conn
	mu     sync.Mutex
	blocks [][]byte
	ready  chan struct{}
}

func (c *roomyConn) Room() int { return 4 }

func (c *roomyConn) WriteBlock(p []byte) (int, error) {
	copy(p, "HEAD")
	c.mu.Lock()
	c.blocks = append(c.blocks, bytes.Clone(p))
	c.mu.Unlock()
	return len(p) - 4, nil
}

func (c *roomyConn) Ready() error {
	_, ok := <-c.ready
	if !ok {
		return io.EOF
	}
	return nil
}

func TestConnThatWantsRoomGetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []*roomyConn
		c := join(t, memory, 0, func(c net.Conn) net.Conn {
			r := &roomyConn{Conn: c.(*netxtest.Conn), ready: make(chan struct{})}
			all = append(all, r)
			return r
		})
		io.WriteString(c.client, "payload")
		all[0].ready <- struct{}{}
		synctest.Wait()
		if b := all[1].blocks; len(b) != 1 || string(b[0]) != "HEADpayload" {
			t.Errorf("got %q", b)
		}
		if n := c.relay.Sent.Load(); n != 7 {
			t.Errorf("counted %d", n)
		}
		close(all[0].ready) // an end that Ready reports is an end
		close(all[1].ready)
		if err := <-c.ended; err != nil {
			t.Error(err)
		}
		c.close()
	})
}

func TestManyRelaysAtOnceKeepTheirBytesApart(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			c := join(t, tcp, time.Hour, nil)
			defer c.close()
			want := bytes.Repeat([]byte{byte(i), byte(i + 100)}, 200_000)
			go func() {
				io.Copy(struct{ io.Writer }{c.target}, struct{ io.Reader }{c.target})
				netx.CloseWrite(c.target)
			}()
			go func() { c.client.Write(want); netx.CloseWrite(c.client) }()
			if got, err := io.ReadAll(c.client); !bytes.Equal(got, want) || err != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := <-c.ended; err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestWarmRelayAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, pair := range map[string]func(testing.TB) (net.Conn, net.Conn){"memory": memory, "tcp": tcp, "unix": unix} {
		t.Run(name, func(t *testing.T) {
			c := join(t, pair, 0, nil)
			buf := make([]byte, 20_000)
			round := func() {
				c.client.Write(buf)
				io.ReadFull(c.target, buf)
				c.target.Write(buf)
				io.ReadFull(c.client, buf)
			}
			for range 100 {
				round()
			}
			if n := testing.AllocsPerRun(200, round); n >= 1 {
				t.Errorf("%v allocations for a block each way", n)
			}
			c.close()
			<-c.ended
		})
	}
}
