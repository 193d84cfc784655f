package line

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestCutAtEveryByte plays one small exchange, handshake and both ends
// included, once per byte of it: the carrier is cut there, in either direction.
// The message that the byte is in is lost, and in a second variant the one
// before it too. A cut of its own is in the middle of the exchange, so that RESUME
// and RESUMED are in it; what comes behind the other one is whole.
func TestCutAtEveryByte(t *testing.T) {
	var bytesOf [2]int
	synctest.Test(t, func(t *testing.T) { bytesOf = playCut(t, -1, 0, 0).bytes })
	if n := bytesOf[0] + bytesOf[1]; n < 2500 || n > 4500 {
		t.Fatalf("the exchange has %d bytes", n)
	}
	step := 1
	if raceEnabled || testing.Short() {
		step = 7
	}
	var cuts, anew, buried, carriers int
	for way := range bytesOf {
		t.Run(fmt.Sprint([]string{"from the client", "from the server"}[way]), func(t *testing.T) {
			for at := 0; at < bytesOf[way] && !t.Failed(); at += step {
				for drop := range 2 {
					synctest.Test(t, func(t *testing.T) {
						got := playCut(t, way, at, drop)
						cuts++
						carriers += got.carriers
						anew += got.anew
						buried += got.buried
						if t.Failed() {
							t.Logf("cut at byte %d, %d before it lost", at, drop)
						}
					})
				}
			}
		})
	}
	t.Logf("%d cuts of an exchange of %d and %d bytes, %d carriers, %d sessions anew, %d told by the server's memory", cuts, bytesOf[0], bytesOf[1], carriers, anew, buried)
	if anew == 0 || buried == 0 {
		t.Error("something that cuts lead to was not met")
	}
}

type cutResult struct {
	bytes                  [2]int
	carriers, anew, buried int
}

// A cutPlay is one exchange.
type cutPlay struct {
	t       *testing.T
	way, at int
	drop    int
	server  *Server
	running sync.WaitGroup

	mu     sync.Mutex
	wires  []*wire
	far    map[[16]byte]*Conn
	buried int
}

// sent returns how many bytes were written in each direction. The lock is held.
func (p *cutPlay) sent() (n [2]int) {
	for _, w := range p.wires {
		w.mu.Lock()
		for i := range n {
			n[i] += w.ways[i].sent
		}
		w.mu.Unlock()
	}
	return n
}

func (p *cutPlay) dial(context.Context, func()) (Carrier, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := newWire(1)
	w.sure = true
	w.ways[0].latency, w.ways[1].latency = time.Millisecond, time.Millisecond
	if p.way >= 0 {
		w.ways[p.way].cutAt, w.ways[p.way].drop = max(p.at-p.sent()[p.way], -1), p.drop
	}
	p.wires = append(p.wires, w)
	p.running.Go(func() {
		c, resumed, err := p.server.Accept(context.Background(), w.ends[1], "alice")
		p.mu.Lock()
		defer p.mu.Unlock()
		var reject *RejectError
		switch {
		case errors.As(err, &reject) && reject.Code == RejectClosed:
			p.buried++
		case err == nil && !resumed:
			p.far[c.hello.ID] = c
			p.running.Go(func() { p.serve(c) })
		}
	})
	return w.ends[0], nil
}

const (
	cutTurns = 4
	cutTurn  = 300 // bytes
)

var cutUp, cutDown = noise(1, cutTurns*cutTurn), noise(2, cutTurns*cutTurn)

// turns exchanges bytes in turn; between is called before each.
func (p *cutPlay) turns(c *Conn, first bool, out, in []byte, between func(turn int)) error {
	read := func(turn int) error {
		buf := make([]byte, cutTurn)
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if !bytes.Equal(buf, in[turn*cutTurn:][:cutTurn]) {
			p.t.Error("other bytes than were written")
		}
		return nil
	}
	for turn := range cutTurns {
		between(turn)
		if !first {
			if err := read(turn); err != nil {
				return err
			}
		}
		if _, err := c.Write(out[turn*cutTurn:][:cutTurn]); err != nil {
			return err
		}
		if first {
			if err := read(turn); err != nil {
				return err
			}
		}
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("at the end: %d bytes, %w", n, err)
	}
	return c.Drained(context.Background())
}

// serve is the server's program. A session that nobody has taken up is lost.
func (p *cutPlay) serve(c *Conn) {
	err := p.turns(c, false, cutDown, cutUp, func(int) {})
	c.mu.Lock()
	all := c.in.complete() && c.in.rcv == uint64(len(cutUp)) || c.in.rcv == 0
	c.mu.Unlock()
	if err != nil && !(errors.Is(err, ErrLost) && all) {
		p.t.Errorf("server: %v", err)
	}
	c.Close()
	c.Wait()
}

func playCut(t *testing.T, way, at, drop int) (r cutResult) {
	p := &cutPlay{t: t, way: way, at: at, drop: drop, far: map[[16]byte]*Conn{}, server: NewServer("cut", always, Config{})}
	begun := time.Now()
	var c *Conn
	for c == nil {
		car, _ := p.dial(context.Background(), func() {})
		var err error
		if c, err = Dial(context.Background(), car, Hello{}, Config{Redial: p.dial}); err != nil {
			if r.anew++; r.anew > 3 {
				t.Fatal(err)
			}
		}
	}
	err := p.turns(c, true, cutUp, cutDown, func(turn int) {
		if turn == cutTurns/2 {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.wires[len(p.wires)-1].cutNow(cutTold)
		}
	})
	if took := time.Since(begun); err != nil || took > 10*time.Second {
		t.Errorf("client: after %v: %v", took, err)
	}
	p.mu.Lock()
	far := p.far[c.hello.ID]
	p.mu.Unlock()
	far.mu.Lock()
	if !far.in.complete() || far.in.rcv != uint64(len(cutUp)) {
		t.Errorf("the client is drained, the server has %d bytes", far.in.rcv)
	}
	far.mu.Unlock()
	c.Close()
	c.Wait()
	p.running.Wait()
	p.server.Wait()
	if n, _ := p.server.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	r.bytes, r.carriers, r.buried = p.sent(), len(p.wires), p.buried
	if err != nil && !errors.Is(err, net.ErrClosed) {
		t.Logf("server: %v", far.Err())
	}
	return r
}
