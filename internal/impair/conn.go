package impair

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"wstun/internal/netx"
)

// A conn is the connection of a client and the one to the server made for it.
type conn struct {
	r              *Relay
	client, server side
	pipes          [2]pipe // to the server, to the client
	changed        signal  // wakes handle

	// under r.mu
	over bool        // nothing passes any more
	late func(*side) // tells the server of a cut that came while it was dialled
	plan plan        // what of it is left
	end  time.Time   // when it is old enough to be cut; zero: never
}

// A side is one of the relay's two sockets for a connection.
type side struct {
	conn *net.TCPConn

	// under Relay.mu
	closed bool // there is no socket, or no more
	ended  bool // it was sent a FIN

	writing sync.Mutex // held while it is written to
	reset   bool       // a write has met its reset; under writing
}

// ageing is the cut of connections for their age. The zero value is none.
type ageing struct {
	shortest, longest time.Duration
	how               Ending
}

func (a ageing) end() (at time.Time) {
	if a.longest == 0 {
		return at
	}
	return time.Now().Add(a.shortest + rand.N(a.longest-a.shortest+1))
}

// handle carries one connection. It closes client.
func (r *Relay) handle(ctx context.Context, client net.Conn) {
	c := r.admit(client.(*net.TCPConn))
	c.connect(ctx)
	var wg sync.WaitGroup
	for p := range c.going(Both) {
		wg.Go(p.read)
		wg.Go(p.write)
	}
	r.mu.Lock()
	for !c.client.closed || !c.server.closed {
		c.wait()
	}
	delete(r.conns, c)
	r.mu.Unlock()
	wg.Wait()
}

func (r *Relay) admit(client *net.TCPConn) *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &conn{r: r, changed: newSignal(), late: func(*side) {}, end: r.every.end()}
	c.client.conn, c.server.closed = client, true
	for i := range c.pipes {
		c.pipes[i] = pipe{
			r: r, c: c, dir: ToServer << i, link: &r.links[i], back: &c.pipes[1-i],
			src: &c.client, dst: &c.server, toRead: newSignal(), toWrite: newSignal(),
		}
	}
	c.pipes[1].src, c.pipes[1].dst = &c.server, &c.client
	if len(r.plans) > 0 {
		c.plan, r.plans = r.plans[0], r.plans[1:]
	}
	r.conns[c] = true
	r.accepted++
	r.open++
	if r.ended {
		c.cut(Reset)
	}
	r.tell()
	return c
}

// connect connects to the server when there is a path to it; without, c is over.
func (c *conn) connect(ctx context.Context) {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	held := false
	for !c.over && (r.links[0].hole || r.links[1].hole) {
		held = true
		c.wait()
	}
	if held && !c.over && hungUp(c.client.conn) {
		c.finish((*side).abort)
	}
	if c.over {
		return
	}
	target := r.target
	r.mu.Unlock()
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", target)
	r.mu.Lock()
	if err != nil {
		c.pipes[0].refuse()
		return
	}
	c.server.conn, c.server.closed = server.(*net.TCPConn), false
	if c.over { // cut meanwhile
		c.late(&c.server)
		return
	}
	for _, s := range []*side{&c.client, &c.server} {
		// What is in the first is past all faults; what is in the second a path
		// that is slow, or a hole, would not take.
		s.conn.SetWriteBuffer(bufferSize)
		s.conn.SetReadBuffer(bufferSize)
	}
	if c.plan.due() {
		c.cut(c.plan.how)
	}
}

// wait waits for a change of c, and cuts c when it is time to. The caller holds
// r.mu.
func (c *conn) wait() {
	limit := forever
	if !c.end.IsZero() && !c.over {
		if limit = time.Until(c.end); limit <= 0 {
			c.cut(c.r.every.how)
			return
		}
	}
	c.changed.wait(&c.r.mu, limit)
}

// cut ends c on the sides that how tells. The caller holds r.mu.
func (c *conn) cut(how Ending) {
	if !c.over {
		c.r.cuts++
	}
	tell := (*side).abort
	if how&fin != 0 {
		tell = (*side).closeWrite
	}
	c.stop()
	for p := range c.going(Direction(how)) {
		if p.dst.conn == nil {
			c.late = tell
			continue
		}
		tell(p.dst)
	}
}

// finish is the end of c that its own sides have brought about. The caller
// holds r.mu.
func (c *conn) finish(tell func(*side)) {
	c.stop()
	tell(&c.client)
	tell(&c.server)
}

func (c *conn) stop() {
	if !c.over {
		c.over = true
		c.r.open--
	}
	for p := range c.going(Both) {
		p.interrupt() // also the side that is not told gets no more
	}
	c.wake()
	c.r.tell()
}

// wake lets all of c look at what has changed. The caller holds r.mu.
func (c *conn) wake() {
	c.changed.set()
	for p := range c.going(Both) {
		p.toRead.set()
		p.toWrite.set()
	}
}

// going gives the pipes of a direction.
func (c *conn) going(dir Direction) iter.Seq[*pipe] {
	return func(yield func(*pipe) bool) {
		for i := range c.pipes {
			if p := &c.pipes[i]; dir&p.dir != 0 && !yield(p) {
				return
			}
		}
	}
}

// due reports whether all that may pass has passed.
func (p plan) due() bool { return p.dir != 0 && p.left == 0 }

// take gives how many of n bytes may pass in a direction.
func (p *plan) take(dir Direction, n int) int {
	if p.dir&dir == 0 {
		return n
	}
	n = int(min(int64(n), p.left))
	p.left -= int64(n)
	return n
}

// giveBack says that n bytes that take gave did not pass.
func (p *plan) giveBack(dir Direction, n int) {
	if p.dir&dir != 0 {
		p.left += int64(n)
	}
}

// abort, closeWrite and close want Relay.mu to be held. None of them blocks.
func (s *side) abort() {
	if !s.closed {
		s.closed = true
		netx.Abort(s.conn, nil)
	}
}

func (s *side) closeWrite() {
	if !s.closed && !s.ended {
		s.ended = true
		s.conn.CloseWrite()
	}
}

func (s *side) close() {
	if !s.closed {
		s.closed = true
		s.conn.Close()
	}
}

func (s *side) write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.conn.Write(b)
	s.reset = s.reset || errors.Is(err, syscall.ECONNRESET)
	return n, err
}

// wasReset tells what an EOF may hide: the kernel reports a reset once, and if
// a write has met it, a read sees an EOF.
func (s *side) wasReset() bool {
	if !dead(s.conn) {
		return false // so s.writing may be held for long
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.reset
}
