package line

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"time"
)

// How a client gets the next carrier.
const (
	attemptTime  = 10 * time.Second        // for an attempt in all
	attemptQuiet = 2500 * time.Millisecond // for one of which nothing comes in
	firstPause   = 250 * time.Millisecond  // between attempts, doubling
	maxPause     = 2 * time.Second
	maxRetry     = time.Minute      // of what a peer may ask for, who need not be the server
	maxPauseHeld = 20 * time.Second // while the present carrier works
)

// A redialer gets carriers for a client's line, one attempt at a time. Its
// fields are under the line's lock.
type redialer struct {
	c       *Conn
	dial    DialFunc
	running bool
	wanted  bool               // another carrier, though the present one works
	asked   bool               // the server may have heard of the attempt under way
	tries   int                // that failed in a row
	barren  int                // carriers in a row that were of no use
	after   time.Time          // before which no attempt is made
	ours    bool               // after is our choice and not the peer's wish
	cancel  context.CancelFunc // of the attempt under way
	patient bool               // that one may take long
	hurry   chan struct{}      // ends a pause
}

func newRedialer(c *Conn, dial DialFunc) *redialer {
	return &redialer{c: c, dial: dial, hurry: make(chan struct{}, 1)}
}

// lost is called when the line has lost its carrier, for err. fruitless says
// that the carrier was short-lived and of no use: then the next attempt is not
// made at once, lest the two sides do nothing else.
func (r *redialer) lost(err error, fruitless bool) {
	r.tries = 0
	if r.barren++; !fruitless {
		r.barren = 0
	}
	if r.ours { // while there was a carrier it could be long
		r.after, r.ours = time.Time{}, false
		r.wake()
	}
	r.notBefore(err)
	r.start()
}

func (r *redialer) notBefore(err error) {
	var e interface{ RetryAfter() time.Duration }
	if errors.As(err, &e) && e.RetryAfter() > 0 {
		r.after, r.ours = time.Now().Add(min(e.RetryAfter(), maxRetry)), false
	}
}

// renew wants another carrier while the present one works.
func (r *redialer) renew() {
	r.wanted = true
	r.start()
}

// renewFor is renew at the peer's wish, which does not come true on and on.
func (r *redialer) renewFor() {
	if at := r.c.at; at != nil && time.Since(at.began) < fruitful && r.after.IsZero() {
		r.after, r.ours = at.began.Add(fruitful), true
	}
	r.renew()
}

// now ends a pause, and a patient attempt, which does not count: its path may be
// gone. Another attempt would soon end by itself; and where the network changes
// again and again none would ever come to its end.
func (r *redialer) now() {
	r.tries, r.barren, r.after = 0, 0, time.Time{}
	if r.cancel != nil {
		r.tries = -1
	}
	if r.patient {
		r.interrupt()
	}
	r.wake()
}

// stop ends everything, with the line.
func (r *redialer) stop() { r.interrupt() }

func (r *redialer) interrupt() {
	if r.cancel != nil {
		r.cancel()
	}
	r.wake()
}

// wake has a pause looked at again.
func (r *redialer) wake() {
	select {
	case r.hurry <- struct{}{}:
	default:
	}
}

func (r *redialer) start() {
	if !r.running {
		r.running = true
		r.c.loops.Go(r.run)
	}
}

// run makes attempts until the line has what it wants, or has ended.
func (r *redialer) run() {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { r.running = false }()
	for c.err == nil && (c.at == nil || r.wanted) {
		if d := r.pause(); d > 0 {
			c.mu.Unlock()
			r.wait(d)
			c.mu.Lock()
			continue
		}
		r.after, r.ours = time.Time{}, false
		ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
		r.cancel = cancel
		quiet := attemptQuiet
		if r.patient = r.tries%4 == 3; r.patient {
			quiet = attemptTime // where names are slow to resolve no other one gets through
		}
		c.mu.Unlock()
		err := r.attempt(ctx, cancel, quiet)
		cancel()
		c.mu.Lock()
		r.cancel = nil
		r.settle(err)
	}
}

// pause returns how long to wait before the next attempt. A line without a
// carrier makes the first at once.
func (r *redialer) pause() time.Duration {
	if n := r.tries + r.barren; r.after.IsZero() && n > 0 {
		limit := min(firstPause<<min(n-1, 10), maxPause)
		if r.c.at != nil {
			limit = maxPauseHeld
		}
		r.after, r.ours = time.Now().Add(time.Duration(mathrand.Int64N(int64(limit)))), true
	}
	if r.after.IsZero() {
		return 0
	}
	return time.Until(r.after)
}

func (r *redialer) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.hurry:
	case <-r.c.done:
	}
}

// settle draws the conclusion from an attempt.
func (r *redialer) settle(err error) {
	c := r.c
	r.asked = false
	if c.untold && c.at == nil {
		c.untold = false
		c.sayDetached()
	}
	var reject *RejectError
	switch {
	case c.err != nil, err == nil:
	case !errors.As(err, &reject), reject.Code == RejectStaleEpoch, reject.Code == RejectBusy, reject.Code == RejectDraining:
		r.tries++
		r.notBefore(err)
		c.say(Event{Kind: Retrying, Err: err})
	case c.at != nil:
		// Another server than the one that has the session, perhaps: the
		// present carrier is worth more.
		r.wanted = false
		c.say(Event{Kind: Retrying, Err: err})
	case reject.Code == RejectClosed:
		c.buried(reject)
	default:
		c.end(fmt.Errorf("%w: %w", ErrLost, reject))
	}
}

// attempt dials a carrier and resumes the line on it. It is given up when
// nothing comes in for quiet.
func (r *redialer) attempt(ctx context.Context, cancel context.CancelFunc, quiet time.Duration) error {
	timer := time.AfterFunc(quiet, cancel)
	defer timer.Stop()
	alive := func() {
		if timer.Stop() {
			timer.Reset(quiet)
		}
	}
	car, err := r.dial(ctx, alive)
	if err != nil {
		return attemptError(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { car.Close() })
	err = r.c.resume(car, alive)
	if !stop() && err == nil {
		return nil // the line has seen its carrier close, or will
	}
	if err != nil {
		car.Close()
		car.Wait()
		return attemptError(ctx, err)
	}
	return nil
}

func attemptError(ctx context.Context, err error) error {
	var reject *RejectError
	if ctx.Err() != nil && !errors.As(err, &reject) {
		return errors.New("no answer in time")
	}
	return err
}

// resume does the client's part of a resume on car and attaches it.
func (c *Conn) resume(car Carrier, alive func()) error {
	chal, ch, err := challenged(car)
	var reject *RejectError
	switch {
	case errors.As(err, &reject) && reject.Code == RejectClosed:
		return violation("REJECT CLOSED for nothing, which proves nothing")
	case err != nil:
		return err
	}
	alive()
	ask := c.askResume()
	msg := ask.encode()
	msg = append(msg, resumption(c.hello.key, byClient, chal, msg)...)
	if err := car.WriteMessages(msg); err != nil {
		return err
	}
	answer, err := receiveMessage(car)
	if err != nil {
		return err
	}
	m, mac, err := parseResumed(answer)
	switch {
	case errors.As(err, &reject) && reject.Code == RejectUnknown:
		if ch.instance != c.hello.instance {
			reject.cause = ErrRestart
		} else {
			reject.cause = ErrUnknown
		}
		return reject
	case errors.As(err, &reject) && reject.Code == RejectClosed:
		if !hmac.Equal(reject.mac, resumption(c.hello.key, byGrave, chal, msg, reject.signed)) {
			return violation("REJECT CLOSED does not prove the key")
		}
		return reject
	case err != nil:
		return err
	case !hmac.Equal(mac, resumption(c.hello.key, byServer, chal, msg, answer[:len(answer)-len(mac)])):
		return violation("RESUMED does not prove the key")
	case m.epoch != ask.epoch:
		return violation("RESUMED for attempt %d, this is %d", m.epoch, ask.epoch)
	}
	return c.takeUp(car, m)
}

// askResume returns what the client says: one more attempt, and what it has.
func (c *Conn) askResume() resume {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.redial.asked = true
	m := resume{sid: c.hello.ID, epoch: c.epoch, rcv: c.in.rcv, wnd: c.in.grant()}
	rand.Read(m.nonce[:])
	return m
}

// takeUp attaches car, on which the server goes on as m says.
func (c *Conn) takeUp(car Carrier, m resumed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if m.rcv > c.out.maxSent {
		return &RejectError{Code: RejectCorrupt, Reason: fmt.Sprintf("the server has %d bytes of %d sent", m.rcv, c.out.maxSent)}
	}
	detached := c.at == nil
	c.redial.wanted, c.redial.tries = false, 0 // not later: the peer may want another at once
	c.attach(car, nil, m.rcv, m.wnd)
	c.resumed(detached)
	return nil
}

// buried is the end of a line of which the server says, with proof, that it had
// ended in order: all that is missing is its word for it.
func (c *Conn) buried(e *RejectError) {
	if c.out.closeSent && c.out.next == len(c.out.segs) && e.final == c.out.end && c.in.complete() {
		c.out.closeAcked = true
		c.end(net.ErrClosed)
		return
	}
	c.end(fmt.Errorf("%w: the server has closed the session with %d bytes of %d", ErrLost, e.final, c.out.end))
}
