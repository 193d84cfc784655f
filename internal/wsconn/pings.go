package wsconn

import (
	"context"
	"sync"
	"time"
)

// More pings than that in this time are a flood.
const (
	maxPings   = 100
	pingPeriod = 10 * time.Second
)

// pings decides on the answers to a peer's pings. The library calls answer on
// the reading goroutine.
type pings struct {
	mu    sync.Mutex
	conn  *Conn
	since time.Time
	count int
}

// answer reports whether a ping gets its pong. A peer that does not read gets
// none, as RFC 6455 §5.5.3 allows, and one that floods is shown out.
func (p *pings) answer(context.Context, []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.since) > pingPeriod {
		p.since, p.count = now, 0
	}
	if p.count++; p.count > maxPings {
		p.conn.Finish(Policy, "too many pings")
		return false
	}
	return p.conn.wire.answers()
}

// of names the Conn, before anything is read from it.
func (p *pings) of(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = c
}
