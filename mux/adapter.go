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

	// WriteJoined writes head and body so that they are not sent apart.
	WriteJoined(head, body []byte) (n int, err error)
}

// ErrProtocol is wrapped by the errors of a session or a stream whose peer
// broke the protocol.
var ErrProtocol = errors.New("protocol violation")

// yamux's frame header: version u8 | type u8 | flags u16 | stream u32 | length u32.
const (
	yamuxHeader = 12

	yamuxData         = 0
	yamuxWindowUpdate = 1

	flagSYN   = 1
	flagRST   = 8
	flagsKnow = 1 | 2 | 4 | 8 // SYN, ACK, FIN, RST

	maxData   = 1 << 20
	maxWindow = 16 << 20
)

// An adapter stands between yamux and the line.
//
// Outbound it joins yamux's header with the body that yamux writes next, so
// that they make one frame. Inbound it is the guard: yamux answers each PING
// with a goroutine, and a stream id of the wrong parity or used twice makes it
// spin for ever, so such frames never reach it. It also hands out header and
// body apart, so that a body goes straight into the stream's buffer.
type adapter struct {
	line   Line
	client bool // this side's ids are odd

	head []byte // outbound: a header that waits for its body

	hdr  [yamuxHeader]byte // inbound: the header, as far as read
	have int
	give int // of hdr, what yamux has not been given yet
	body int // bytes of the body that are still to come
	last uint32

	violation atomic.Pointer[error] // why the guard ended the session

	mu    sync.Mutex
	early map[uint32]int // of the peer's streams without an answer: bytes that came
}

var _ io.ReadWriteCloser = (*adapter)(nil)

// Write is called by yamux's one sending goroutine.
func (a *adapter) Write(p []byte) (int, error) {
	if a.head == nil && len(p) == yamuxHeader && p[1] == yamuxData && binary.BigEndian.Uint32(p[8:]) > 0 {
		a.head = append(make([]byte, 0, yamuxHeader), p...)
		return len(p), nil
	}
	if a.head == nil && len(p) == yamuxHeader && p[3]&flagRST != 0 {
		// More SYNs than yamux's backlog holds: nobody else hears of this one.
		a.settled(binary.BigEndian.Uint32(p[4:]))
	}
	head := a.head
	a.head = nil
	n, err := a.line.WriteJoined(head, p)
	return max(n-len(head), 0), err
}

// Read is called by yamux's one receiving goroutine.
func (a *adapter) Read(p []byte) (int, error) {
	if a.body > 0 {
		n, err := a.line.Read(p[:min(len(p), a.body)])
		a.body -= n
		return n, err
	}
	for a.have < yamuxHeader {
		n, err := a.line.Read(a.hdr[a.have:])
		a.have += n
		if a.have < yamuxHeader && err != nil {
			return 0, err
		}
		if a.have == yamuxHeader {
			if err := a.check(); err != nil {
				a.violation.Store(&err)
				if l, ok := a.line.(interface{ Abort(uint16, error) }); ok {
					l.Abort(closeProtocol, err)
				}
				return 0, err
			}
			a.give = yamuxHeader
		}
	}
	n := copy(p, a.hdr[yamuxHeader-a.give:])
	if a.give -= n; a.give == 0 {
		a.have = 0
		if a.hdr[1] == yamuxData {
			a.body = int(binary.BigEndian.Uint32(a.hdr[8:]))
		}
	}
	return n, nil
}

// check refuses a frame that a peer of ours never sends.
func (a *adapter) check() error {
	typ, flags := a.hdr[1], binary.BigEndian.Uint16(a.hdr[2:])
	id, length := binary.BigEndian.Uint32(a.hdr[4:]), binary.BigEndian.Uint32(a.hdr[8:])
	bad := func(what string) error {
		return fmt.Errorf("%w: yamux frame %x: %s", ErrProtocol, a.hdr, what)
	}
	switch {
	case a.hdr[0] != 0:
		return bad("version")
	case typ != yamuxData && typ != yamuxWindowUpdate:
		return bad("type")
	case flags&^flagsKnow != 0:
		return bad("flags")
	case id == 0:
		return bad("stream 0")
	case typ == yamuxData && length > maxData, typ == yamuxWindowUpdate && length > maxWindow:
		return bad("length")
	case flags&flagSYN == 0:
		if typ == yamuxData && !a.admits(id, int(length)) {
			return bad("more than may come before the answer")
		}
		return nil
	case (id%2 == 1) == a.client:
		return bad("a stream id of this side's")
	case id <= a.last:
		return bad("a stream id again")
	}
	a.last = id
	a.begins(id)
	if typ == yamuxData && !a.admits(id, int(length)) {
		return bad("more than may come before the answer")
	}
	return nil
}

// closeProtocol is the line's code for a peer that breaks the protocol.
const closeProtocol = 3

// maxBeforeAnswer bounds what a stream may hold that nobody has agreed to: its
// OPEN, the early records, and how they end.
const maxBeforeAnswer = openHeader + maxOpen + maxEarly + 64

// begins starts the count for a stream of the peer's.
func (a *adapter) begins(id uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.early == nil {
		a.early = map[uint32]int{}
	}
	a.early[id] = 0
}

// admits counts n bytes of stream id, and reports whether they may come.
func (a *adapter) admits(id uint32, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, ok := a.early[id]
	if !ok {
		return true
	}
	a.early[id] = have + n
	return have+n <= maxBeforeAnswer
}

// settled ends the count for a stream that is answered, or over.
func (a *adapter) settled(id uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.early, id)
}

// unanswered returns how many streams of the peer have no answer.
func (a *adapter) unanswered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.early)
}

// Close is called by yamux while its readers wait, so it must not block.
func (a *adapter) Close() error { return a.line.Close() }
