package mux

import "encoding/binary"

// The guard judges every frame that comes, by the rules of docs/protocol.md,
// "Streams", so that yamux sees only what a peer of ours sends. Without it a
// peer makes yamux start goroutines without end (PING), spin for ever (a
// stream id of the wrong parity, or used twice), keep streams without end, or
// stop opening any (no ACK); and of a FIN too many or bytes beyond the window
// yamux closes the session without saying why.

// yamux's frame header: version u8 | type u8 | flags u16 | stream u32 | length u32.
const (
	yamuxHeader = 12

	yamuxData         = 0
	yamuxWindowUpdate = 1

	flagSYN   = 1
	flagACK   = 2
	flagFIN   = 4
	flagRST   = 8
	flagsKnow = flagSYN | flagACK | flagFIN | flagRST

	maxData     = 1 << 20
	maxWindow   = 16 << 20
	firstWindow = 256 << 10
	mostWindow  = 1<<31 - 1 // yamux's counter is a u32, and wraps
)

// maxBeforeAnswer bounds what a stream may hold that nobody has agreed to: its
// OPEN, the early records, and how they end.
const maxBeforeAnswer = openHeader + maxOpen + maxEarly + 64

// maxExcess is how many streams a peer may have beyond MaxStreams: they are
// refused, but it has not heard of that yet, or not let go.
const maxExcess = 2 * maxUnanswered

// A frame is yamux's header.
type frame struct {
	version, typ byte
	flags        uint16
	id, length   uint32
}

func parseFrame(p []byte) frame {
	return frame{p[0], p[1], binary.BigEndian.Uint16(p[2:]), binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint32(p[8:])}
}

func (h *frame) has(flag uint16) bool { return h.flags&flag != 0 }

// A flow is one stream as the frames of both directions make it. It is
// forgotten when it is over and answered.
type flow struct {
	ours          bool
	in, out       int64 // bytes that the windows leave to the peer, and to us
	early         int   // bytes of the peer's before our answer
	answered      bool  // by us, or it needs none
	acked         bool  // no ACK may come: it has, or its sender is the opener
	finIn, finOut bool
	over          bool // both FINs, or an RST
	woken         bool // see wake
}

// A verdict is what becomes of a frame that breaks no rule.
type verdict int

const (
	forYamux     verdict = iota
	ignored              // it means nothing, or its stream is over
	acknowledged         // for yamux, with the ACK that it waits for
)

// judge says what becomes of an inbound frame, or which rule it breaks.
func (a *adapter) judge(h frame) (v verdict, fault string) {
	switch {
	case h.version != 0:
		return 0, "version"
	case h.typ != yamuxData && h.typ != yamuxWindowUpdate:
		return 0, "type"
	case h.flags&^flagsKnow != 0:
		return 0, "flags"
	case h.id == 0:
		return 0, "stream 0"
	case h.typ == yamuxData && h.length > maxData, h.typ == yamuxWindowUpdate && h.length > maxWindow:
		return 0, "length"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ours, last := h.id%2 == 1 == a.client, a.last
	if ours {
		last = a.sent
	}
	switch {
	case h.has(flagSYN) && ours:
		return 0, "a stream id of this side's"
	case h.has(flagSYN) && h.id <= last:
		return 0, "a stream id again"
	case h.has(flagSYN) && a.peers >= a.most():
		return 0, "too many streams"
	case h.has(flagSYN):
		a.last = h.id
		a.begin(h.id, false)
	case h.id > last:
		return 0, "a stream that nobody has opened"
	}
	f := a.flows[h.id]
	if f == nil || f.over || h.flags == 0 && h.length == 0 {
		return ignored, ""
	}
	return a.comes(h, f)
}

// comes applies an inbound frame to its stream.
func (a *adapter) comes(h frame, f *flow) (v verdict, fault string) {
	switch first := !f.acked && !h.has(flagACK); {
	case h.has(flagACK) && f.acked:
		return 0, "an ACK too many"
	case f.ours && first && !h.has(flagRST) && !f.finOut:
		return 0, "the acceptor's first frame without ACK"
	case f.ours && first:
		// Not accepted, since it is reset or was over before: yamux would
		// keep a note of it for ever.
		v = acknowledged
	}
	f.acked = true
	if h.typ == yamuxData {
		n := int64(h.length)
		if f.in -= n; f.in < 0 {
			return 0, "beyond the window"
		}
		if !f.answered {
			if f.early += int(n); f.early > maxBeforeAnswer {
				return 0, "more than may come before the answer"
			}
		}
	} else if f.out += int64(h.length); f.out > mostWindow {
		return 0, "a window of 2 GiB"
	}
	if h.has(flagFIN) {
		if f.finIn {
			return 0, "FIN twice"
		}
		f.finIn = true
	}
	if h.has(flagRST) || f.finIn && f.finOut {
		a.over(h.id, f)
	}
	return v, ""
}

// sends applies an outbound frame.
func (a *adapter) sends(h frame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h.has(flagSYN) {
		a.sent = max(a.sent, h.id)
		a.begin(h.id, true)
	}
	f := a.flows[h.id]
	if f == nil {
		return
	}
	if h.typ == yamuxData {
		f.out -= int64(h.length)
	} else {
		f.in += int64(h.length)
	}
	if h.has(flagRST) {
		// More SYNs than yamux's backlog holds: nobody else hears of this one.
		a.answer(h.id, f)
	}
	f.finOut = f.finOut || h.has(flagFIN)
	if h.has(flagRST) || f.finIn && f.finOut {
		a.over(h.id, f)
	}
}

// most is how many streams the peer may have.
func (a *adapter) most() int {
	if a.streams == 0 {
		return defaultStreams + maxExcess
	}
	return a.streams + maxExcess
}

const defaultStreams = 16_384 // Config's

// The following are called with the lock held.

func (a *adapter) begin(id uint32, ours bool) {
	if a.flows == nil {
		a.flows = map[uint32]*flow{}
	}
	// The acceptor owes an ACK and an answer.
	a.flows[id] = &flow{ours: ours, answered: ours, acked: !ours, in: firstWindow, out: firstWindow}
	if !ours {
		a.peers++
		a.waiting++
	}
}

func (a *adapter) answer(id uint32, f *flow) {
	if !f.answered {
		f.answered = true
		a.waiting--
		a.drop(id, f)
	}
}

func (a *adapter) over(id uint32, f *flow) {
	f.over = true
	a.drop(id, f)
}

func (a *adapter) drop(id uint32, f *flow) {
	if !f.over || !f.answered || a.flows[id] != f {
		return
	}
	delete(a.flows, id)
	if !f.ours {
		a.peers--
	}
}

// settled notes that a stream of the peer's is answered, or that nobody here
// has to do with it any more: then more may come, or it may be forgotten.
func (a *adapter) settled(id uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.flows[id]; f != nil {
		a.answer(id, f)
	}
}

// unanswered returns how many streams of the peer have no answer.
func (a *adapter) unanswered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting
}
