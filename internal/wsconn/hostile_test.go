package wsconn

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/netx/netxtest"
)

// A rawPeer is a client that says exactly what it is told, in memory.
type rawPeer struct {
	net.Conn
	br *bufio.Reader
}

// bubble returns a server's Conn and its peer; it must run in a bubble, which
// calls end before it ends.
func bubble(t *testing.T) (s *Conn, peer *rawPeer, end func()) {
	t.Helper()
	var network netxtest.Network
	ln, err := network.Listen(t.Context(), "tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *Conn, 1)
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, "")
		if err != nil {
			t.Error(err)
		}
		got <- c
	})}
	go hs.Serve(Listener(ln))
	c, err := network.Dial(t.Context(), "tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	s = <-got
	return s, &rawPeer{c, br}, func() {
		s.Abort(nil)
		s.Wait()
		c.Close()
		hs.Close()
	}
}

// send sends one frame, masked with zeros.
func (p *rawPeer) send(first byte, payload string) error {
	_, err := p.Write(append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...))
	return err
}

// next reads a frame, of up to 64 KiB.
func (p *rawPeer) next() (first byte, payload []byte, err error) {
	var h [4]byte
	if _, err := io.ReadFull(p.br, h[:2]); err != nil {
		return 0, nil, err
	}
	n := int(h[1])
	if n == 126 {
		if _, err := io.ReadFull(p.br, h[2:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(h[2:]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(p.br, payload)
	return h[0], payload, err
}

const ping, pong, closing, binaryFrame = 0x89, 0x8a, 0x88, 0x82

// waiting is how many bytes the wire holds for its peer.
func (c *Conn) waiting() int {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return len(c.wire.buf)
}

func TestPeerThatPingsAndNeverReadsMakesNothingGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer, end := bubble(t)
		defer end()
		go io.Copy(io.Discard, struct{ io.Reader }{s})
		most := 0
		for range 20 * 60 { // 20 minutes, and more than a megabyte of pongs
			for range 8 {
				peer.send(ping, strings.Repeat("x", 125))
			}
			time.Sleep(time.Second)
			synctest.Wait()
			most = max(most, s.waiting())
		}
		if most > maxControl {
			t.Errorf("%d bytes wait for it", most)
		}
		// It is within its rights: when it reads, all goes on.
		go func() { s.Write([]byte("hello")) }()
		for {
			op, p, err := peer.next()
			if err != nil || op == closing {
				t.Fatalf("frame %#x %q, %v", op, p, err)
			}
			if op == binaryFrame {
				break
			}
		}
	})
}

func TestFloodOfPingsIsShownOut(t *testing.T) {
	for _, reads := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s, peer, end := bubble(t)
			defer end()
			read := make(chan error, 1)
			go func() { _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); read <- err }()
			for range maxPings {
				peer.send(ping, strings.Repeat("x", 125))
			}
			synctest.Wait()
			select {
			case err := <-read:
				t.Fatalf("ended at the %dth already: %v", maxPings, err)
			default:
			}
			peer.send(ping, "once more")
			if reads {
				pongs := 0
				op, p, err := peer.next()
				for ; op == pong && err == nil; op, p, err = peer.next() {
					pongs++
				}
				if op != closing || len(p) < 2 || binary.BigEndian.Uint16(p) != Policy || pongs == 0 {
					t.Errorf("behind %d pongs: frame %#x %q, %v", pongs, op, p, err)
				}
			}
			start := time.Now()
			s.Wait()
			if took := time.Since(start); took > 2*time.Minute {
				t.Errorf("it is gone after %v", took)
			}
		})
	}
}

func TestPeerThatPingsNowAndThenGetsItsPongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer, end := bubble(t)
		defer end()
		go io.Copy(io.Discard, struct{ io.Reader }{s})
		for _, every := range []time.Duration{30 * time.Second, time.Second, pingPeriod / (maxPings - 10)} {
			for i := range 300 {
				want := strings.Repeat("p", i%126)
				peer.send(ping, want)
				if op, p, err := peer.next(); op != pong || string(p) != want || err != nil {
					t.Fatalf("every %v, the %dth: frame %#x %q, %v", every, i, op, p, err)
				}
				time.Sleep(every)
			}
			time.Sleep(2 * pingPeriod)
		}
	})
}

func TestFinishEndsWhateverThePeerDoes(t *testing.T) {
	for _, tt := range []struct {
		name string
		does func(s *Conn, peer *rawPeer, over <-chan struct{})
	}{
		{"it says nothing", func(*Conn, *rawPeer, <-chan struct{}) {}},
		{"it has sent half a frame", func(_ *Conn, peer *rawPeer, _ <-chan struct{}) {
			peer.Write([]byte{binaryFrame, 0x80 | 100, 0, 0, 0, 0, 'x'})
		}},
		{"it does not read the pongs that it asked for", func(s *Conn, peer *rawPeer, over <-chan struct{}) {
			go func() {
				for tick := time.Tick(pingPeriod / maxPings * 2); peer.send(ping, strings.Repeat("x", 125)) == nil; {
					select {
					case <-tick:
					case <-over:
						return
					}
				}
			}()
			<-time.After(5 * time.Minute)
		}},
		{"it sends for ever", func(_ *Conn, peer *rawPeer, over <-chan struct{}) {
			go func() {
				for tick := time.Tick(time.Second); peer.send(binaryFrame, "on and on") == nil; {
					select {
					case <-tick:
					case <-over:
						return
					}
				}
			}()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, peer, end := bubble(t)
				defer end()
				go io.Copy(io.Discard, struct{ io.Reader }{s})
				over, gone := make(chan struct{}), make(chan struct{})
				defer close(over)
				tt.does(s, peer, over)
				start := time.Now()
				s.Finish(NormalClosure, "the target closed the connection")
				go func() { s.Wait(); close(gone) }()
				select {
				case <-gone:
				case <-time.After(10 * time.Minute):
					t.Errorf("Finish still runs after %v", time.Since(start))
				}
				if took := time.Since(start); took > 2*flushQuiet+10*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// expect gives up on a peer that takes nothing, and on no other.
func TestOnlyAPeerThatTakesNothingIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quiet = 30 * time.Second
		a, b := netxtest.Pipe()
		defer a.Close()
		defer b.Close()
		w := newWire(a)
		var mu sync.Mutex
		calls := 0
		expect := func() func() { return w.expect(quiet, func() { mu.Lock(); calls++; mu.Unlock() }) }
		called := func() int { synctest.Wait(); mu.Lock(); defer mu.Unlock(); return calls }
		stop := expect()
		for range 20 {
			time.Sleep(quiet - time.Second)
			w.write(net.Buffers{[]byte("more")})
		}
		if n := called(); n != 0 {
			t.Errorf("stuck though it takes something: %d calls", n)
		}
		time.Sleep(10 * quiet)
		if n := called(); n != 1 {
			t.Errorf("%d calls for one that takes nothing", n)
		}
		stop()
		expect()()
		time.Sleep(10 * quiet)
		if n := called(); n != 1 {
			t.Errorf("a call after stop")
		}
	})
}

func TestDiscardEndsAlthoughThePeerSendsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quiet = 30 * time.Second
		a, b := netxtest.Pipe()
		defer b.Close()
		over := make(chan struct{})
		go func() {
			for tick := time.Tick(time.Second); ; {
				select {
				case <-tick:
					b.Write(make([]byte, 1000))
				case <-over:
					return
				}
			}
		}()
		go func() { // else the bubble would never end
			select {
			case <-over:
			case <-time.After(time.Hour):
				b.Close()
			}
		}()
		start := time.Now()
		newWire(a).discard(quiet)
		if took := time.Since(start); took != quiet {
			t.Errorf("it took %v", took)
		}
		close(over)
		a.Close()
	})
}

// What this side cuts off has not been ended by the peer.
func TestReadOfAnAbortedConnIsNoEnd(t *testing.T) {
	for name, cut := range map[string]func(*Conn){
		"Abort": func(c *Conn) { c.Abort(nil) },
		"Drop":  func(c *Conn) { c.Drop() },
		"Close": func(c *Conn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, c, s *Conn) {
				c.Write([]byte("half a sen"))
				io.ReadFull(s, make([]byte, 10))
				read := make(chan error, 1)
				go func() { _, err := s.Read(make([]byte, 1)); read <- err }()
				cut(s)
				if err := <-read; err == nil || errors.Is(err, io.EOF) {
					t.Errorf("a read under way: %v", err)
				}
				if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
					t.Errorf("a later read: %v", err)
				}
			})
		})
	}
}

// Writer and reader learn of the peer's Close one after the other.
func TestWriteBehindThePeersCloseSaysThatItHasEnded(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		c.Finish(NormalClosure, "")
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrEnded) {
			t.Errorf("got %v", err)
		}
		s.Abort(nil)
		if _, err := s.Write([]byte("x")); errors.Is(err, ErrEnded) {
			t.Errorf("after an Abort: %v", err)
		}
	})
}

// A gated conn takes its time to close.
type gated struct {
	net.Conn
	closing, open chan struct{}
	once          sync.Once
}

func (g *gated) Close() error {
	g.once.Do(func() { close(g.closing); <-g.open })
	return g.Conn.Close()
}

type gatedListener struct {
	net.Listener
	conn *gated
}

func (l *gatedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.conn.Conn = c
	return l.conn, nil
}

func TestWaitAfterASecondCloseWaitsForTheFirst(t *testing.T) {
	for name, second := range map[string]func(*Conn){
		"Close": func(c *Conn) { c.Close() },
		"Abort": func(c *Conn) { c.Abort(nil) },
		"Drop":  func(c *Conn) { c.Drop() },
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			g := &gated{closing: make(chan struct{}), open: make(chan struct{})}
			got := make(chan *Conn, 1)
			hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := Accept(w, r, "")
				if err != nil {
					t.Error(err)
				}
				got <- c
			})}
			go hs.Serve(Listener(&gatedListener{ln, g}))
			defer hs.Close()
			client, err := Dial(t.Context(), "ws://"+ln.Addr().String(), DialOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Wait()
			defer client.Drop()
			s := <-got
			first, both := make(chan struct{}), make(chan struct{})
			go func() { s.Close(); close(first) }()
			<-g.closing
			go func() { second(s); s.Wait(); close(both) }()
			select {
			case <-both:
				t.Error("Wait returned while the connection was being closed")
			case <-time.After(50 * time.Millisecond):
			}
			close(g.open)
			<-first
			<-both
		})
	}
}
