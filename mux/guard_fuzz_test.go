package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// A wire is a Line in memory whose peer is a script.
type wire struct {
	net.Conn // nil: nothing else is asked of it

	mu      sync.Mutex
	changed *sync.Cond
	in      bytes.Buffer
	hungry  bool  // the reader waits: it has taken all that came
	stalled bool  // writes wait
	err     error // of reads behind in
	refuses bool  // writes fail
	closed  bool
	aborted []uint16 // the codes of Abort
	closing func()   // called by Close; may be nil
}

func newWire() *wire {
	w := &wire{}
	w.changed = sync.NewCond(&w.mu)
	return w
}

func (w *wire) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.changed.Broadcast()
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.closed:
			return 0, net.ErrClosed
		case w.in.Len() > 0:
			return w.in.Read(p)
		case w.err != nil:
			return 0, w.err
		}
		w.hungry = true
		w.changed.Broadcast()
		w.changed.Wait()
		w.hungry = false
	}
}

func (w *wire) WriteJoined(head, body []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.stalled && !w.closed {
		w.changed.Wait()
	}
	if w.closed || w.refuses {
		return 0, net.ErrClosed
	}
	return len(head) + len(body), nil
}

func (w *wire) Close() error {
	if w.closing != nil {
		w.closing()
	}
	w.change(func() { w.closed = true })
	return nil
}

func (w *wire) Abort(code uint16, _ error) {
	w.change(func() { w.closed = true; w.aborted = append(w.aborted, code) })
}

// taken waits until yamux has done with all that came, as far as it can with
// writes that wait.
func (w *wire) taken() {
	w.mu.Lock()
	defer w.mu.Unlock()
	late := time.AfterFunc(20*time.Second, func() { panic("yamux does not read on") })
	defer late.Stop()
	for !w.closed && !w.stalled && (w.in.Len() > 0 || !w.hungry && w.err == nil) {
		w.changed.Wait()
	}
}

// A user is one who has a stream of yamux's, and does with it what a script says.
type user struct {
	st            *yamux.Stream
	reads, writes chan int // how many bytes
	got, put      int      // so far, for check and fill
}

// A host is yamux behind the guard, and those who use it.
type host struct {
	ys     *yamux.Session
	guard  *adapter
	accept chan struct{} // how often; closed: always

	opening sync.Mutex
	running sync.WaitGroup
	mu      sync.Mutex
	users   []*user
	over    bool
	settle  func(id uint32)           // a stream that was accepted; may be nil
	check   func(u *user, got []byte) // what was read; may be nil
	fill    func(u *user, p []byte)   // what is written; may be nil
}

func newHost(l Line, client bool, backlog int, window uint32) *host {
	h := &host{guard: &adapter{line: l, client: client}, accept: make(chan struct{}, 2000)}
	open := yamux.Server
	if client {
		open = yamux.Client
	}
	ys, err := open(h.guard, &yamux.Config{
		AcceptBacklog: backlog, KeepAliveInterval: time.Hour, ConnectionWriteTimeout: 24 * time.Hour,
		MaxStreamWindowSize: window, LogOutput: io.Discard,
	})
	if err != nil {
		panic(err)
	}
	h.ys = ys
	h.running.Go(func() {
		for range h.accept {
			st, err := ys.AcceptStream()
			if err != nil {
				return
			}
			if h.settle != nil {
				h.settle(st.StreamID())
			}
			h.add(st)
		}
	})
	return h
}

func (h *host) open() {
	h.running.Go(func() {
		h.opening.Lock()
		st, err := h.ys.OpenStream()
		h.opening.Unlock()
		if err == nil {
			h.add(st)
		}
	})
}

func (h *host) add(st *yamux.Stream) {
	u := &user{st: st, reads: make(chan int, 16), writes: make(chan int, 16)}
	h.mu.Lock()
	h.users = append(h.users, u)
	if h.over {
		close(u.reads)
		close(u.writes)
	}
	h.mu.Unlock()
	h.running.Go(func() {
		for n := range u.reads {
			p := make([]byte, n)
			k, err := st.Read(p)
			if h.check != nil {
				h.check(u, p[:k])
			}
			if err != nil {
				return
			}
		}
	})
	h.running.Go(func() {
		for n := range u.writes {
			p := make([]byte, n)
			if h.fill != nil {
				h.fill(u, p)
			}
			if _, err := st.Write(p); err != nil {
				return
			}
		}
	})
}

// user returns one of those that there are.
func (h *host) user(i int) *user {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.users) == 0 {
		return nil
	}
	return h.users[i%len(h.users)]
}

// do has a user read, write or close, later and beside all else.
func (h *host) do(what byte, i, n int) {
	u := h.user(i)
	if u == nil {
		return
	}
	to := u.reads
	switch what {
	case 'c':
		h.running.Go(func() { u.st.Close() })
		return
	case 'w':
		to = u.writes
	}
	select {
	case to <- n:
	default:
	}
}

// end waits until nobody is there any more. The line must have ended.
func (h *host) end(t *testing.T, base int) {
	h.mu.Lock()
	h.over = true
	for _, u := range h.users {
		close(u.reads)
		close(u.writes)
	}
	h.mu.Unlock()
	late := time.AfterFunc(20*time.Second, func() { panic("a user of yamux's hangs, or its Close") }) // with all stacks
	<-h.ys.CloseChan()
	h.ys.Close()
	close(h.accept)
	h.running.Wait()
	late.Stop()

	// Why did it end? Streams that wait to be accepted may come before the answer.
	for range 1000 {
		_, err := h.ys.AcceptStream()
		if err == nil || err == yamux.ErrSessionShutdown {
			continue
		}
		if !errors.Is(err, net.ErrClosed) && err != io.EOF && !errors.Is(err, ErrProtocol) {
			t.Errorf("yamux itself ended the session: %v", err)
		}
		break
	}
	waitGoroutines(base)
}

// A script is what a peer and the users do, as bytes.
type script []byte

func (s *script) next() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// length returns a length, of those that matter.
func (s *script) length() uint32 {
	large := []uint32{
		200, 1000, 4095, 4096, 65_536, maxBeforeAnswer, maxBeforeAnswer + 1, firstWindow - 100, firstWindow - 1, firstWindow, firstWindow + 1,
		512 << 10, maxData, maxData + 1, maxWindow, maxWindow + 1, mostWindow, 1<<32 - 1,
	}
	b := int(s.next())
	if i := b - (256 - len(large)); i >= 0 {
		return large[i]
	}
	return uint32(b % 200)
}

// A peer makes frames of a script: most are what a peer of ours might send.
type peer struct {
	w    *wire
	odd  uint32 // of its ids, 0 or 1
	next uint32 // how many streams it has opened
}

// id returns one of those of its streams, or of the other side's.
func (p *peer) id(b byte) uint32 {
	if b&0x80 != 0 { // the other side's: 2, 4, … or 1, 3, …
		return 2*uint32(b&0x0f) + 2 - (1 - p.odd)
	}
	return 2*(uint32(b)%max(p.next, 1)) + 2 - p.odd
}

func (p *peer) send(typ byte, flags uint16, id, length uint32, whole bool) {
	b := yf(0, typ, flags, id, length)
	if typ == yamuxData && whole && length <= maxData {
		b = append(b, make([]byte, length)...)
	}
	p.w.change(func() { p.w.in.Write(b) })
}

// What a script says next; the operands are a stream and a length, where there
// are any.
const (
	opSYNData = iota
	opSYN
	opData
	opMoreData
	opWindow
	opFIN
	opRST
	opACK   // of a stream of the other side's
	opFlags // anything about a stream that there may be: flags, stream, length
	opRaw   // anything: a header
	opOpen  // from here on by the side that the guard protects
	opAccept
	opWrite
	opRead
	opReadOn
	opClose
	opTaken
	opStall
	opSettle
	ops
)

// theirs makes an operand name a stream that the guard's side opened.
const theirs = 0x80

// act does what the next bytes of the script say, for the peer or the users.
func act(s *script, p *peer, h *host) {
	switch op := s.next() % ops; op {
	case opSYNData, opSYN:
		id := 2*p.next + 2 - p.odd
		p.next++
		p.send(op, flagSYN, id, s.length(), true)
	case opData, opMoreData:
		p.send(yamuxData, 0, p.id(s.next()), s.length(), true)
	case opWindow:
		p.send(yamuxWindowUpdate, 0, p.id(s.next()), s.length(), true)
	case opFIN:
		p.send(yamuxWindowUpdate, flagFIN, p.id(s.next()), 0, true)
	case opRST:
		p.send(yamuxWindowUpdate, flagRST, p.id(s.next()), 0, true)
	case opACK:
		p.send(yamuxWindowUpdate, flagACK, p.id(s.next()|theirs), s.length(), true)
	case opFlags:
		b := s.next()
		p.send(b>>4&1, uint16(b&flagsKnow), p.id(s.next()), s.length(), b&half == 0)
	case opRaw:
		var hdr [yamuxHeader]byte
		for i := range hdr {
			hdr[i] = s.next()
		}
		p.w.change(func() { p.w.in.Write(hdr[:]) })
	case opOpen:
		h.open()
	case opAccept:
		h.accept <- struct{}{}
	case opWrite:
		h.do('w', int(s.next()), int(min(s.length(), 1<<20)))
	case opRead, opReadOn:
		h.do('r', int(s.next()), int(1+min(s.length(), 1<<20)))
	case opClose:
		h.do('c', int(s.next()), 0)
	case opTaken:
		p.w.taken()
		for range 50 { // and the users have their streams, most likely
			runtime.Gosched()
		}
	case opStall:
		p.w.change(func() { p.w.stalled = !p.w.stalled })
	case opSettle:
		h.guard.settled(p.id(s.next()))
	}
}

// What else opFlags says: WINDOW_UPDATE for DATA, and that its body does not come.
const (
	window = 0x10
	half   = 0x20
)

// How a session is, and how it ends.
const (
	atClient  = 1 << iota // the guard's side
	wide                  // its windows are of 1 MiB
	accepting             // all that comes
	settling              // what came before the end is done with

	eof     = 0 << 4 // the line ends in order
	failing = 1 << 4 // it fails both ways
	closing = 2 << 4 // it is closed here
	unsent  = 3 << 4 // writes fail first
)

// FuzzGuardAgainstYamux: what the guard lets through makes yamux neither
// panic, nor hang, nor spin, nor leave anything running, nor end the session:
// that is the guard's to do, which can say why.
func FuzzGuardAgainstYamux(f *testing.F) {
	for _, b := range hostile() {
		for _, how := range []byte{eof, failing, closing, unsent} {
			f.Add(b.script, b.mode|how)
			f.Add(b.script, b.mode|settling|how)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, mode byte) {
		if len(b) > 1000 {
			return
		}
		base := runtime.NumGoroutine()
		size := uint32(firstWindow)
		if mode&wide != 0 {
			size = 1 << 20
		}
		w := newWire()
		h := newHost(w, mode&atClient != 0, 3, size)
		if mode&accepting != 0 {
			for range 500 {
				h.accept <- struct{}{}
			}
		}
		p := &peer{w: w, odd: 1 - uint32(mode&atClient)}
		for s := script(b); len(s) > 0; {
			act(&s, p, h)
		}
		if mode&settling != 0 {
			w.taken()
		}
		switch mode & (3 << 4) {
		case eof:
			w.change(func() { w.err, w.stalled = io.EOF, false })
		case failing:
			w.change(func() { w.err, w.refuses, w.stalled = net.ErrClosed, true, false })
		case closing:
			w.Close()
		case unsent:
			w.change(func() { w.refuses, w.stalled = true, false })
			h.open() // somebody has to write
			w.taken()
			w.change(func() { w.err = net.ErrClosed })
		}
		h.end(t, base)
		if v := h.guard.violation.Load(); v == nil != (len(w.aborted) == 0) {
			t.Errorf("violation %v, the line was aborted with %v", v, w.aborted)
		}
	})
}

// A hostileScript is one that would do harm, or might, if the guard let it
// through.
type hostileScript struct {
	script []byte
	mode   byte
}

func hostile() []hostileScript {
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	do := func(b ...byte) []byte { return b }
	raw := func(typ, flags, id, length byte) []byte {
		return do(opRaw, 0, typ, 0, flags, 0, 0, 0, id, 0, 0, 0, length)
	}
	const ( // of lengths
		k256      = 247
		k256Less1 = 246
		m16       = 252
	)
	opened := do(opSYN, 0, opAccept, opTaken, opSettle, 0)
	ours := do(opOpen, opTaken, opACK, 0, 0)
	both := do(opRead, 0, 50, opRead, 1, 50, opWrite, 0, 50, opWrite, 1, 50)
	return []hostileScript{
		// By the numbers of what is known of yamux, Y1 to Y22.
		{join(opened, do(opData, 0, 100, opRead, 0, 50, opRead, 0, 50, opRead, 0, 50)), 0},                          // 1: the session ends, the stream has not
		{join(opened, do(opClose, 0, opTaken, opData, 0, 100, opFIN, 0)), 0},                                        // 2
		{join(do(opStall), opened, both, do(opClose, 0)), accepting},                                                // 3, 4, 15: writes are held up
		{bytes.Repeat(raw(2, 1, 0, 1), 20), 0},                                                                      // 5: PING
		{join(raw(1, 1, 2, 0), do(opAccept, opTaken, opOpen, opTaken), both, do(opTaken)), 0},                       // 6: SYN of the other side's parity, and that side opens it too
		{join(do(opOpen, opTaken), raw(1, 1, 1, 0), do(opAccept, opTaken), both), atClient},                         // 6
		{join(opened, both, raw(1, 1, 1, 0), do(opAccept, opTaken), both), 0},                                       // 6: SYN twice
		{join(opened, do(opClose, 0, opTaken, opFIN, 0, opTaken), raw(1, 1, 1, 0), do(opAccept, opTaken), both), 0}, // 6: SYN again, much later
		{join(bytes.Repeat(opened, 10), bytes.Repeat(both, 5)), accepting},                                          // 7: all wait when it ends
		{bytes.Repeat(do(opOpen), 10), atClient},                                                                    // 8, 9: nobody accepts
		{join(opened, do(opData, 0, k256, opTaken)), 0},                                                             // 10, 12: all of the window
		{join(opened, do(opData, 0, k256, opData, 0, 1, opTaken)), 0},                                               // 12: beyond the window
		{join(opened, do(opRead, 0, 200, opData, 0, k256, opRead, 0, k256, opTaken, opData, 0, k256, opTaken)), 0},  // 11
		{join(opened, do(opFIN, 0, opFIN, 0, opTaken)), 0},                                                          // 12: FIN twice
		{join(ours, do(opFIN, theirs, opTaken, opClose, 0, opFIN, theirs, opTaken)), 0},                             // 12: the second crosses ours
		{join(opened, do(opClose, 0, opTaken, opFIN, 0, opFIN, 0, opTaken)), 0},                                     // 12: the second comes when it is over
		{join(opened, do(opFlags, half, 0, 100, opRead, 0, 10, opTaken)), 0},                                        // 16: half a body
		{join(opened, do(opFlags, flagFIN|half, 0, 100), both), 0},                                                  // 16
		{join(do(opFlags, half, theirs, 200, opTaken, opOpen, opTaken)), atClient},                                  // 16: for a stream that is about to be opened
		{join(do(opStall), bytes.Repeat(do(opSYN, 0), 80), do(opOpen, opRead, 0, 1)), 0},                            // 17: the backlog, while writes are held up
		{join(do(opStall), bytes.Repeat(do(opSYN, 0), 80), do(opOpen), do(opStall), do(opTaken)), accepting},        // 17
		{do(opRaw, 0, 1, 0, 1, 255, 255, 255, 255, 0, 0, 0, 0, opAccept, opTaken, opSYN, 0, opTaken), 0},            // 19: the last id
		{join(opened, both, both, do(opWindow, 0, 20, opClose, 0)), wide},                                           // 21
		{join(opened, do(opWrite, 0, k256, opWrite, 0, 100, opFIN, 0, opTaken, opClose, 0)), 0},                     // 22: nobody reads
		{join(opened, raw(4, 0, 1, 0)), 0},
		{join(opened, do(opRaw, 1, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0)), 0}, // a version
		{join(opened, do(opRaw, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0)), 0}, // a flag
		{join(raw(0, 1, 0, 5), do(opAccept, opTaken, opRead, 0, 9)), 0},  // stream 0
		{join(opened, do(opData, 0, 251), both), wide},                   // lengths
		{join(opened, do(opWindow, 0, 254, opWindow, 0, 255), both), 0},
		{join(raw(3, 0, 0, 0), do(opOpen, opTaken)), 0}, // GOAWAY
		// By the rules of the wire.
		{join(ours, do(opACK, 0, 0, opACK, 0, 0, opTaken), ours), 0},                                                                                    // ACK twice
		{do(opACK, 0, 0, opTaken, opOpen, opTaken, opACK, 0, 0, opTaken), 0},                                                                            // before the SYN
		{do(opFlags, flagACK|window, 0, 0, opSYN, 0, opFlags, flagACK|window, 0, 0, opTaken), 0},                                                        // the opener's
		{bytes.Repeat(do(opOpen, opTaken, opFlags, 0, theirs, 3, opTaken), 5), 0},                                                                       // none
		{do(opOpen, opTaken, opFlags, flagRST|window, theirs, 0, opTaken, opOpen, opTaken, opFlags, flagRST, theirs+1, 9, opTaken, opOpen, opTaken), 0}, // nobody accepts
		{do(opOpen, opTaken, opClose, 0, opTaken, opFIN, theirs, opTaken, opOpen, opTaken), 0},                                                          // over before it is accepted
		{do(opFlags, flagRST|window, theirs, 0, opFlags, flagFIN, theirs, 0, opOpen, opTaken, opClose, 0), 0},                                           // ends for what is about to be opened
		{bytes.Repeat(do(opFlags, flagSYN|flagRST|window, 0, 0, opSYN, 0, opRST, 0), 5), accepting},                                                     // churn
		{bytes.Repeat(do(opSYN, 0, opRST, 0, opSYNData, 9, opRST, 1), 20), accepting},
		{bytes.Repeat(do(opSYN, 0, opFIN, 0, opSYNData, 9, opFIN, 1), 20), 0},
		{join(do(opFlags, flagSYN|flagFIN, 0, 9), opened, do(opTaken, opClose, 0, opTaken)), accepting}, // SYN and FIN
		{join(opened, do(opFlags, flagFIN|flagRST, 0, 9, opTaken, opClose, 0)), 0},                      // FIN and RST
		{join(opened, do(opFIN, 0, opFlags, flagFIN|flagRST|window, 0, 0, opTaken)), 0},
		{join(opened, do(opRST, 0, opData, 0, 100, opFIN, 0, opWindow, 0, 3, opTaken), both), 0},            // what is over
		{join(opened, bytes.Repeat(do(opWindow, 0, m16), 200), do(opTaken, opWrite, 0, 50, opTaken)), 0},    // a window that wraps
		{join(opened, bytes.Repeat(do(opData, 0, 0, opWindow, 0, 0), 100), both), 0},                        // what says nothing
		{join(opened, do(opFIN, 0, opData, 0, 100, opRead, 0, 50, opTaken, opRead, 0, 100, opClose, 0)), 0}, // bytes behind an end
		{join(do(opSYN, 0, opData, 0, 243, opAccept, opTaken), both), 0},                                    // before an answer
		{do(opSYN, 0, opData, 0, 244, opTaken), 0},
		{join(opened, do(opData, 0, k256Less1, opRead, 0, k256, opTaken, opData, 0, k256, opClose, 0, opTaken, opData, 0, 100)), wide},
	}
}
