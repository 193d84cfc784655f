// Package impair is a network path that can be made bad, for tests.
//
// A [Relay] stands between a client and a server on loopback, as a path would:
// bytes, half-closes and resets come out of it as they went in, later, slower
// or not at all. Its faults can be changed at any time and concern the
// connections that there are and those that come, unless said otherwise.
//
// It carries bytes and not packets. So acknowledgements always come through,
// and what the kernel has taken for a side that does not read it (some hundred
// KiB) is past all faults. On systems other than Linux a reset may overtake
// bytes that were sent before it, and the reset of a side that is not being
// read from is noticed late.
package impair

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"wstun/internal/netx"
)

// patience is the one deadline of Await. Whoever waits that long waits for ever.
const patience = 30 * time.Second

// A Direction is one way through a relay, or Both.
type Direction uint8

// The ways through a relay.
const (
	ToServer Direction = 1 << iota
	ToClient
	Both = ToServer | ToClient
)

// An Ending is how a connection is cut: who is told, and by what. A side that is
// not told keeps a connection that is open and silent for ever, both ways: it is
// not even read from.
type Ending uint8

// The endings. A side that gets a FIN may go on sending; that is read and dropped.
const (
	Silence     = Ending(0)
	ResetServer = Ending(ToServer)
	ResetClient = Ending(ToClient)
	Reset       = Ending(Both)
	FINServer   = fin | ResetServer
	FINClient   = fin | ResetClient
	FIN         = fin | Reset

	fin = Ending(Both + 1)
)

// A Relay carries the connections of clients to a server. Its methods may be
// called concurrently; those that can fail the test want its own goroutine.
type Relay struct {
	t       testing.TB
	ctx     context.Context // done when the test ends
	running sync.WaitGroup

	// One lock for all connections: those who read this need to understand it
	// more than it needs to be fast.
	mu       sync.Mutex
	addr     string
	listener net.Listener // nil while connections are refused
	target   string
	links    [2]link // to the server, to the client
	plans    []plan
	every    ageing
	conns    map[*conn]bool // those with an open socket
	accepted int
	open     int
	cuts     int
	news     chan struct{} // closed when something has changed; nil if nobody waits
	ended    bool
}

// A plan is the cut of one connection at an offset.
type plan struct {
	dir  Direction // what counts; 0: never cut
	left int64     // bytes until then
	how  Ending
}

// Listen starts a relay on a free port of 127.0.0.1 whose connections go to
// target, HOST:PORT. It ends with the test: what is open then is reset.
func Listen(t testing.TB, target string) *Relay {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{t: t, ctx: ctx, target: target, conns: make(map[*conn]bool)}
	addr, release, err := reserve()
	if err != nil {
		cancel()
		t.Fatalf("impair: reserve a port: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		r.mu.Lock()
		r.ended = true
		for c := range r.conns {
			c.cut(Reset)
		}
		r.mu.Unlock()
		r.running.Wait()
		release()
	})
	r.addr = addr
	r.listen()
	return r
}

// Addr is where the relay listens, HOST:PORT. It stays the same.
func (r *Relay) Addr() string { return r.addr }

func (r *Relay) listen() {
	r.t.Helper()
	ln, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Fatalf("impair: listen: %v", err)
	}
	r.listener, r.addr = ln, ln.Addr().String()
	r.running.Go(func() {
		if err := netx.Serve(r.ctx, ln, r.handle); err != nil {
			r.t.Errorf("impair: accept: %v", err)
		}
	})
}

// Refuse closes the listener, so that who connects is refused, and opens it
// again on the same port. Connections that were accepted go on.
func (r *Relay) Refuse(on bool) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case on && r.listener != nil:
		r.listener.Close()
		r.listener = nil
	case !on && r.listener == nil:
		r.listen()
	}
}

// Retarget sends the connections that come to another server, HOST:PORT. If
// that refuses one the client, which the relay has accepted, gets a reset, which
// its connecting may fail with.
func (r *Relay) Retarget(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

// Delay makes all that goes in a direction arrive d later than it would: bytes,
// ends and resets. It does not limit how much goes. It also concerns what is
// under way: a shorter delay lets that arrive earlier, never out of order.
func (r *Relay) Delay(dir Direction, d time.Duration) {
	r.set(dir, func(l *link) { l.delay = d })
}

// Rate limits what all connections together carry in a direction to so many
// bytes a second; 0 is no limit. What cannot go yet waits with the sender.
func (r *Relay) Rate(dir Direction, bytesPerSecond int) {
	r.set(dir, func(l *link) { l.rate, l.tokens, l.filled = bytesPerSecond, 0, time.Now() })
}

// Hole makes a direction a black hole, or no more. Once Hole has returned
// nothing arrives: no byte, end or reset. The sender is not read from, so its
// kernel's buffers fill, with some MiB. Nothing is lost: as with TCP, which
// sends again what was not acknowledged, all of it arrives when the hole is
// gone, in order. Only what a side sent before it reset the connection may be
// lost with that.
//
// A connection that is made during a hole is accepted by the kernel, but the
// server is not dialled before there is none in either direction, as TCP's
// handshake needs both; nor at all if the client has ended it meanwhile.
func (r *Relay) Hole(dir Direction, on bool) {
	r.set(dir, func(l *link) { l.hole = on })
	r.settle()
}

func (r *Relay) set(dir Direction, change func(*link)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.links {
		if dir&(ToServer<<i) != 0 {
			change(&r.links[i])
		}
	}
	for c := range r.conns {
		c.wake()
	}
}

// settle waits for the end of writes of which no more may come.
func (r *Relay) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		for p := range c.going(Both) {
			for p.writing && (c.over || p.link.hole) {
				p.interrupt()
				news := r.change()
				r.mu.Unlock()
				<-news
				r.mu.Lock()
			}
		}
	}
}

// Cut ends the connections that there are, at once; a hole does not keep that
// from the sides it tells. Of those that were cut before it tells the sides that
// do not know yet. Once Cut has returned nothing more of them arrives.
func (r *Relay) Cut(how Ending) {
	r.mu.Lock()
	for c := range r.conns {
		c.cut(how)
	}
	r.mu.Unlock()
	r.settle()
}

// CutAt cuts the next connection that is accepted as soon as n bytes of it have
// been delivered in a direction, with Both in sum: exactly so many reach the
// other side's kernel and can be read there. When the last of them is on its
// way nothing else passes, either way; if it is not taken, the cut waits. A cut
// at 0 bytes comes when the server has been connected to; the client's own
// connecting may then fail with the reset.
//
// Each call is for one connection: after two, the next two are cut.
func (r *Relay) CutAt(dir Direction, n int64, how Ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plans = append(r.plans, plan{dir, n, how})
}

// CutEvery cuts each connection at a random age from shortest to longest, until
// it is called with two zeros. Connections that there are begin at age zero.
func (r *Relay) CutEvery(shortest, longest time.Duration, how Ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.every = ageing{shortest, longest, how}
	for c := range r.conns {
		c.end = r.every.end()
		c.wake()
	}
}

// Conns is how many connections were accepted so far.
func (r *Relay) Conns() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// Open is how many connections are neither over nor cut, those included that
// wait for a connection to the server.
func (r *Relay) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// Cuts is how many connections were cut so far, in whatever way.
func (r *Relay) Cuts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cuts
}

// Bytes is how many bytes were passed on in a direction so far, with Both in sum.
func (r *Relay) Bytes(dir Direction) (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.links {
		if dir&(ToServer<<i) != 0 {
			n += r.links[i].bytes
		}
	}
	return n
}

// Await returns when until does, which is asked each time that one of the
// relay's counters has changed. If that takes longer than 30 seconds the test
// fails; what, a sentence like "the client is back", says for lack of what.
func (r *Relay) Await(what string, until func() bool) {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		r.mu.Lock()
		news := r.change()
		r.mu.Unlock()
		if until() {
			return
		}
		select {
		case <-news:
		case <-timeout:
			r.t.Fatalf("impair: waited %v until %s; %d connections, %d open, %d cut; %d bytes to the server, %d to the client",
				patience, what, r.Conns(), r.Open(), r.Cuts(), r.Bytes(ToServer), r.Bytes(ToClient))
		}
	}
}

// change gives a channel that tell closes. Both want r.mu to be held.
func (r *Relay) change() <-chan struct{} {
	if r.news == nil {
		r.news = make(chan struct{})
	}
	return r.news
}

func (r *Relay) tell() {
	if r.news != nil {
		close(r.news)
		r.news = nil
	}
}
