package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"wstun/internal/line"
)

// keep makes sessions, one after another, and reports each to use, until the
// client's life ends. It returns an error only if the server refuses the
// client before any session was made.
func (c *Client) keep(use func(*tunnel)) error {
	log := c.cfg.Log
	back := backoff{}
	for ever, said := false, ""; ; {
		t, err := c.connect(c.life)
		if c.life.Err() != nil {
			if t != nil {
				c.close(t)
			}
			return nil
		}
		if err != nil {
			var e *Error
			if errors.As(err, &e) && !e.Temporary && !ever {
				return err
			}
			wait := back.next(retryAfter(err))
			if err.Error() == said {
				log.Debug("waiting for the server", "again in", wait.Round(time.Millisecond))
			} else {
				said = err.Error()
				c.sayWaiting("waiting for the server", err)
			}
			c.know(false)
			if !c.pause(wait) {
				return nil
			}
			continue
		}
		start := time.Now()
		if s := t.line.Session(); !ever || !c.cfg.Single {
			log.Info("connected", "url", shown(c.cfg.URL), "user", s.Principal, "server", s.Agent, "rtt", s.RTT.Round(10*time.Microsecond))
		}
		ever, said = true, ""
		c.know(true)
		use(t)
		if c.serve(t) {
			continue
		}
		use(nil)
		if time.Since(start) >= settled {
			back = backoff{}
		}
		if c.life.Err() == nil && !c.pause(back.next(0)) {
			return nil
		}
	}
}

// know notes whether the server could be reached the last time.
func (c *Client) know(known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = known
}

// sayWaiting logs why something cannot be done yet, and what would help if err
// knows.
func (c *Client) sayWaiting(what string, err error) {
	log := c.cfg.Log.With("url", shown(c.cfg.URL), "why", err)
	var e *Error
	if errors.As(err, &e) && len(e.hints) > 0 {
		log = log.With("hint", e.hints[0])
	}
	log.Warn(what)
}

// serve returns when t takes no new streams any more: it has ended, or the
// server wants them on another, or the client's life is over, or, and then it
// returns true, a connection has taken t for itself.
func (c *Client) serve(t *tunnel) (taken bool) {
	select {
	case <-t.taken:
		return true
	case <-t.Done():
		if c.life.Err() == nil {
			c.cfg.Log.Warn("session lost: what ran over it is reset", "why", lostWhy(t))
		}
		c.close(t)
	case <-t.away:
		c.cfg.Log.Info("the server is about to stop: new connections wait for another")
		c.rest.Go(func() { c.retire(t) })
	case <-c.life.Done():
		c.retire(t)
	}
	return false
}

func lostWhy(t *tunnel) error {
	if err := t.line.Err(); err != nil && !errors.Is(err, net.ErrClosed) {
		var ce *line.CloseError
		if errors.As(err, &ce) && ce.Code == line.CodeShutdown {
			return errors.New("the server has stopped")
		}
		return err
	}
	return errors.New("the server ended the session")
}

// retire ends a session when its last stream has ended.
func (c *Client) retire(t *tunnel) {
	t.Idle(c.life)
	moment, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	t.Idle(moment) // once life is over streams are being aborted, and say so
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	t.finish(ctx) // as far as it goes: every stream is over
	c.close(t)
}

func (c *Client) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.life.Done():
	case <-c.soft.Done(): // nothing needs a session any more but what runs on an old one
		<-c.life.Done()
	}
	return false
}

// A backoff is the pause between attempts: full jitter, growing up to 10 s.
type backoff struct{ tries int }

const (
	firstPause = 250 * time.Millisecond
	maxPause   = 10 * time.Second
	settled    = 10 * time.Second // a session that lasted shows that the server is well
)

// next returns the next pause, not less than what the server asks for.
func (b *backoff) next(atLeast time.Duration) time.Duration {
	limit := float64(firstPause)
	for range b.tries {
		limit = min(limit*1.7, float64(maxPause))
	}
	b.tries++
	return max(time.Duration(rand.Float64()*limit), atLeast)
}
