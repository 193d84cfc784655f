package line

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"
)

// How a line changes carriers. There is one at a time: whatever comes late
// from another one is void.

// A carriage is what carries a line, now and next. Its fields are under the
// line's lock.
type carriage struct {
	at        *attachment   // the current carrier; nil: detached
	epoch     uint64        // of the newest attempt to attach one
	since     time.Time     // since when the line is detached
	why       error         // why it is
	untold    bool          // nobody was told yet: another carrier is about to take over
	window    time.Duration // how long it may be; 0: not at all
	hasty     bool          // the server drains, and does not wait for long
	confirmed bool          // the peer has shown that it has the session
	gap       uint64        // where bytes were missing, +1; 0: nowhere

	redial *redialer // a client's: gets carriers

	// A server's: called with the lock held when the line ends, and when it
	// has lost its carrier.
	forget   func(*Conn)
	orphaned func()
}

// An attachment is a carrier in its time as the current one.
type attachment struct {
	car   Carrier
	first []byte // goes out before all else: WELCOME or RESUMED
	began time.Time
	over  chan struct{} // closed with the carrier

	greeted   bool // first and an ACK are on their way
	sent      bool // DATA went out
	moved     int  // bytes that were accepted by either side
	proved    bool // the peer has answered, or acknowledged something
	acked     int  // bytes of ours that the peer has acknowledged
	quick     int  // of them, in a row, soon
	closeSent bool
	leaveBy   time.Time // DETACH was said: nothing is sent any more, and it ends by then; zero: it was not
}

// attach makes car the current carrier and owns it. peerRcv and wnd are what
// the peer has accepted and takes beyond; peerRcv is not above maxSent. Called
// with the lock held.
func (c *Conn) attach(car Carrier, first []byte, peerRcv uint64, wnd uint32) {
	c.fence()
	c.at = &attachment{car: car, first: first, began: time.Now(), over: make(chan struct{})}
	at := c.at
	c.window = 0
	if c.redial != nil || c.forget != nil {
		c.window = c.hello.ResumeWindow
	}
	if c.hasty {
		c.window = min(c.window, drainWindow)
	}
	c.out.rewind(peerRcv, wnd)
	c.live.attached()
	c.loops.Go(func() { c.reader(at) })
	c.changed.Broadcast()
	c.kick()
}

// fence takes the current carrier away, if there is one: from here on nothing
// of it counts. Called with the lock held.
func (c *Conn) fence() {
	at := c.at
	if at == nil {
		return
	}
	c.at = nil
	at.car.Abort(nil)
	close(at.over)
	c.out.crashed()
	if at.sent && at.acked == 0 {
		// It lived shorter than one frame takes: the next one gets smaller ones.
		c.out.unhalved, c.out.chunk = c.out.chunk, max(c.out.chunk/2, minChunk)
	}
}

// lost is called when at broke for err, with the lock held. It is void if
// another carrier has taken its place.
func (c *Conn) lost(at *attachment, err error) {
	if c.at != at || c.err != nil {
		return
	}
	switch {
	case c.drained() && c.linger && c.redial != nil && c.window > 0 && !c.late && !atEnd(err):
		// The peer would have ended the carrier in order once it had our
		// CLOSE_ACK. So it waits for that, and may for long.
		c.late, c.out.closeAck = true, true
		c.live.deadline = time.Now().Add(lateAbort)
		c.detach(err)
	case c.drained():
		c.end(net.ErrClosed)
	case c.out.abort != nil && !c.out.abortSent && c.abortsLate():
		c.abortLater(err)
	case c.out.abort != nil && (c.out.abortSent || c.hurried || !c.late):
		c.end(c.out.abortErr)
	case c.window == 0:
		c.end(fmt.Errorf("%w: %w", ErrLost, err))
	default:
		c.detach(err)
	}
}

// atEnd reports whether err is an end of a carrier in order.
func atEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// orphanWindow is how long a server keeps a session of whose client no frame
// has come: as long as the client's first attempts may take.
const orphanWindow = 30 * time.Second

func (c *Conn) detach(err error) {
	fruitless := c.at.moved < fruit && time.Since(c.at.began) < fruitful
	c.fence()
	c.since, c.why = time.Now(), err
	if c.redial == nil && !c.confirmed {
		c.window = min(c.window, orphanWindow)
	}
	c.live.detached()
	// A server ends the old carrier when it hears of the new one, which the
	// client may see first.
	if c.untold = c.redial != nil && c.redial.asked; !c.untold {
		c.sayDetached()
	}
	if c.redial != nil {
		c.redial.lost(err, fruitless)
	} else {
		c.orphaned()
	}
}

// A carrier must have moved so many bytes, or have lived so long, for the next to
// be tried at once.
const (
	fruit    = 1 << 10
	fruitful = 5 * time.Second
)

// drainWindow is how long a server that drains waits for a client. It makes an
// attempt every few seconds, if it still exists.
const drainWindow = 10 * time.Second

// hasten is for a server that drains.
func (c *Conn) hasten() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hasty = true
	if c.window == 0 || c.err != nil || c.live.c == nil {
		return
	}
	if c.at != nil {
		c.window = min(c.window, drainWindow)
		return
	}
	c.window = min(c.window, time.Since(c.since)+drainWindow)
	c.live.detached()
}

// expire ends a line that is detached for too long.
func (c *Conn) expire() {
	c.end(fmt.Errorf("%w: %w, and nothing else within %v", ErrLost, c.why, c.window))
}

// resumed is called when a line that was detached has a carrier again, or one
// that was not has another.
func (c *Conn) resumed(detached bool) {
	c.confirmed = true
	if detached && !c.untold {
		c.say(Event{Kind: Resumed, After: time.Since(c.since), Carrier: c.at.car})
	} else {
		c.say(Event{Kind: Moved, Carrier: c.at.car})
	}
}

// errGap drops a carrier on which bytes are missing: a bug of the peer's, or of
// something on the way.
var errGap = errors.New("bytes are missing")

// missing is called when the peer's next bytes are behind those expected. It
// returns how the carrier ends.
func (c *Conn) missing(off uint64) error {
	if off > math.MaxInt64 {
		return violation("an offset of %d", off)
	}
	if c.gap == c.in.rcv+1 {
		return violation("bytes from %d on, expected %d, for the second time", off, c.in.rcv)
	}
	c.gap = c.in.rcv + 1
	return fmt.Errorf("%w: they begin at %d, expected %d", errGap, off, c.in.rcv)
}

// Attached reports whether the line has a carrier now.
func (c *Conn) Attached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at != nil
}

// Probe is called when there is reason to believe that the carrier is dead or
// that another can be had at once: the peer is asked to answer within 3 s, and
// a client without a carrier tries for one now.
func (c *Conn) Probe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
	case c.at != nil:
		c.live.ask(probeTimeout)
	case c.redial != nil:
		c.redial.now()
	}
}

// probeTimeout bounds the answer to Probe.
const probeTimeout = 3 * time.Second

// Renew has a client attach another carrier while the present one works. On a
// server it does nothing: see GoAway.
func (c *Conn) Renew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.redial != nil && c.err == nil && c.window > 0 {
		c.redial.renew()
	}
}

// A Kind says what has happened to a line.
type Kind int

// Kinds of events.
const (
	Detached  Kind = iota // it has lost its carrier, for Err, and is kept for After without
	Retrying              // an attempt to get another failed, for Err
	Resumed               // it has another, After so long; nothing was lost
	Moved                 // it has another in place of one that worked
	GoingAway             // the peer says GOAWAY
)

// An Event is what the owner of a line may want to know.
type Event struct {
	Kind    Kind
	Err     error
	After   time.Duration
	Carrier Carrier // the new one
	GoAway  GoAway
}

// events are told one after another, without the line's lock.
type events struct {
	tell    func(Event)
	queue   []Event
	telling bool
}

// OnEvent sets what is called for each event, in order, never twice at a time,
// on a goroutine of the line. Set it before the first Read. It is told at once
// if the line is detached already.
func (c *Conn) OnEvent(f func(Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events.tell = f
	if c.at == nil {
		c.sayDetached()
	}
}

func (c *Conn) sayDetached() { c.say(Event{Kind: Detached, Err: c.why, After: c.window}) }

func (c *Conn) say(e Event) {
	if c.events.tell == nil || c.err != nil || c.closed {
		return // nobody to tell, or nothing that matters any more
	}
	if n := len(c.events.queue); n > 0 && e.Kind == GoingAway && c.events.queue[n-1].Kind == GoingAway {
		c.events.queue = c.events.queue[:n-1] // a peer may say it without end
	}
	c.events.queue = append(c.events.queue, e)
	if !c.events.telling {
		c.events.telling = true
		c.loops.Go(c.tell)
	}
}

func (c *Conn) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.events.queue) > 0 {
		e := c.events.queue[0]
		c.events.queue = c.events.queue[1:]
		f := c.events.tell
		c.mu.Unlock()
		f(e)
		c.mu.Lock()
	}
	c.events.telling = false
}
