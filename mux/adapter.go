package mux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A Line is what a session runs on: package line's Conn, or anything else that
// can send two pieces as one.
type Line interface {
	net.Conn

	// WriteJoined writes head and body so that they are not sent apart. It
	// keeps neither.
	WriteJoined(head, body []byte) (n int, err error)
}

// ErrProtocol is wrapped by the errors of a session or a stream whose peer
// broke the protocol.
var ErrProtocol = errors.New("protocol violation")

// closeProtocol is the line's code for a peer that breaks the protocol.
const closeProtocol = 3

// An adapter stands between yamux and the line.
//
// Outbound it joins yamux's header with the body that yamux writes next, so
// that they make one frame. Inbound it hands out header and body apart, so
// that a body goes straight into the stream's buffer, and it is the guard:
// guard.go says which frames never reach yamux. When the line has ended it
// frees those who wait for yamux before yamux hears of that, see wake.
type adapter struct {
	line    Line
	client  bool // this side's ids are odd
	streams int  // that the peer may have open; 0: as in Config

	held bool // outbound: head waits for its body
	head [yamuxHeader]byte

	hdr  [yamuxHeader]byte // inbound: the header, as far as read
	have int
	give int      // of hdr, what yamux has not been given yet
	body int      // bytes of the body that are still to come
	skip bool     // they are not for yamux
	end  error    // why no more comes from the line
	left []uint32 // then: the streams that wake has not come to

	lost      atomic.Bool           // the line has ended, and yamux is about to
	violation atomic.Pointer[error] // why the guard ended the session

	mu      sync.Mutex
	flows   map[uint32]*flow
	peers   int    // of flows, those that the peer opened
	waiting int    // of those, those without an answer
	last    uint32 // the last stream that the peer opened
	sent    uint32 // and that this side did
}

var _ io.ReadWriteCloser = (*adapter)(nil)

// Write is called by yamux's one sending goroutine.
func (a *adapter) Write(p []byte) (int, error) {
	var head []byte
	switch {
	case a.held:
		head, a.held = a.head[:], false
	case len(p) == yamuxHeader:
		h := parseFrame(p)
		a.sends(h)
		if h.typ == yamuxData && h.length > 0 {
			a.held = true
			return copy(a.head[:], p), nil
		}
	}
	if _, err := a.line.WriteJoined(head, p); err != nil {
		// Yamux would end here and now, see wake. So it writes into the void
		// until its receiving goroutine has come to the end.
		a.line.Close()
	}
	return len(p), nil
}

// Read is called by yamux's one receiving goroutine.
func (a *adapter) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case a.give > 0:
			n := copy(p, a.hdr[yamuxHeader-a.give:])
			a.give -= n
			return n, nil
		case a.end != nil:
			cut := a.body > 0 && !a.skip
			a.body = 0
			switch {
			case cut:
				return 0, io.EOF // of the body: yamux goes on to the next header
			case !a.wake():
				return 0, a.end
			}
		case a.body > 0:
			n, err := a.line.Read(p[:min(len(p), a.body)])
			a.body -= n
			a.ended(err)
			if n > 0 && !a.skip {
				return n, nil
			}
		default:
			a.nextHeader()
		}
	}
	return 0, nil
}

// nextHeader reads on towards a whole header and has it judged.
func (a *adapter) nextHeader() {
	n, err := a.line.Read(a.hdr[a.have:])
	a.ended(err)
	if a.have += n; a.have < yamuxHeader {
		return
	}
	a.have, a.skip = 0, false
	h := parseFrame(a.hdr[:])
	switch v, fault := a.judge(h); {
	case fault != "":
		a.refuse(fault)
		return
	case v == ignored:
		a.skip = true
	case v == acknowledged:
		a.hdr[3] |= flagACK
		a.give = yamuxHeader
	default:
		a.give = yamuxHeader
	}
	if h.typ == yamuxData {
		a.body = int(h.length)
	}
}

// ended notes that nothing more comes from the line.
func (a *adapter) ended(err error) {
	if err != nil && a.end == nil {
		a.end = err
		a.lost.Store(true)
	}
}

// refuse ends the session for the frame in hdr.
func (a *adapter) refuse(fault string) {
	err := fmt.Errorf("%w: yamux frame %x: %s", ErrProtocol, a.hdr, fault)
	a.violation.Store(&err)
	a.end = nil // what the line says comes behind this
	a.ended(err)
	if l, ok := a.line.(interface{ Abort(uint16, error) }); ok {
		l.Abort(closeProtocol, err)
	}
}

// wake makes hdr a frame that frees who waits for one of the streams that are
// left, and reports whether there was one. All who wait in yamux's Read and
// Write spin from the moment that yamux ends until it has come to their
// stream, and with thousands of streams they keep it from the processor for
// minutes. So before that readers are given an end, behind what came, and
// writers room. [yamuxSession.IsClosed] says what that end is.
func (a *adapter) wake() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if len(a.left) == 0 {
			for id, f := range a.flows {
				if !f.over && !f.woken {
					a.left = append(a.left, id)
				}
			}
		}
		if len(a.left) == 0 {
			return false
		}
		id := a.left[len(a.left)-1]
		a.left = a.left[:len(a.left)-1]
		if f := a.flows[id]; f != nil && !f.over {
			a.hdr = [yamuxHeader]byte{1: yamuxWindowUpdate}
			if !f.finIn {
				a.hdr[3] = flagFIN
			}
			room := min(maxWindow, mostWindow-f.out)
			binary.BigEndian.PutUint32(a.hdr[4:], id)
			binary.BigEndian.PutUint32(a.hdr[8:], uint32(room))
			a.give = yamuxHeader
			f.out += room
			f.woken = true
			return true
		}
	}
}

// IsClosed reports whether the session has ended or is about to: then the end
// of a stream is no word of the peer's.
func (s *yamuxSession) IsClosed() bool { return s.guard.lost.Load() || s.Session.IsClosed() }

// Close is called by yamux while its readers wait, so it must not block.
func (a *adapter) Close() error { return a.line.Close() }
