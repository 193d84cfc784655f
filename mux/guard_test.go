package mux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// A feed is a Line that yields what it was given and then waits for its end;
// what is written to it is lost.
type feed struct {
	net.Conn // nil: nothing else is asked of it
	mu       sync.Mutex
	in       *bytes.Reader
	closed   chan struct{}
	once     sync.Once
}

func newFeed(b []byte) *feed { return &feed{in: bytes.NewReader(b), closed: make(chan struct{})} }

func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	n, _ := f.in.Read(p)
	f.mu.Unlock()
	if n > 0 {
		return n, nil
	}
	<-f.closed
	return 0, net.ErrClosed
}

func (f *feed) WriteJoined(head, body []byte) (int, error) {
	select {
	case <-f.closed:
		return 0, net.ErrClosed
	default:
		return len(head) + len(body), nil
	}
}

func (f *feed) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

// yf is a frame of yamux's.
func yf(version, typ byte, flags uint16, id, length uint32, body ...byte) []byte {
	b := []byte{version, typ}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, body...)
}

func TestGuard(t *testing.T) {
	const syn, ack, fin, rst = 1, 2, 4, 8
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	data := func(flags uint16, id uint32, n int) []byte { return yf(0, 0, flags, id, uint32(n), make([]byte, n)...) }
	begun := yf(0, 1, syn, 1, 0)             // by the client
	replied := yf(0, 0, ack, 1, 1, 'x')      // by the server
	over := join(begun, yf(0, 1, rst, 1, 0)) // a stream of the client's
	var grants []byte                        // up to what a window may be
	for range 127 {
		grants = append(grants, yf(0, 1, 0, 1, maxWindow)...)
	}
	grants = append(grants, yf(0, 1, 0, 1, maxWindow-firstWindow-1)...)

	for _, tt := range []struct {
		name   string
		client bool   // whose guard it is
		sent   []byte // by this side, before
		in     []byte
		want   []byte // what yamux gets; nil: the guard ends the session
	}{
		{"a stream of the peer's", false, nil, begun, begun},
		{"a stream of the peer's, to a client", true, nil, yf(0, 1, syn, 2, 0), yf(0, 1, syn, 2, 0)},
		{"another", false, nil, join(begun, yf(0, 1, syn, 3, 0), yf(0, 1, syn, 1001, 0)), join(begun, yf(0, 1, syn, 3, 0), yf(0, 1, syn, 1001, 0))},
		{"the last id that there is", false, nil, yf(0, 1, syn, 1<<32-1, 0), yf(0, 1, syn, 1<<32-1, 0)},
		{"DATA with its body", false, nil, join(begun, data(0, 1, 3), data(fin, 1, 0)), join(begun, data(0, 1, 3), data(fin, 1, 0))},
		{"a body that looks like a bad frame", false, nil, join(yf(0, 0, syn, 1, 12), yf(9, 9, 9, 9, 9), data(fin, 1, 0)), join(yf(0, 0, syn, 1, 12), yf(9, 9, 9, 9, 9), data(fin, 1, 0))},
		{"DATA of the largest size", true, join(begun, yf(0, 1, 0, 1, maxData)), join(replied, data(0, 1, maxData)), join(replied, data(0, 1, maxData))},
		{"a WINDOW_UPDATE of the largest size", false, nil, join(begun, yf(0, 1, 0, 1, maxWindow)), join(begun, yf(0, 1, 0, 1, maxWindow))},
		{"as much of a window as there may be", false, nil, join(begun, grants), join(begun, grants)},
		{"and more where it was used", true, join(begun, data(0, 1, 1000)), join(replied, grants, yf(0, 1, 0, 1, 1000)), join(replied, grants, yf(0, 1, 0, 1, 1000))},
		{"a stream that begins with its end", false, nil, yf(0, 1, syn|fin, 1, 0), yf(0, 1, syn|fin, 1, 0)},
		{"a stream that begins with an RST", false, nil, yf(0, 1, syn|fin|rst, 1, 0), yf(0, 1, syn|fin|rst, 1, 0)},
		{"all that may come before the answer", false, nil, join(begun, data(0, 1, maxBeforeAnswer)), join(begun, data(0, 1, maxBeforeAnswer))},
		{"the same for each of two", false, nil, join(data(syn, 1, maxBeforeAnswer), data(syn, 3, maxBeforeAnswer)), join(data(syn, 1, maxBeforeAnswer), data(syn, 3, maxBeforeAnswer))},
		{"an answer to a stream of ours", true, begun, replied, replied},
		{"all of the window", true, begun, join(replied, data(0, 1, firstWindow-1)), join(replied, data(0, 1, firstWindow-1))},
		{"all of a larger window", true, yf(0, 1, syn, 1, 100), join(replied, data(0, 1, firstWindow+99)), join(replied, data(0, 1, firstWindow+99))},
		{"all of a window that grew", true, join(begun, yf(0, 1, 0, 1, 100)), join(replied, data(0, 1, firstWindow+99)), join(replied, data(0, 1, firstWindow+99))},
		{"the end of a stream of ours", true, begun, join(replied, yf(0, 1, fin, 1, 0)), join(replied, yf(0, 1, fin, 1, 0))},
		{"bytes behind an end", true, begun, join(replied, yf(0, 1, fin, 1, 0), data(0, 1, 1)), join(replied, yf(0, 1, fin, 1, 0), data(0, 1, 1))}, // yamux's Write and Close may cross

		{"an RST for a stream of ours that nobody accepted", true, begun, yf(0, 1, rst, 1, 0), yf(0, 1, ack|rst, 1, 0)},
		{"the end of one that was over before it was accepted", true, join(begun, yf(0, 1, fin, 1, 0)), join(yf(0, 1, 0, 1, 9), yf(0, 1, fin, 1, 0)), join(yf(0, 1, ack, 1, 9), yf(0, 1, fin, 1, 0))},

		{"frames that say nothing", false, nil, join(begun, yf(0, 0, 0, 1, 0), yf(0, 1, 0, 1, 0), data(0, 1, 3)), join(begun, data(0, 1, 3))},
		{"anything for a stream that is over", false, nil, join(over, data(0, 1, 3), data(fin, 1, 20_000), yf(0, 1, fin, 1, 0), yf(0, 1, rst, 1, 0), yf(0, 1, syn, 3, 0)), join(over, yf(0, 1, syn, 3, 0))},
		{"and where both sides ended it", true, join(begun, yf(0, 1, fin, 1, 0)), join(replied, yf(0, 1, fin, 1, 0), yf(0, 1, fin, 1, 0), yf(0, 1, 0, 1, 5)), join(replied, yf(0, 1, fin, 1, 0))},

		{"another version", false, nil, yf(1, 0, 0, 1, 0), nil},
		{"version 255", false, nil, yf(255, 1, syn, 1, 0), nil},
		{"PING", false, nil, yf(0, 2, syn, 0, 1), nil},
		{"an answer to PING", false, nil, yf(0, 2, ack, 0, 1), nil},
		{"GOAWAY", false, nil, yf(0, 3, 0, 0, 0), nil},
		{"PING that names a stream", false, nil, join(begun, yf(0, 2, 0, 1, 1)), nil},
		{"GOAWAY that names a stream", false, nil, join(begun, yf(0, 3, 0, 1, 1)), nil},
		{"type 4", false, nil, yf(0, 4, 0, 1, 0), nil},
		{"type 255", false, nil, yf(0, 255, 0, 1, 0), nil},
		{"an unknown flag", false, nil, join(begun, yf(0, 0, 16, 1, 0)), nil},
		{"the highest flag", false, nil, join(begun, yf(0, 0, 0x8000, 1, 0)), nil},
		{"an unknown flag for a stream that is over", false, nil, join(over, yf(0, 0, 16, 1, 0)), nil},
		{"DATA for stream 0", false, nil, yf(0, 0, 0, 0, 0), nil},
		{"WINDOW_UPDATE for stream 0", false, nil, yf(0, 1, 0, 0, 1), nil},
		{"SYN of stream 0", true, nil, yf(0, 1, syn, 0, 1), nil},
		{"DATA too large", false, nil, join(begun, yf(0, 0, 0, 1, maxData+1)), nil},
		{"DATA of 4 GiB", false, nil, join(begun, yf(0, 0, 0, 1, 1<<32-1)), nil},
		{"DATA of 4 GiB for a stream that is over", false, nil, join(over, yf(0, 0, 0, 1, 1<<32-1)), nil},
		{"a WINDOW_UPDATE too large", false, nil, join(begun, yf(0, 1, 0, 1, maxWindow+1)), nil},
		{"a WINDOW_UPDATE of 4 GiB", false, nil, join(begun, yf(0, 1, 0, 1, 1<<32-1)), nil},
		{"a WINDOW_UPDATE too many", false, nil, join(begun, grants, yf(0, 1, 0, 1, 1)), nil},
		{"a server's own stream", false, nil, yf(0, 1, syn, 2, 0), nil},
		{"a client's own stream", true, nil, yf(0, 1, syn, 1, 0), nil},
		{"a client's own stream that there is", true, begun, yf(0, 1, syn, 1, 0), nil},
		{"a stream again", false, nil, join(begun, begun), nil},
		{"a stream again that is over", false, nil, join(over, begun), nil},
		{"a stream from before", false, nil, join(yf(0, 1, syn, 5, 0), yf(0, 1, syn, 3, 0)), nil},
		{"a stream again with DATA", false, nil, join(data(syn, 1, 1), data(syn, 1, 1)), nil},
		{"more before the answer", false, nil, join(begun, data(0, 1, maxBeforeAnswer+1)), nil},
		{"more before the answer, with the SYN", false, nil, data(syn, 1, maxBeforeAnswer+1), nil},
		{"more before the answer, bit by bit", false, nil, join(data(syn, 1, maxBeforeAnswer), data(0, 1, 1)), nil},
		{"a bad frame behind a body", false, nil, join(data(syn, 1, 3), yf(0, 2, 0, 0, 0)), nil},
		{"a bad frame behind a body for a stream that is over", false, nil, join(over, data(0, 1, 3), yf(0, 2, 0, 0, 0)), nil},

		{"DATA for a stream that nobody opened", false, nil, data(0, 77, 0), nil},
		{"FIN for one of ours that nobody opened", true, begun, yf(0, 1, fin, 3, 0), nil},
		{"RST for one of ours that nobody opened", true, nil, yf(0, 1, rst, 1, 0), nil},
		{"ACK for one of ours that nobody opened", true, nil, yf(0, 1, ack, 1, 0), nil},
		{"ACK of the opener's", false, nil, join(begun, yf(0, 1, ack, 1, 0)), nil},
		{"all flags that there are", false, nil, yf(0, 1, syn|ack|fin|rst, 1, 0), nil},
		{"ACK twice", true, begun, join(replied, yf(0, 1, ack, 1, 0)), nil},
		{"ACK behind an end without one", true, join(begun, yf(0, 1, fin, 1, 0)), join(yf(0, 1, 0, 1, 9), yf(0, 1, ack, 1, 0)), nil},
		{"a reply without ACK", true, begun, data(0, 1, 3), nil},
		{"a window without ACK", true, begun, yf(0, 1, 0, 1, 3), nil},
		{"an end without ACK", true, begun, yf(0, 1, fin, 1, 0), nil},
		{"more than the window", true, begun, join(replied, data(0, 1, firstWindow)), nil},
		{"more than a window that grew", true, join(begun, yf(0, 1, 0, 1, 100)), join(replied, data(0, 1, firstWindow+100)), nil},
		{"more than the window, bit by bit", true, begun, join(replied, data(0, 1, firstWindow-1), data(0, 1, 1)), nil},
		{"FIN twice", false, nil, join(begun, yf(0, 1, fin, 1, 0), yf(0, 1, fin, 1, 0)), nil},
		{"FIN twice, with the SYN", false, nil, join(yf(0, 1, syn|fin, 1, 0), yf(0, 0, fin, 1, 0)), nil},
		{"FIN twice on a stream of ours", true, begun, join(yf(0, 1, ack|fin, 1, 0), yf(0, 1, fin|rst, 1, 0)), nil},
	} {
		for _, size := range []int{1, 5, 12, 13, 4096} {
			f := newFeed(tt.in)
			f.Close() // EOF of a kind behind the bytes
			a := &adapter{line: f, client: tt.client}
			for b := tt.sent; len(b) > 0; b = b[min(len(b), 12):] {
				a.Write(b[:12])
				if n := binary.BigEndian.Uint32(b[8:]); b[1] == 0 && n > 0 {
					a.Write(b[12:][:n])
					b = b[n:]
				}
			}
			got, err := readAll(a, size)
			if tt.want != nil && (!bytes.Equal(got, tt.want) || errors.Is(err, ErrProtocol)) {
				t.Errorf("%s: read by %d: %d bytes of %d passed, %v", tt.name, size, len(got), len(tt.want), err)
			}
			if tt.want == nil && !errors.Is(err, ErrProtocol) {
				t.Errorf("%s: read by %d: passed: %v", tt.name, size, err)
			}
			if tt.want == nil && len(got) > len(tt.in)-yamuxHeader {
				t.Errorf("%s: yamux has seen a part of the frame", tt.name)
			}
			if n, again := a.Read(make([]byte, 100)); n > 0 || again != err {
				t.Errorf("%s: %v, then %d bytes, %v", tt.name, err, n, again)
			}
		}
	}
}

// readAll returns what yamux gets of the peer, and why no more comes.
func readAll(a *adapter, size int) (got []byte, err error) {
	buf := make([]byte, size)
	for err == nil || err == io.EOF { // of a body
		var n int
		if n, err = a.Read(buf); !a.lost.Load() {
			got = append(got, buf[:n]...)
		}
	}
	return got, err
}

// Yamux resets streams that come faster than they are accepted: then they
// must not count as unanswered for ever.
func TestStreamsThatYamuxResetsAreForgotten(t *testing.T) {
	const syn, rst = 1, 8
	f := newFeed(bytes.Join([][]byte{yf(0, 1, syn, 1, 0), yf(0, 1, syn, 3, 0)}, nil))
	f.Close()
	a := &adapter{line: f}
	io.Copy(io.Discard, struct{ io.Reader }{a})
	if n := a.unanswered(); n != 2 {
		t.Fatalf("%d count as unanswered", n)
	}
	a.Write(yf(0, 0, 0, 1, yamuxHeader))
	a.Write(yf(0, 1, rst, 3, 0)) // the body of the frame before
	if n := a.unanswered(); n != 2 {
		t.Errorf("a body that looks like a RST counts: %d", n)
	}
	a.Write(yf(0, 1, rst, 3, 0))
	if n := a.unanswered(); n != 1 || a.peers != 1 {
		t.Errorf("%d count as unanswered, %d as open", n, a.peers)
	}
}

// And where both sides reset one at once, it was one.
func TestStreamThatBothSidesResetCountsOnce(t *testing.T) {
	const syn, rst = 1, 8
	f := newFeed(bytes.Join([][]byte{yf(0, 1, syn, 1, 0), yf(0, 1, syn, 3, 0), yf(0, 1, rst, 3, 0)}, nil))
	f.Close()
	a := &adapter{line: f}
	io.Copy(io.Discard, struct{ io.Reader }{a})
	if a.peers != 2 {
		t.Errorf("%d count as open, though one has no answer yet", a.peers)
	}
	a.Write(yf(0, 1, rst, 3, 0))
	a.settled(3)
	a.settled(1)
	a.settled(1)
	if n := a.unanswered(); n != 0 || a.peers != 1 || len(a.flows) != 1 {
		t.Errorf("%d count as unanswered, %d as open", n, a.peers)
	}
}

// What the guard refuses ends the session, and the reason can be found.
func TestFrameThatTheGuardRefusesEndsTheSession(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	raw.Ping() // the answer never comes, the end does
	<-s.Done()
	if !errors.Is(s.Err(), ErrProtocol) || !errors.Is(s.Err(), ErrLost) {
		t.Error(s.Err())
	}
}

// FuzzGuard: whatever the guard lets through, a session behind it neither
// panics nor hangs, and leaves nothing running.
func FuzzGuard(f *testing.F) {
	open := func(kind byte, body string) []byte { return appendOpen(nil, kind, body) }
	f.Add(yf(0, 2, 1, 0, 1), false)
	f.Add(bytes.Join([][]byte{yf(0, 1, 1, 1, 0), yf(0, 0, 0, 1, 6), open(kindControl, ""), yf(0, 0, 0, 1, 11), {0, 0, 0, 7, 1, 0, 0, 0, 3, 0, 1}}, nil), false)
	f.Add(bytes.Join([][]byte{yf(0, 0, 1, 1, 9), open(kindTCP, "x:1"), yf(0, 0, 0, 1, 5), {0, 0, 0, 1, 'x'}, yf(0, 0, 4, 1, 4), {1, 0, 0, 0}, yf(0, 1, 8, 1, 0)}, nil), false)
	f.Add(bytes.Join([][]byte{yf(0, 1, 2, 1, 0), yf(0, 0, 0, 1, 3), {0, 0, 0}, yf(0, 0, 1, 2, 9), open(kindTCP, "x:1")}, nil), true)
	f.Add(bytes.Join([][]byte{yf(0, 1, 1, 1, 0), yf(0, 1, 8, 1, 0), yf(0, 1, 13, 3, 0), yf(0, 0, 4, 3, 0)}, nil), false)
	f.Add(bytes.Join([][]byte{yf(0, 0, 1, 1, 9), open(kindTCP, "xy:1"), yf(0, 0, 0, 1, 50), {1, 2, 3}}, nil), false)
	f.Fuzz(func(t *testing.T, b []byte, client bool) {
		if len(b) > 64<<10 {
			return
		}
		base := runtime.NumGoroutine()
		w := newWire()
		open := Server
		if client {
			open = Client
		}
		s, err := open(w, Config{})
		if err != nil {
			t.Fatal(err)
		}
		w.change(func() { w.in.Write(b) })
		var users sync.WaitGroup
		users.Go(func() {
			for {
				r, err := s.Accept(t.Context())
				if err != nil {
					return
				}
				if len(r.Address)%2 == 0 {
					r.Refuse(io.EOF)
				} else if st, err := r.Grant("y"); err == nil {
					users.Go(func() {
						io.Copy(io.Discard, struct{ io.Reader }{st})
						st.Close()
					})
				}
			}
		})
		w.taken()
		late := time.AfterFunc(20*time.Second, func() { panic("Close hangs") }) // with all stacks
		s.Close()
		users.Wait()
		late.Stop()
		waitGoroutines(base)
		if v := s.raw.(*yamuxSession).guard.violation.Load(); v == nil != (len(w.aborted) == 0) {
			t.Errorf("violation %v, the line was aborted with %v", v, w.aborted)
		}
	})
}

// waitGoroutines waits until no more run than before. One that spins stays.
func waitGoroutines(base int) {
	for until := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > base; runtime.Gosched() {
		if time.Now().After(until) {
			panic(fmt.Sprintf("%d goroutines are left, of %d", runtime.NumGoroutine(), base)) // with all stacks
		}
	}
}
