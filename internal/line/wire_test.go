package line

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// A wire is a carrier in memory with what networks do to one: latency, bounded
// buffers, a rate, and an end of which not everybody hears. It is for bubbles.
type wire struct {
	mu   sync.Mutex
	cond sync.Cond
	rng  *rand.Rand
	ends [2]*wireEnd // the client's, the server's
	ways [2]way      // by who writes

	left int  // bytes until the cut; negative: none
	mode int  // of that cut
	sure bool // what was on its way before a cut or a Close arrives
	bad  bool // something was done to it

	peek  func(from int, m []byte)        // sees what is delivered; may be nil
	alter func(from int, m []byte) []byte // changes what is written, or with nil loses it; may be nil
}

// A way is one direction of a wire.
type way struct {
	queue   []inFlight
	size    int // bytes written and not taken
	room    int // for them
	latency time.Duration
	rate    int       // bytes a second; 0: any
	busy    time.Time // with what was written before
	taken   uint32    // messages

	sent  int // bytes written
	cutAt int // the cut comes with this byte; negative: it does not
	drop  int // messages before it that it takes along if they are on their way

	hole   bool // what is written is never delivered
	over   bool // the reader is told of an end, behind what is on its way
	broken bool // the writer is told
}

type inFlight struct {
	begins, at time.Time
	m          []byte
}

type wireEnd struct {
	w      *wire
	i      int
	closed bool
}

// Modes of a cut.
const (
	cutTold    = iota // both ends are told
	cutHole           // nobody is, and nothing gets through
	cutOneWay         // one direction is dark
	cutOneTold        // one end is told, the other is not
	cutModes
)

func newWire(seed uint64) *wire {
	w := &wire{rng: rand.New(rand.NewPCG(seed, 99)), left: -1}
	w.cond.L = &w.mu
	for i := range w.ends {
		w.ends[i] = &wireEnd{w: w, i: i}
		w.ways[i].room, w.ways[i].cutAt = 1<<20, -1
	}
	return w
}

func (e *wireEnd) Next() (io.Reader, error) {
	w, in := e.w, &e.w.ways[1-e.i]
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		var timer *time.Timer
		switch {
		case e.closed:
			return nil, errCut
		case len(in.queue) > 0 && time.Until(in.queue[0].at) <= 0:
			m := in.queue[0].m
			in.queue = in.queue[1:]
			in.size -= len(m)
			in.taken++
			if w.peek != nil {
				w.peek(1-e.i, m)
			}
			w.cond.Broadcast()
			return bytes.NewReader(m), nil
		case len(in.queue) > 0:
			timer = time.AfterFunc(time.Until(in.queue[0].at), w.wake)
		case in.over:
			return nil, errCut
		}
		w.cond.Wait()
		if timer != nil {
			timer.Stop()
		}
	}
}

func (w *wire) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cond.Broadcast()
}

func (e *wireEnd) WriteMessages(msgs ...[]byte) error {
	w, out := e.w, &e.w.ways[e.i]
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range msgs {
		for !e.closed && !out.broken && out.size > 0 && out.size+len(m) > out.room {
			w.cond.Wait()
		}
		if e.closed || out.broken {
			return errCut
		}
		if out.sent += len(m); out.cutAt >= 0 && out.cutAt < out.sent {
			out.cutAt = -1
			out.queue = out.queue[:max(0, len(out.queue)-out.drop)]
			w.cut(cutTold)
			continue
		}
		if w.left >= 0 {
			if w.left -= len(m); w.left < 0 {
				w.cut(w.mode)
				if out.broken && w.rng.IntN(2) == 0 {
					return errCut
				}
				if out.broken || out.hole {
					continue // taken, and never delivered
				}
			}
		}
		if w.alter != nil {
			if m = w.alter(e.i, bytes.Clone(m)); m == nil {
				continue
			}
		}
		out.size += len(m)
		if out.hole {
			continue // where it stays
		}
		begins := later(time.Now(), out.busy)
		out.busy = begins
		if out.rate > 0 {
			out.busy = begins.Add(time.Duration(len(m)) * time.Second / time.Duration(out.rate))
		}
		out.queue = append(out.queue, inFlight{begins.Add(out.latency), out.busy.Add(out.latency), bytes.Clone(m)})
		w.cond.Broadcast()
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Received changes with each message, and on a slow wire while one comes in.
func (e *wireEnd) Received() uint32 {
	w, in := e.w, &e.w.ways[1-e.i]
	w.mu.Lock()
	defer w.mu.Unlock()
	n := in.taken << 20
	if len(in.queue) > 0 {
		q := in.queue[0]
		now := time.Now()
		if now.After(q.begins) && q.at.After(q.begins) {
			n += uint32(float64(len(q.m)) * min(float64(now.Sub(q.begins))/float64(q.at.Sub(q.begins)), 1))
		}
	}
	return n
}

// Close tells the other end, if anything gets there.
func (e *wireEnd) Close() error {
	w := e.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	out, in := &w.ways[e.i], &w.ways[1-e.i]
	in.queue, in.size = nil, 0
	if !out.hole {
		if !w.sure && w.rng.IntN(4) == 0 {
			w.lose(out)
		}
		out.over, in.broken = true, true
	}
	w.cond.Broadcast()
	return nil
}

func (e *wireEnd) Abort(error) error { return e.Close() }
func (e *wireEnd) Wait()             {}

func (e *wireEnd) isClosed() bool {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return e.closed
}

// lose drops some of what is on its way, from some message on.
func (w *wire) lose(o *way) {
	keep := max(0, len(o.queue)-w.rng.IntN(5))
	for _, q := range o.queue[keep:] {
		o.size -= len(q.m)
	}
	o.queue = o.queue[:keep]
}

// cut is called with the lock held.
func (w *wire) cut(mode int) {
	w.left, w.bad = -1, true
	hole := func(i int) { w.ways[i].hole = true }
	tell := func(i int) { w.ways[1-i].over, w.ways[i].broken = true, true }
	one := w.rng.IntN(2)
	for i := range w.ways {
		if !w.sure && (mode != cutOneWay || i == one) {
			w.lose(&w.ways[i])
		}
	}
	switch mode {
	case cutTold:
		tell(0)
		tell(1)
	case cutHole:
		hole(0)
		hole(1)
	case cutOneWay:
		hole(one)
	case cutOneTold:
		hole(0)
		hole(1)
		tell(one)
	}
	w.cond.Broadcast()
}

func (w *wire) cutNow(mode int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut(mode)
}

// stall holds up both directions for d.
func (w *wire) stall(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.ways {
		o := &w.ways[i]
		o.busy = later(time.Now(), o.busy).Add(d)
		for k := range o.queue {
			o.queue[k].begins, o.queue[k].at = o.queue[k].begins.Add(d), o.queue[k].at.Add(d)
		}
	}
	w.cond.Broadcast()
}

// extent returns which bytes of the line m carries, if it is DATA.
func extent(m []byte) (from, to uint64) {
	if len(m) <= dataHeaderLen || m[0] != frameData {
		return 0, 0
	}
	from = binary.BigEndian.Uint64(m[headerLen:])
	return from, from + uint64(len(m)-dataHeaderLen)
}
