package mux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
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

// left is how much nobody has read yet.
func (f *feed) left() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.in.Len()
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
	for _, tt := range []struct {
		name   string
		client bool
		in     []byte
		passes bool
	}{
		{"a stream of the peer's", false, yf(0, 1, syn, 1, 0), true},
		{"a stream of the peer's, to a client", true, yf(0, 1, syn, 2, 0), true},
		{"another", false, join(yf(0, 1, syn, 1, 0), yf(0, 1, syn, 3, 0), yf(0, 1, syn, 1001, 0)), true},
		{"DATA with its body", false, join(yf(0, 1, syn, 1, 0), yf(0, 0, 0, 1, 3, 'a', 'b', 'c'), yf(0, 0, fin, 1, 0)), true},
		{"a body that looks like a bad frame", false, join(yf(0, 0, syn, 1, 12), yf(9, 9, 9, 9, 9), yf(0, 0, fin, 1, 0)), true},
		{"DATA of the largest size", false, yf(0, 0, 0, 1, maxData, make([]byte, maxData)...), true},
		{"a WINDOW_UPDATE of the largest size", false, yf(0, 1, 0, 1, maxWindow), true},
		{"all flags that there are", false, yf(0, 1, syn|ack|fin|rst, 1, 0), true},
		{"a stream that is not known", false, yf(0, 0, 0, 77, 0), true},
		{"an answer to a stream of ours", true, yf(0, 1, ack, 1, 0), true},
		{"all that may come before the answer", false, join(yf(0, 1, syn, 1, 0), yf(0, 0, 0, 1, maxBeforeAnswer, make([]byte, maxBeforeAnswer)...)), true},
		{"the same for each of two", false, join(yf(0, 0, syn, 1, maxBeforeAnswer, make([]byte, maxBeforeAnswer)...), yf(0, 0, syn, 3, maxBeforeAnswer, make([]byte, maxBeforeAnswer)...)), true},

		{"another version", false, yf(1, 0, 0, 1, 0), false},
		{"version 255", false, yf(255, 1, syn, 1, 0), false},
		{"PING", false, yf(0, 2, syn, 0, 1), false},
		{"an answer to PING", false, yf(0, 2, ack, 0, 1), false},
		{"GOAWAY", false, yf(0, 3, 0, 0, 0), false},
		{"type 4", false, yf(0, 4, 0, 1, 0), false},
		{"type 255", false, yf(0, 255, 0, 1, 0), false},
		{"an unknown flag", false, yf(0, 0, 16, 1, 0), false},
		{"the highest flag", false, yf(0, 0, 0x8000, 1, 0), false},
		{"DATA for stream 0", false, yf(0, 0, 0, 0, 0), false},
		{"WINDOW_UPDATE for stream 0", false, yf(0, 1, 0, 0, 1), false},
		{"DATA too large", false, yf(0, 0, 0, 1, maxData+1), false},
		{"DATA of 4 GiB", false, yf(0, 0, 0, 1, 1<<32-1), false},
		{"a WINDOW_UPDATE too large", false, yf(0, 1, 0, 1, maxWindow+1), false},
		{"a WINDOW_UPDATE of 4 GiB", false, yf(0, 1, 0, 1, 1<<32-1), false},
		{"a server's own stream", false, yf(0, 1, syn, 2, 0), false},
		{"a client's own stream", true, yf(0, 1, syn, 1, 0), false},
		{"a stream again", false, join(yf(0, 1, syn, 1, 0), yf(0, 1, syn, 1, 0)), false},
		{"a stream from before", false, join(yf(0, 1, syn, 5, 0), yf(0, 1, syn, 3, 0)), false},
		{"a stream again with DATA", false, join(yf(0, 0, syn, 1, 1, 'x'), yf(0, 0, syn, 1, 1, 'x')), false},
		{"more before the answer", false, join(yf(0, 1, syn, 1, 0), yf(0, 0, 0, 1, maxBeforeAnswer+1, make([]byte, maxBeforeAnswer+1)...)), false},
		{"more before the answer, with the SYN", false, yf(0, 0, syn, 1, maxBeforeAnswer+1, make([]byte, maxBeforeAnswer+1)...), false},
		{"more before the answer, bit by bit", false, join(yf(0, 0, syn, 1, maxBeforeAnswer, make([]byte, maxBeforeAnswer)...), yf(0, 0, 0, 1, 1, 'x')), false},
		{"a bad frame behind a body", false, join(yf(0, 0, syn, 1, 3, 'a', 'b', 'c'), yf(0, 2, 0, 0, 0)), false},
	} {
		for _, size := range []int{1, 5, 12, 13, 4096} {
			f := newFeed(tt.in)
			f.Close() // EOF of a kind behind the bytes
			a := &adapter{line: f, client: tt.client}
			var got []byte
			var err error
			for buf, n := make([]byte, size), 0; err == nil; got = append(got, buf[:n]...) {
				n, err = a.Read(buf)
			}
			if tt.passes && (!bytes.Equal(got, tt.in) || errors.Is(err, ErrProtocol)) {
				t.Errorf("%s: read by %d: %d bytes of %d passed, %v", tt.name, size, len(got), len(tt.in), err)
			}
			if !tt.passes && !errors.Is(err, ErrProtocol) {
				t.Errorf("%s: read by %d: passed: %v", tt.name, size, err)
			}
			if !tt.passes && len(got) > len(tt.in)-yamuxHeader {
				t.Errorf("%s: yamux has seen a part of the frame", tt.name)
			}
		}
	}
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
	if n := a.unanswered(); n != 1 {
		t.Errorf("%d count as unanswered", n)
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
// panics nor hangs when it is closed, and leaves nothing running.
func FuzzGuard(f *testing.F) {
	open := func(kind byte, body string) []byte { return appendOpen(nil, kind, body) }
	f.Add(yf(0, 2, 1, 0, 1), false)
	f.Add(bytes.Join([][]byte{yf(0, 1, 1, 1, 0), yf(0, 0, 0, 1, 6), open(kindControl, ""), yf(0, 0, 0, 1, 11), {0, 0, 0, 7, 1, 0, 0, 0, 3, 0, 1}}, nil), false)
	f.Add(bytes.Join([][]byte{yf(0, 0, 1, 1, 9), open(kindTCP, "x:1"), yf(0, 0, 0, 1, 5), {0, 0, 0, 1, 'x'}, yf(0, 0, 4, 1, 4), {1, 0, 0, 0}, yf(0, 1, 8, 1, 0)}, nil), false)
	f.Add(bytes.Join([][]byte{yf(0, 1, 2, 1, 0), yf(0, 0, 0, 1, 3), {0, 0, 0}, yf(0, 0, 1, 2, 9), open(kindTCP, "x:1")}, nil), true)
	f.Add(bytes.Join([][]byte{yf(0, 1, 1, 1, 0), yf(0, 1, 8, 1, 0), yf(0, 1, 15, 3, 0), yf(0, 0, 4, 5, 0)}, nil), false)
	f.Fuzz(func(t *testing.T, b []byte, client bool) {
		if len(b) > 64<<10 {
			return
		}
		l := newFeed(b)
		open := Server
		if client {
			open = Client
		}
		// A body that does not end holds yamux's OpenStream up: only the end of
		// the line frees it.
		stuck := time.AfterFunc(time.Second, func() { l.Close() })
		s, err := open(l, Config{})
		stuck.Stop()
		if err != nil {
			return // the guard was faster than the constructor
		}
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
		for over := false; l.left() > 0 && !over; { // until yamux has had all, or has given up
			select {
			case <-s.Done():
				over = true
			case <-time.After(50 * time.Microsecond):
			}
		}
		closed := make(chan struct{})
		go func() { s.Close(); users.Wait(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			panic("Close hangs") // with all stacks
		}
	})
}
