package mux

import (
	"bytes"
	"runtime"
	"sync"
	"testing"

	"wstun/internal/netx/netxtest"
)

// memLine is a Line in memory.
type memLine struct{ *netxtest.Conn }

func (l memLine) WriteJoined(head, body []byte) (int, error) {
	return l.Write(append(append([]byte(nil), head...), body...))
}

// What two of yamux do, by script: the operands are a stream and a length,
// where there are any. Half of the bytes mean the other side.
const (
	doOpen = iota
	doAccept
	doWrite
	doWriteMuch
	doRead
	doReadMuch
	doClose
	doStall
	doYield
	dos
)

// FuzzGuardLetsYamuxThrough: the guard refuses nothing that yamux sends,
// whatever its users do and however they cross, and changes none of their bytes.
func FuzzGuardLetsYamuxThrough(f *testing.F) {
	const other = 0x80
	f.Add([]byte{doOpen, doAccept | other, doYield, doWrite, 0, 50, doRead | other, 0, 50, doClose, 0, doClose | other, 0}, byte(0))
	f.Add(bytes.Repeat([]byte{doOpen, doOpen | other, doAccept, doAccept | other, doYield}, 10), byte(3))
	f.Add(bytes.Repeat([]byte{doOpen}, 20), byte(4))                                  // beyond the backlog
	f.Add(bytes.Repeat([]byte{doOpen, doYield, doClose, 0, doClose, 1}, 10), byte(0)) // over before it is accepted
	f.Add(append(bytes.Repeat([]byte{doOpen, doYield, doClose, 0, doClose, 1}, 10), bytes.Repeat([]byte{doAccept | other}, 10)...), byte(0))
	f.Add(append([]byte{doOpen, doAccept | other, doYield}, bytes.Repeat([]byte{doWriteMuch, 0, 255, doReadMuch | other, 0, 255, doYield}, 30)...), byte(3))
	f.Add(append([]byte{doOpen, doAccept | other, doYield, doWriteMuch, 0, 255, doWriteMuch, 0, 255, doYield, doClose, 0}, bytes.Repeat([]byte{doReadMuch | other, 0, 255, doYield}, 10)...), byte(0))
	f.Add(append([]byte{doOpen, doAccept | other, doYield, doStall, doClose, 0, doClose | other, 0, doYield, doStall, doYield}, bytes.Repeat([]byte{doOpen | other, doAccept, doWrite, 0, 10}, 5)...), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, mode byte) {
		if len(b) > 500 {
			return
		}
		base := runtime.NumGoroutine()
		x, y := netxtest.Pipe()
		lines := [2]*netxtest.Conn{x, y}
		backlog := 3
		if mode&4 != 0 {
			backlog = 12 // of the opener's; the acceptor has fewer
		}
		var hosts [2]*host
		for i := range hosts {
			window := uint32(firstWindow)
			if mode>>i&1 != 0 {
				window = 1 << 20
			}
			hosts[i] = newHost(memLine{lines[i]}, i == 0, backlog, window)
			backlog = 3
		}
		var accepted sync.Map // ids, as far as anybody has asked: chan struct{}
		of := func(id uint32) chan struct{} {
			c, _ := accepted.LoadOrStore(id, make(chan struct{}))
			return c.(chan struct{})
		}
		for _, h := range hosts {
			h.check = func(u *user, got []byte) {
				for _, c := range got {
					if want := byte(u.got*7) ^ byte(u.st.StreamID()); c != want {
						t.Errorf("stream %d, byte %d: %d, want %d", u.st.StreamID(), u.got, c, want)
						return
					}
					u.got++
				}
			}
			h.fill = func(u *user, p []byte) {
				if u.put+len(p) > maxBeforeAnswer {
					select {
					case <-of(u.st.StreamID()):
					case <-h.ys.CloseChan():
					}
				}
				for i := range p {
					p[i] = byte(u.put*7) ^ byte(u.st.StreamID())
					u.put++
				}
			}
			h.settle = func(id uint32) {
				h.guard.settled(id)
				close(of(id))
			}
		}
		stalled := [2]bool{}
		for s := script(b); len(s) > 0; {
			op := s.next()
			side := op >> 7
			h := hosts[side]
			switch op & 0x7f % dos {
			case doOpen:
				h.open()
			case doAccept:
				h.accept <- struct{}{}
			case doWrite:
				h.do('w', int(s.next()), 1+int(s.next()))
			case doWriteMuch:
				h.do('w', int(s.next()), 1+1200*int(s.next()))
			case doRead:
				h.do('r', int(s.next()), 1+int(s.next()))
			case doReadMuch:
				h.do('r', int(s.next()), 1+1200*int(s.next()))
			case doClose:
				h.do('c', int(s.next()), 0)
			case doStall:
				stalled[side] = !stalled[side]
				lines[side].Stall(stalled[side])
			case doYield:
				for range 20 {
					runtime.Gosched()
				}
			}
		}
		for i, h := range hosts {
			if h.ys.IsClosed() {
				t.Errorf("side %d has ended: %v", i, h.guard.violation.Load())
			}
			lines[i].Stall(false)
		}
		hosts[mode>>3&1].ys.Close()
		for i, h := range hosts {
			if v := h.guard.violation.Load(); v != nil {
				t.Errorf("side %d: %v", i, *v)
			}
		}
		hosts[1-mode>>3&1].end(t, base+1000) // the other's are there still
		hosts[mode>>3&1].end(t, base)
	})
}
