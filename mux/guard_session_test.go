package mux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// What a user sees of a peer that breaks the rules of yamux's frames: an error
// that says so, at once, and nothing that runs on.
func TestSessionSaysWhatThePeerDid(t *testing.T) {
	const syn, ack, fin = 1, 2, 4
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	open := appendOpen(nil, kindTCP, "x:1")
	begun := join(yf(0, 1, syn, 1, 0), yf(0, 0, 0, 1, uint32(len(open)), open...))
	replied := yf(0, 0, ack, 1, 3, 0, 0, 0)
	var grants []byte
	for range 128 {
		grants = append(grants, yf(0, 1, 0, 1, maxWindow)...)
	}
	for _, tt := range []struct {
		name   string
		client bool
		in     []byte // behind the SYN of the session's control stream
		want   string
	}{
		{"ends a stream twice", false, join(begun, yf(0, 1, fin, 1, 0), yf(0, 1, fin, 1, 0)), "FIN twice"},
		{"sends beyond the window", true, join(replied, bytes.Repeat(yf(0, 0, 0, 1, 1<<18, make([]byte, 1<<18)...), 5)), "beyond the window"},
		{"lets a window wrap, so that writes would wait for ever", false, join(begun, grants), "a window of 2 GiB"},
		{"acknowledges twice", true, join(replied, yf(0, 1, ack, 1, 0)), "an ACK too many"},
		{"replies without an ACK, so that Dial would wait for ever", true, yf(0, 0, 0, 1, 3, 0, 0, 0), "without ACK"},
		{"writes to a stream that nobody opened", true, join(replied, yf(0, 0, 0, 99, 100)), "nobody has opened"},
		{"opens a stream of this side's", false, yf(0, 1, syn, 2, 0), "of this side's"},
		{"opens a stream again", false, join(begun, begun), "again"},
		{"sends PING", false, yf(0, 2, syn, 0, 1), "type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire()
			session := Server
			if tt.client {
				session = Client
			}
			s, err := session(w, Config{})
			if err != nil {
				t.Fatal(err)
			}
			dialed := make(chan error, 1)
			go func() { // to wait for what does not come
				_, err := s.Dial(context.Background(), "tcp", "x:1")
				dialed <- err
			}()
			go func() {
				for {
					r, err := s.Accept(context.Background())
					if err != nil {
						return
					}
					if st, err := r.Grant(""); err == nil {
						defer st.Close()
					}
				}
			}()
			w.change(func() { w.in.Write(tt.in) })
			for _, wait := range []func(){func() { <-s.Done() }, func() { err = <-dialed }} {
				ended := time.AfterFunc(20*time.Second, func() { panic("it goes on") })
				wait()
				ended.Stop()
			}
			if !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrLost) {
				t.Errorf("Dial: %v", err)
			}
			if err := s.Err(); !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the session: %v, want %q", err, tt.want)
			}
			s.Close()
			if fmt.Sprint(w.aborted) != "[3]" {
				t.Errorf("the line was aborted with %v", w.aborted)
			}
		})
	}
}

// As a peer that begins with half a body for the control stream, before there
// is one: yamux's OpenStream waited for the other half.
func TestHalfABodyDoesNotHoldUpANewSession(t *testing.T) {
	w := newWire()
	w.in.Write(yf(0, 0, 0, 1, 100, 'x'))
	late := time.AfterFunc(20*time.Second, func() { panic("Client hangs") })
	s, err := Client(w, Config{})
	late.Stop()
	if err == nil { // it was faster than the frame was read
		<-s.Done()
		err = s.Err()
		s.Close()
	}
	if !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}

func TestPeerThatOpensStreamsWithoutEndIsCutOff(t *testing.T) {
	const limit = 10
	for _, tt := range []struct {
		name    string
		more    uint16 // flags of a second frame
		settled bool   // this side has nothing more to do with them
		ended   bool   // and has said FIN
		lives   bool
	}{
		{"and keeps them", 0, false, false, false},
		{"and keeps those that were refused", 0, true, true, false},
		{"and resets them faster than they are looked at", flagRST, false, false, false},
		{"and resets them", flagRST, true, false, true},
		{"and ends them", flagFIN, true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire()
			a := &adapter{line: w, streams: limit}
			n := 0
			for ; n < 2*(limit+maxExcess) && !a.lost.Load(); n++ {
				id := uint32(2*n + 1)
				in := yf(0, 1, flagSYN, id, 0)
				if tt.more != 0 {
					in = append(in, yf(0, 1, tt.more, id, 0)...)
				}
				w.in.Write(in)
				for w.in.Len() > 0 && !a.lost.Load() {
					a.Read(make([]byte, yamuxHeader))
				}
				if tt.settled {
					a.settled(id)
				}
				if tt.ended {
					a.Write(yf(0, 1, flagFIN, id, 0))
				}
			}
			v := a.violation.Load()
			if tt.lives != (v == nil) || !tt.lives && !errors.Is(*v, ErrProtocol) {
				t.Errorf("at the %dth: %v", n, v)
			}
			if !tt.lives && n != limit+maxExcess+1 {
				t.Errorf("at the %dth", n)
			}
			if tt.lives && (len(a.flows) != 0 || a.peers != 0 || a.waiting != 0) {
				t.Errorf("%d are kept", len(a.flows))
			}
		})
	}
}

// Where thousands of streams wait for bytes, or for a window, and their session
// ended, yamux took all of the processor, for minutes.
func TestSessionOfManyStreamsThatWaitEndsAtOnce(t *testing.T) {
	const n = 500
	cut := yf(0, 0, 0, 1, 100, 'x')
	for _, tt := range []struct {
		name string
		end  func(w *wire, ys *yamux.Session)
	}{
		{"the line ends", func(w *wire, _ *yamux.Session) { w.change(func() { w.err = io.EOF }) }},
		{"the line fails", func(w *wire, _ *yamux.Session) {
			w.change(func() { w.err, w.refuses = net.ErrClosed, true })
		}},
		{"a write fails", func(w *wire, ys *yamux.Session) {
			w.change(func() { w.refuses = true })
			ys.OpenStream()
		}},
		{"it ends in the middle of a header", func(w *wire, _ *yamux.Session) {
			w.change(func() { w.in.Write(cut[:5]); w.err = io.EOF })
		}},
		{"it ends in the middle of a body", func(w *wire, _ *yamux.Session) {
			w.change(func() { w.in.Write(cut); w.err = net.ErrClosed })
		}},
		{"the peer breaks the protocol", func(w *wire, _ *yamux.Session) {
			w.change(func() { w.in.Write(yf(0, 2, 1, 0, 1)) })
		}},
		{"it is closed here", func(w *wire, _ *yamux.Session) { w.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := runtime.NumGoroutine()
			w := newWire()
			h := newHost(w, false, n, firstWindow)
			var waiting sync.WaitGroup
			for i := range n {
				w.change(func() { w.in.Write(yf(0, 1, flagSYN, uint32(2*i+1), 0)) })
				st, err := h.ys.AcceptStream()
				if err != nil {
					t.Fatal(err)
				}
				h.guard.settled(st.StreamID())
				waiting.Go(func() {
					if _, err := io.Copy(io.Discard, struct{ io.Reader }{st}); err != nil {
						t.Errorf("a read: %v", err)
					}
				})
				if i < 10 {
					if _, err := st.Write(make([]byte, firstWindow)); err != nil {
						t.Fatal(err)
					}
					waiting.Go(func() { st.Write(make([]byte, 1000)) })
				}
			}
			w.taken()
			w.closing = func() { // by yamux, once it has ended: from then on those who wait spin
				if !h.ys.IsClosed() {
					return
				}
				h.guard.mu.Lock()
				defer h.guard.mu.Unlock()
				for id, f := range h.guard.flows {
					if !f.over && (!f.woken || f.out < 1<<20) {
						t.Errorf("stream %d: nobody was freed", id)
						return
					}
				}
			}
			tt.end(w, h.ys)
			waiting.Wait()
			h.end(t, base)
		})
	}
}

// And what they are told is that the session is lost.
func TestStreamsThatWaitAreToldThatTheSessionIsLost(t *testing.T) {
	client, server := sessions(t, Config{})
	const n = 20
	said := make(chan error, 3*n)
	for range n {
		c, s := streams(t, client, server)
		for _, st := range []*Stream{c, s} {
			go func() {
				_, err := st.Read(make([]byte, 1))
				said <- err
			}()
		}
		_, full := streams(t, client, server)
		go func() {
			var err error
			for err == nil { // nobody reads it
				_, err = full.Write(make([]byte, 100_000))
			}
			said <- err
		}()
	}
	done, s := streams(t, client, server)
	done.CloseWrite()
	s.CloseWrite()
	done.Read(make([]byte, 1))
	done.Close() // and s has not been closed
	client.line.(tcpLine).Conn.Close()
	for range 3 * n {
		if err := <-said; !errors.Is(err, ErrLost) {
			t.Error(err)
		}
	}
	if err := done.Settled(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("all has arrived, it says: %v", err)
	}
}

// From the moment that the line has ended an end of yamux's is not the peer's.
func TestEndOfAStreamWhoseLineHasEndedIsALoss(t *testing.T) {
	w := newWire()
	s, err := Server(w, Config{})
	if err != nil {
		t.Fatal(err)
	}
	open := appendOpen(nil, kindTCP, "x:1")
	w.change(func() { w.in.Write(yf(0, 0, flagSYN, 1, uint32(len(open)), open...)) })
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st, err := r.Grant("")
	if err != nil {
		t.Fatal(err)
	}
	s.raw.(*yamuxSession).guard.lost.Store(true)
	w.change(func() { w.in.Write(yf(0, 1, flagFIN, 1, 0)) })
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	st.Close()
	s.Close()
}

// What had come, with its end, is whole; and half of something is a failure.
func TestWhatCameBeforeTheSessionWasLostIsRead(t *testing.T) {
	for _, fin := range []bool{true, false} {
		w := newWire()
		s, err := Server(w, Config{})
		if err != nil {
			t.Fatal(err)
		}
		open := appendOpen(nil, kindTCP, "x:1")
		record := append([]byte{0, 0, 0, 200}, bytes.Repeat([]byte("x"), 200)...)
		body := bytes.Repeat(record, 300)
		if fin {
			body = append(body, 1, 0, 0, 0)
		}
		w.change(func() {
			w.in.Write(yf(0, 0, flagSYN, 1, uint32(len(open)), open...))
			w.in.Write(yf(0, 0, 0, 1, uint32(len(body)), body...))
		})
		r, err := s.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st, err := r.Grant("")
		if err != nil {
			t.Fatal(err)
		}
		w.change(func() { w.err = io.ErrUnexpectedEOF })
		<-s.Done()
		got, err := io.ReadAll(st)
		if len(got) != 300*200 || fin && err != nil || !fin && !errors.Is(err, ErrLost) {
			t.Errorf("%d bytes, then %v", len(got), err)
		}
		st.Close()
		s.Close()
	}
}

// One parse a frame, and nothing for the garbage collector.
func TestGuardDoesNotAllocatePerFrame(t *testing.T) {
	in := bytes.Join([][]byte{yf(0, 1, 0, 1, 0), yf(0, 0, 0, 3, 100, make([]byte, 100)...), yf(0, 0, 0, 1, 100, make([]byte, 100)...), yf(0, 1, 0, 1, 100)}, nil)
	w := newWire()
	a := &adapter{line: w, client: true}
	a.Write(yf(0, 1, flagSYN, 1, 0))
	a.Write(yf(0, 1, flagSYN, 3, 0))
	w.in.Write(yf(0, 1, flagRST, 3, 0))
	w.in.Write(yf(0, 1, flagACK, 1, 0))
	buf := make([]byte, 4096)
	header, body := yf(0, 0, 0, 1, 200), make([]byte, 200)
	grow := yf(0, 1, 0, 1, 100)
	n := testing.AllocsPerRun(100, func() {
		w.in.Write(in)
		for w.in.Len() > 0 {
			if _, err := a.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		a.Write(header)
		a.Write(body)
		a.Write(grow)
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
