package mux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"wstun/internal/netx"
)

// What a peer that means no good must not be able to do, and what one that
// merely goes on writing must be told.

// rawOpen opens a stream with these bytes, and ends it in no way.
func rawOpen(t *testing.T, raw *yamux.Session, b []byte) *yamux.Stream {
	t.Helper()
	st, err := raw.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	st.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := st.Write(b); err != nil {
		t.Fatal(err)
	}
	return st
}

// status reads the answer to an OPEN.
func status(t *testing.T, st *yamux.Stream) Status {
	t.Helper()
	var h [3]byte
	if _, err := io.ReadFull(st, h[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, st, int64(binary.BigEndian.Uint16(h[1:]))); err != nil {
		t.Fatal(err)
	}
	return Status(h[0])
}

func TestRefusedStreamsThatThePeerKeepsCountAsOpen(t *testing.T) {
	const limit = 10
	s, raw := rawPeer(t, Config{MaxStreams: limit}, false)
	unknown := appendOpen(nil, 99, "")
	var kept []*yamux.Stream
	for range limit + 1 { // a peer of ours has its control stream among them
		st := rawOpen(t, raw, unknown)
		if got := status(t, st); got != Bad {
			t.Fatalf("status %d", got)
		}
		kept = append(kept, st)
	}
	for range 2 * limit {
		st := rawOpen(t, raw, unknown)
		if got := status(t, st); got != Limit {
			t.Fatalf("with %d streams that it keeps: status %d", len(kept), got)
		}
		kept = append(kept, st)
	}
	// What still comes for them goes nowhere: the window opens again and again.
	for _, st := range []*yamux.Stream{kept[0], kept[len(kept)-1]} {
		if n, err := st.Write(make([]byte, 3<<20)); err != nil {
			t.Errorf("%d bytes to a refused stream, then %v: it is not read", n, err)
		}
	}
	for _, st := range kept {
		st.Close()
	}
	waitEmpty(t, s)
	if got, _ := ask(t, raw, unknown); got != Bad {
		t.Errorf("after it has let go of them: status %d", got)
	}
}

// A RESET for a stream that is over here must not make it uncounted there.
func TestResetOfARefusedStreamDoesNotHideIt(t *testing.T) {
	const limit = 10
	s, raw := rawPeer(t, Config{MaxStreams: limit}, false)
	ctl := rawOpen(t, raw, appendOpen(nil, kindControl, ""))
	if got := status(t, ctl); got != OK {
		t.Fatalf("status %d", got)
	}
	var kept []uint32
	for range limit - 1 {
		st := rawOpen(t, raw, appendOpen(nil, 99, ""))
		if got := status(t, st); got != Bad {
			t.Fatalf("status %d", got)
		}
		kept = append(kept, st.StreamID())
	}
	last := rawOpen(t, raw, appendOpen(nil, kindTCP, "x:1"))
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	granted, err := r.Grant("")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range append(kept, last.StreamID()) {
		m := make([]byte, recHeader, recHeader+resetLen)
		putRecord(m, recData, resetLen)
		m = append(m, ctlReset)
		m = binary.BigEndian.AppendUint32(m, id)
		m = binary.BigEndian.AppendUint16(m, ResetByPeer)
		if _, err := ctl.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	var reset *ResetError
	if _, err := granted.Read(make([]byte, 1)); !errors.As(err, &reset) { // all have been applied
		t.Fatal(err)
	}
	for range 5 * limit {
		if got := status(t, rawOpen(t, raw, appendOpen(nil, 99, ""))); got != Limit {
			t.Fatalf("status %d: streams that the peer keeps are not counted any more", got)
		}
	}
}

// Nobody has agreed yet to what comes before the answer.
func TestMoreThanTheEarlyBytesEndsTheSession(t *testing.T) {
	open := appendOpen(nil, kindTCP, "x:1")
	for _, tt := range []struct {
		name   string
		bytes  int // behind the OPEN
		answer bool
		lives  bool
	}{
		{"as much as may come", maxBeforeAnswer - len(open), false, true},
		{"one byte more", maxBeforeAnswer - len(open) + 1, false, false},
		{"much more", 250_000, false, false},
		{"much more, behind the answer", 250_000, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, raw := rawPeer(t, Config{}, false)
			st := rawOpen(t, raw, open)
			r, err := s.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if tt.answer {
				c, err := r.Grant("")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Abort(nil)
			}
			for n := tt.bytes; n > 0; n -= min(n, 10_000) {
				st.Write(make([]byte, min(n, 10_000)))
			}
			if !tt.lives {
				<-s.Done()
				if !errors.Is(s.Err(), ErrProtocol) {
					t.Error(s.Err())
				}
				return
			}
			if got, _ := ask(t, raw, appendOpen(nil, 99, "")); got != Bad { // it comes behind all that
				t.Errorf("another stream: status %d, %v", got, s.Err())
			}
		})
	}
}

func TestTooManyUnansweredOpensAreRefusedAndTheRestGoesOn(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	open := appendOpen(nil, kindTCP, "x:1")
	var unanswered []*Request
	var kept []*yamux.Stream
	for range maxUnanswered {
		kept = append(kept, rawOpen(t, raw, open))
		r, err := s.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		unanswered = append(unanswered, r)
	}
	for range 3 {
		if got, _ := ask(t, raw, open); got != Limit {
			t.Fatalf("status %d", got)
		}
	}
	for _, r := range unanswered {
		r.Refuse(netx.ErrDenied)
	}
	guard := s.raw.(*yamuxSession).guard
	for deadline := time.After(20 * time.Second); guard.unanswered() > 0; {
		select {
		case <-deadline:
			t.Fatalf("%d count as unanswered", guard.unanswered())
		case <-time.After(time.Millisecond):
		}
	}
	kept = append(kept, rawOpen(t, raw, open))
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Refuse(netx.ErrDenied)
	for _, st := range kept {
		st.Close()
	}
	waitEmpty(t, s)
}

func TestSecondControlStreamIsRefusedAndTheFirstServes(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	control := rawOpen(t, raw, appendOpen(nil, kindControl, ""))
	if got := status(t, control); got != OK {
		t.Fatalf("the first: status %d", got)
	}
	for range 3 {
		if got, _ := ask(t, raw, appendOpen(nil, kindControl, "")); got != Bad {
			t.Fatalf("another: status %d", got)
		}
	}
	st := rawOpen(t, raw, appendOpen(nil, kindTCP, "x:1"))
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Grant("")
	if err != nil {
		t.Fatal(err)
	}
	m := binary.BigEndian.AppendUint32([]byte{0, 0, 0, resetLen, ctlReset}, st.StreamID())
	control.Write(binary.BigEndian.AppendUint16(m, ResetTimeout))
	var re *ResetError
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &re) || re.Code != ResetTimeout {
		t.Errorf("a RESET on the first: %v", err)
	}
	c.Abort(nil)
}

// As an HTTP server that answers and closes while the upload goes on: the
// uploader is told that nobody reads it, and the answer is whole.
func TestAnswerIsWholeThoughTheUploaderIsToldThatNobodyReads(t *testing.T) {
	ofEitherKind(t, func(t *testing.T, sessions pair) {
		client, server := sessions(t, Config{})
		c, s := streams(t, client, server)
		want := bytes.Repeat([]byte("413 "), 50_000)
		if _, err := s.Write(want); err != nil {
			t.Fatal(err)
		}
		s.Close()
		c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		var err error
		for err == nil {
			_, err = c.Write(make([]byte, 10_000))
		}
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the uploader: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the uploader, again: %v", err)
		}
		if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
			t.Errorf("the answer: %d bytes of %d, %v", len(got), len(want), err)
		}
		c.Close()
		waitEmpty(t, client, server)
	})
}
