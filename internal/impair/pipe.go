package impair

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"wstun/internal/netx"
)

const (
	// bufferSize is what one read takes at most, and how much of what is due a
	// pipe keeps.
	bufferSize = 256 << 10
	// maxUnderWay is how much a pipe keeps at all: so much data a delay holds
	// before it limits how much goes.
	maxUnderWay = 64 << 20
	// grace is for how long the bytes before a reset have a chance to be taken.
	grace = 500 * time.Millisecond
	// look is how often a side that is not read from is asked for its reset.
	look = 50 * time.Millisecond
)

// A link is one direction of the path that all connections share. All of it is
// under Relay.mu.
type link struct {
	delay time.Duration
	hole  bool
	bytes int64 // passed on so far

	rate   int     // bytes a second; 0: no limit
	tokens float64 // bytes that may go now
	filled time.Time
}

// burst is how many bytes may go at once after a while of silence: what goes in
// 50 ms, so that who wakes up late has lost nothing.
func (l *link) burst() float64 { return max(1, float64(l.rate)/20) }

// take gives how many of n bytes may go now and, if none, when to ask again.
func (l *link) take(n int) (granted int, again time.Duration) {
	if l.rate == 0 {
		return n, 0
	}
	now := time.Now()
	l.tokens = min(l.burst(), l.tokens+now.Sub(l.filled).Seconds()*float64(l.rate))
	l.filled = now
	if l.tokens < 1 {
		want := min(float64(n), max(1, l.burst()/4))
		return 0, time.Duration((want - l.tokens) / float64(l.rate) * float64(time.Second))
	}
	granted = min(n, int(l.tokens))
	l.tokens -= float64(granted)
	return granted, 0
}

// A pipe is one direction of a connection. Two goroutines carry it: read queues
// what src sends, write gives it to dst when it is time.
type pipe struct {
	r               *Relay
	c               *conn
	dir             Direction
	link            *link
	src, dst        *side
	back            *pipe  // the other direction
	toRead, toWrite signal // wake read and write

	// under r.mu
	queue   []chunk
	queued  int  // bytes in it
	writing bool // a write to dst is under way
	failed  bool // src has reset: the last of the queue
	refused bool // dst has reset, and takes no more
	ended   bool // dst was sent src's FIN
}

// A chunk is bytes, or an end.
type chunk struct {
	at    time.Time // when the relay got it
	bytes []byte
	end   Ending // fin or Reset, if there are no bytes
}

func (p *pipe) read() {
	buf := make([]byte, bufferSize)
	for {
		n := p.mayRead()
		if n == 0 {
			return
		}
		n, err := p.src.conn.Read(buf[:n])
		if n > 0 {
			p.arrive(bytes.Clone(buf[:n]))
		}
		if err != nil {
			if p.arriveEnd(err) && awaitDeath(p.src.conn) {
				p.arriveDeath()
			}
			return
		}
	}
}

// mayRead waits until src may be read from and gives how many bytes; 0 if that
// will never be.
func (p *pipe) mayRead() int {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	for {
		limit := forever
		switch {
		case p.src.closed || p.failed:
			return 0
		case p.c.over && p.src.ended: // to be dropped
			return bufferSize
		case p.c.over || p.refused || p.link.hole:
		case p.full():
			if limit = look; netx.Broken(p.src.conn) != nil {
				p.fail()
				return 0
			}
		case p.link.rate > 0:
			return min(bufferSize, int(max(1, p.link.burst()/4)))
		default:
			return bufferSize
		}
		p.toRead.wait(&p.r.mu, limit)
	}
}

// full: what is due, and dst does not take, piles up with the sender. What is
// not due yet has left it.
func (p *pipe) full() bool {
	return p.queued >= maxUnderWay ||
		p.queued >= bufferSize && time.Since(p.queue[0].at) > p.link.delay
}

// arrive queues b, at the link's rate. It owns b.
func (p *pipe) arrive(b []byte) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	for len(b) > 0 && !p.c.over && !p.failed && !p.refused {
		n, again := p.link.take(len(b))
		if n == 0 {
			p.toRead.wait(&p.r.mu, again)
			continue
		}
		p.put(chunk{bytes: b[:n]})
		b = b[n:]
	}
}

// arriveEnd queues the end that err tells of. It reports whether src may still
// be reset.
func (p *pipe) arriveEnd(err error) bool {
	reset := err != io.EOF || p.src.wasReset()
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	switch {
	case p.c.over && p.src.ended: // src has been sent a FIN, and now has ended, too
		p.src.close()
		p.c.wake()
		return false
	case p.c.over:
		return false
	case reset:
		p.fail()
		return false
	}
	p.put(chunk{end: fin})
	return true
}

// arriveDeath is called when src has ended and its connection exists no more.
func (p *pipe) arriveDeath() {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	switch {
	case !p.src.ended: // so it cannot have been in order
		p.fail()
	case p.c.over:
		p.src.close()
		p.c.wake()
	}
}

// fail queues the reset of src. The caller holds r.mu.
func (p *pipe) fail() {
	if p.failed || p.c.over {
		return
	}
	p.failed = true
	p.put(chunk{end: Reset})
	if p.writing && !p.link.hole {
		p.dst.conn.SetWriteDeadline(time.Now().Add(p.link.delay + grace))
	}
}

func (p *pipe) put(ch chunk) {
	ch.at = time.Now()
	p.queue = append(p.queue, ch)
	p.queued += len(ch.bytes)
	p.toWrite.set()
}

func (p *pipe) putBack(ch chunk) {
	p.queue = append([]chunk{ch}, p.queue...)
	p.queued += len(ch.bytes)
}

// interrupt ends a write that is under way, which may wait for dst to read.
func (p *pipe) interrupt() {
	if p.writing {
		p.dst.conn.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (p *pipe) write() {
	for {
		ch, ok := p.next()
		switch {
		case !ok:
			return
		case ch.end != 0:
			if ch.end == Reset {
				awaitDelivery(p.dst.conn, grace)
			}
			p.passEnd(ch)
		default:
			n, err := p.dst.write(ch.bytes)
			if p.wrote(ch, n, err) {
				p.cutAsPlanned()
			}
		}
	}
}

// next waits for the chunk that is due.
func (p *pipe) next() (ch chunk, ok bool) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	for !p.c.over && !p.refused {
		limit := forever
		if len(p.queue) > 0 && !p.link.hole && !p.c.plan.due() {
			if limit = time.Until(p.queue[0].at.Add(p.link.delay)); limit <= 0 {
				return p.take(), true
			}
		}
		p.toWrite.wait(&p.r.mu, limit)
	}
	p.queue, p.queued = nil, 0
	return chunk{}, false
}

// take takes from the head of the queue what may pass before c is cut.
func (p *pipe) take() chunk {
	head := &p.queue[0]
	ch := *head
	n := p.c.plan.take(p.dir, len(ch.bytes))
	ch.bytes, head.bytes = ch.bytes[:n], ch.bytes[n:]
	if len(head.bytes) == 0 {
		*head = chunk{}
		p.queue = p.queue[1:]
	}
	if ch.end == 0 {
		p.queued -= n
		p.writing = true
		var deadline time.Time
		if p.failed {
			deadline = time.Now().Add(grace)
		}
		p.dst.conn.SetWriteDeadline(deadline)
	}
	p.toRead.set()
	return ch
}

// wrote accounts for a write. It reports whether c is to be cut now.
func (p *pipe) wrote(ch chunk, n int, err error) bool {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	p.writing = false
	p.link.bytes += int64(n)
	p.r.tell()
	rest := ch.bytes[n:]
	p.c.plan.giveBack(p.dir, len(rest))
	p.back.toWrite.set() // if that had been all it may go on
	switch {
	case p.c.over:
	case errors.Is(err, os.ErrDeadlineExceeded) && p.failed && !p.link.hole:
		p.queue, p.queued = p.queue[len(p.queue)-1:], 0 // the reset alone
	case errors.Is(err, os.ErrDeadlineExceeded): // for a hole
		p.putBack(chunk{at: ch.at, bytes: rest})
	case err != nil:
		p.refuse()
	default:
		return p.c.plan.due() && !(p.back.writing && p.c.plan.dir&p.back.dir != 0)
	}
	return false
}

// refuse: dst has reset, which src will know when the way back has carried it.
// The caller holds r.mu.
func (p *pipe) refuse() {
	p.refused = true
	if p.back.refused { // both have: nobody is left to be told
		p.c.finish((*side).abort)
	}
	p.back.fail()
}

func (p *pipe) cutAsPlanned() {
	for q := range p.c.going(p.c.plan.dir) {
		awaitDelivery(q.dst.conn, forever)
	}
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if !p.c.over {
		p.c.cut(p.c.plan.how)
	}
}

// passEnd passes a FIN or a reset on. The second FIN ends c.
func (p *pipe) passEnd(ch chunk) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	switch {
	case p.c.over:
		return
	case p.link.hole: // since a moment ago
		p.putBack(ch)
		return
	case ch.end == Reset:
		p.c.finish((*side).abort)
		return
	}
	p.dst.closeWrite()
	p.ended = true
	if p.back.ended {
		p.c.finish((*side).close)
	}
}

// A signal wakes one goroutine, which then looks what has changed.
type signal chan struct{}

// forever is no limit.
const forever = time.Duration(math.MaxInt64)

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// wait gives up mu until s has been set or limit has passed.
func (s signal) wait(mu *sync.Mutex, limit time.Duration) {
	mu.Unlock()
	defer mu.Lock()
	var passed <-chan time.Time
	if limit < forever {
		passed = time.After(limit)
	}
	select {
	case <-s:
	case <-passed:
	}
}
