package line

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A pipe is one end of a carrier in memory.
type pipe struct {
	in, out    chan []byte
	closed     chan struct{}
	peerClosed chan struct{}
	once       sync.Once

	mute   atomic.Bool         // written messages vanish: a black hole
	filter func([]byte) []byte // changes what is written
}

var errCut = errors.New("cut")

func carriers() (a, b *pipe) {
	ab, ba := make(chan []byte, 8), make(chan []byte, 8)
	a = &pipe{in: ba, out: ab, closed: make(chan struct{})}
	b = &pipe{in: ab, out: ba, closed: make(chan struct{})}
	a.peerClosed, b.peerClosed = b.closed, a.closed
	return a, b
}

func (p *pipe) Next() (io.Reader, error) {
	select {
	case m := <-p.in:
		return bytes.NewReader(m), nil
	default:
	}
	select {
	case m := <-p.in:
		return bytes.NewReader(m), nil
	case <-p.closed:
	case <-p.peerClosed:
		select {
		case m := <-p.in:
			return bytes.NewReader(m), nil
		default:
		}
	}
	return nil, errCut
}

func (p *pipe) WriteMessages(msgs ...[]byte) error {
	for _, m := range msgs {
		if p.mute.Load() {
			continue
		}
		m = bytes.Clone(m)
		if p.filter != nil {
			m = p.filter(m)
		}
		select {
		case p.out <- m:
		case <-p.closed:
			return errCut
		case <-p.peerClosed:
			return errCut
		}
	}
	return nil
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipe) Received() uint32  { return 0 }
func (p *pipe) Abort(error) error { return p.Close() }
func (p *pipe) Wait()             {}

// newLine is a line as a handshake would make it.
func newLine(cfg Config, car Carrier, s Session, window uint32) *Conn {
	c := newConn(cfg.withDefaults(), s, window)
	c.begin(car, nil)
	return c
}

// lines returns both ends of a line over a, b; with one cfg for both.
func lines(t testing.TB, a, b *pipe, cfg Config, serverCfg ...Config) (client, server *Conn) {
	t.Helper()
	scfg := append(serverCfg, cfg)[0]
	type result struct {
		c   *Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		c, _, err := NewServer("test/1", Limits{Ping: time.Minute}, scfg).Accept(context.Background(), b, "alice")
		got <- result{c, err}
	}()
	client, err := Dial(context.Background(), a, Hello{Agent: "test/2", Label: "lab"}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	return client, r.c
}

func closeBoth(a, b *Conn) {
	a.Close()
	b.Close()
	a.Wait()
	b.Wait()
}

func TestConnIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := carriers()
		c, s := lines(t, a, b, Config{})
		return c, s, func() { closeBoth(c, s) }, nil
	})
}

func TestHandshakeTellsBothWhoIsThere(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{})
	defer closeBoth(c, s)
	cs, ss := c.Session(), s.Session()
	if cs.ID != ss.ID || !bytes.Equal(cs.key, ss.key) || len(cs.key) != 32 {
		t.Errorf("session differs: %x %x", cs.ID, ss.ID)
	}
	if cs.Principal != "alice" || cs.Agent != "test/1" || ss.Agent != "test/2" || ss.Label != "lab" {
		t.Errorf("client %+v, server %+v", cs, ss)
	}
}

func TestHandshakeRefusesWhatIsChangedOnTheWay(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m []byte) []byte
	}{
		{"another session id", func(m []byte) []byte { m[5] ^= 1; return m }},
		{"another principal", func(m []byte) []byte { m[bytes.Index(m, []byte("alice"))] = 'A'; return m }},
		{"a window taken away", func(m []byte) []byte { m[23] ^= 1; return m }},
		{"cut short", func(m []byte) []byte { return m[:20] }},
		{"another message", func(m []byte) []byte { m[0] = msgResumed; return m }},
		{"oversized", func(m []byte) []byte { return append(m, make([]byte, maxHandshake)...) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := carriers()
			b.filter = func(m []byte) []byte {
				if m[0] == msgWelcome {
					return tt.change(m)
				}
				return m
			}
			done := make(chan *Conn)
			go func() {
				c, _, _ := NewServer("", Limits{}, Config{}).Accept(context.Background(), b, "alice")
				done <- c
			}()
			_, err := Dial(t.Context(), a, Hello{}, Config{})
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v", err)
			}
			if c := <-done; c != nil {
				c.Abort(CodeAborted, nil)
				c.Wait()
			}
		})
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := carriers() // a server that never says anything
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err := Dial(ctx, a, Hello{}, Config{})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestServerSaysWhyItRefuses(t *testing.T) {
	a, b := carriers()
	go func() {
		b.WriteMessages((&RejectError{Code: RejectDraining, After: 5 * time.Second, Reason: "about to stop"}).encode())
		b.Close()
	}()
	_, err := Dial(t.Context(), a, Hello{}, Config{})
	var r *RejectError
	if !errors.As(err, &r) || r.Code != RejectDraining || r.RetryAfter() != 5*time.Second || r.Reason != "about to stop" {
		t.Errorf("got %v", err)
	}
}

// transfer sends n random bytes from a to b and checks them.
func transfer(t *testing.T, a, b *Conn, n int) {
	t.Helper()
	want := make([]byte, n)
	rand.Read(want)
	go func() {
		for p := want; len(p) > 0; {
			k := min(len(p), 1+int(p[0])*400)
			if _, err := a.Write(p[:k]); err != nil {
				t.Error(err)
				return
			}
			p = p[k:]
		}
		a.CloseWrite()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestBytesArriveInOrderBothWaysAndTheEndIsKnown(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{Window: 128 << 10})
	defer closeBoth(c, s)
	var wg sync.WaitGroup
	wg.Go(func() { transfer(t, c, s, 3<<20) })
	wg.Go(func() { transfer(t, s, c, 3<<20) })
	wg.Wait()
	for _, l := range []*Conn{c, s} {
		if err := l.Drained(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestDataGoesOnAfterTheOtherSideHasEnded(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{})
	defer closeBoth(c, s)
	c.CloseWrite()
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	transfer(t, s, c, 1<<20)
	if err := c.Drained(t.Context()); err != nil {
		t.Error(err)
	}
}

// A one-goroutine echo that does not read while it writes: without a receive
// window of its own such a layer stops for ever.
func TestEchoThatDoesNotReadWhileItWritesGetsThrough(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{Window: 128 << 10})
	defer closeBoth(c, s)
	go func() {
		io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
		s.CloseWrite()
	}()
	want := make([]byte, 4<<20)
	rand.Read(want)
	go func() {
		c.Write(want)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestWriterWaitsForASlowReaderAndHoldsNoMoreThanItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := carriers()
		cfg := Config{Window: 128 << 10}
		c, s := lines(t, a, b, cfg)
		go c.Write(make([]byte, 10<<20))
		synctest.Wait()
		c.mu.Lock()
		held := c.out.end - c.out.una
		c.mu.Unlock()
		s.mu.Lock()
		got := s.in.held
		s.mu.Unlock()
		if held > uint64(cfg.Window) || got > cfg.Window || got == 0 {
			t.Errorf("the sender keeps %d bytes, the receiver %d, of a window of %d", held, got, cfg.Window)
		}
		n, _ := io.ReadFull(s, make([]byte, 10<<20))
		if n != 10<<20 {
			t.Errorf("%d bytes", n)
		}
		closeBoth(c, s)
	})
}

func TestIdleLineHoldsNoBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := carriers()
		c, s := lines(t, a, b, Config{})
		c.Write(make([]byte, 300_000))
		io.ReadFull(s, make([]byte, 300_000))
		time.Sleep(time.Second) // virtual: the delayed acknowledgement
		synctest.Wait()
		c.mu.Lock()
		if c.out.blocks != 0 || c.out.cur != nil {
			t.Errorf("%d send blocks held", c.out.blocks)
		}
		c.mu.Unlock()
		s.mu.Lock()
		if len(s.in.queue) != 0 {
			t.Errorf("%d receive blocks held", len(s.in.queue))
		}
		s.mu.Unlock()
		closeBoth(c, s)
	})
}

func TestLostCarrierIsAnErrorAndNeverAnEnd(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{})
	c.Write([]byte("half a sen"))
	buf := make([]byte, 10)
	io.ReadFull(s, buf)
	a.Close()
	for _, l := range []*Conn{c, s} {
		if _, err := l.Read(buf); !errors.Is(err, ErrLost) {
			t.Errorf("read: %v", err)
		}
		if _, err := l.Write(buf); !errors.Is(err, ErrLost) {
			t.Errorf("write: %v", err)
		}
		if err := l.Drained(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("drained: %v", err)
		}
		l.Wait()
	}
}

func TestAbortTellsThePeerWhy(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{})
	c.Abort(CodeShutdown, errors.New("time is up"))
	_, err := s.Read(make([]byte, 1))
	var ce *CloseError
	if !errors.As(err, &ce) || ce.Code != CodeShutdown || ce.Reason != "time is up" {
		t.Errorf("got %v", err)
	}
	c.Wait()
	s.Wait()
}

func TestGoAwayArrives(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{})
	defer closeBoth(c, s)
	got := make(chan GoAway, 1)
	c.OnEvent(func(e Event) {
		if e.Kind == GoingAway {
			got <- e.GoAway
		}
	})
	want := GoAway{CodeShutdown, 30 * time.Second, NewSession}
	s.GoAway(want)
	if g := <-got; g != want {
		t.Errorf("got %+v", g)
	}
}

func TestSilentPeerIsFoundDead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		writes bool
		atMost time.Duration
	}{
		{"idle", false, 25 * time.Second},
		{"with data outstanding", true, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := carriers()
				c, s := lines(t, a, b, Config{}, Config{PingAfter: time.Hour})
				a.mute.Store(true)
				b.mute.Store(true)
				start := time.Now()
				if tt.writes {
					c.Write([]byte("anybody?"))
				}
				_, err := c.Read(make([]byte, 1))
				if took := time.Since(start); !errors.Is(err, ErrDead) || took > tt.atMost || took < 5*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				c.Wait()
				s.Abort(CodeAborted, nil)
				s.Wait()
			})
		})
	}
}

func TestIdlePeersStayConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := carriers()
		c, s := lines(t, a, b, Config{})
		time.Sleep(10 * time.Hour) // virtual
		if c.Err() != nil || s.Err() != nil {
			t.Errorf("%v, %v", c.Err(), s.Err())
		}
		closeBoth(c, s)
	})
}

func TestReadDeadlineLeavesTheLineAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := carriers()
		c, s := lines(t, a, b, Config{})
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		c.SetReadDeadline(time.Time{})
		s.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		closeBoth(c, s)
	})
}

func TestPeerThatBreaksTheProtocolIsCutOff(t *testing.T) {
	data := func(off uint64, n int) []byte {
		f := frame{typ: frameData, arg: off, body: make([]byte, n), wnd: 1 << 20}
		return f.append(nil)
	}
	for _, tt := range []struct {
		name string
		send [][]byte
	}{
		{"more than the window", [][]byte{data(0, 60_000), data(60_000, 60_000), data(120_000, 60_000)}},
		{"an acknowledgement for bytes never sent", [][]byte{(&frame{typ: frameAck, ack: 7}).append(nil)}},
		{"an unknown frame", [][]byte{append([]byte{0x30}, make([]byte, 15)...)}},
		{"a handshake message again", [][]byte{append([]byte{msgHello}, make([]byte, 80)...)}},
		{"a short frame", [][]byte{{frameData, 0, 0}}},
		{"DATA without data", [][]byte{data(0, 0)}},
		{"a payload over the limit", [][]byte{data(0, MaxPayload+1)}},
		{"an endless message", [][]byte{make([]byte, MaxMessage+1)}},
		{"CLOSE in the middle of what was sent", [][]byte{data(0, 5), (&frame{typ: frameClose, arg: 3}).append(nil)}},
		{"CLOSE_ACK for nothing", [][]byte{(&frame{typ: frameCloseAck}).append(nil)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := carriers()
			c, s := lines(t, a, b, Config{Window: 128 << 10})
			a.WriteMessages(tt.send...)
			<-s.Done()
			if err := s.Err(); !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v", err)
			}
			c.Abort(CodeAborted, nil)
			c.Wait()
			s.Wait()
		})
	}
}

func TestFrameOfALaterVersionIsIgnored(t *testing.T) {
	a, b := carriers()
	c, s := lines(t, a, b, Config{})
	defer closeBoth(c, s)
	a.WriteMessages(append([]byte{0x41}, make([]byte, 40)...))
	transfer(t, c, s, 100_000)
}

func TestTinyFramesDoNotPinABlockEach(t *testing.T) {
	var r receiver
	r.init(4<<20, nil)
	kept := 0
	for range 10_000 {
		if r.keep(chunk{new([receiveBlock]byte), 24, 25}) {
			kept++
		}
	}
	if kept != 1 || r.held != 10_000 {
		t.Errorf("%d blocks for %d bytes", kept, r.held)
	}
}

func TestWindowFollowsTheRoundTrip(t *testing.T) {
	for rtt, want := range map[time.Duration]int{
		0: 1 << 20, time.Millisecond: 1 << 20, 50 * time.Millisecond: 7_800_000, time.Second: 16 << 20,
	} {
		if got := WindowFor(rtt); got != want {
			t.Errorf("%v: %d, want %d", rtt, got, want)
		}
	}
}
