package mux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"
)

// A Request is the peer's wish for a connection. It must be answered, once, by
// Grant or Refuse.
type Request struct {
	Network string // "tcp", "udp", "unix" or "service"
	Address string // as asked for: not checked in any way

	st *Stream
}

// Accept waits for the next request. It fails when the session has ended.
func (s *Session) Accept(ctx context.Context) (*Request, error) {
	select {
	case r := <-s.requests:
		return r, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.raw.CloseChan():
		return nil, s.Err()
	}
}

// Grant says that the connection stands, bound to addr, which may be empty,
// and returns it. The caller closes it.
func (r *Request) Grant(addr string) (*Stream, error) {
	r.st.raw.settled()
	if _, err := r.st.raw.Write(appendReply(nil, OK, addr)); err != nil {
		r.st.Abort(nil)
		return nil, r.st.writeErr(err)
	}
	return r.st, nil
}

// Refuse answers with what the peer may know of err.
func (r *Request) Refuse(err error) { r.st.refuse(statusOf(err)) }

func (s *Stream) refuse(status Status, text string) {
	s.raw.Write(appendReply(nil, status, text)) // if it fails the session is over
	s.mu.Lock()
	s.told = true
	s.mu.Unlock()
	s.Abort(nil)
}

// accept takes yamux's streams and reads what each is for.
func (s *Session) accept() {
	for {
		raw, err := s.raw.accept()
		if err != nil {
			return
		}
		st := s.add(raw, nil)
		s.mu.Lock()
		st.incoming = true
		s.incoming++
		full := s.incoming > s.cfg.MaxStreams+1 // the control stream
		s.mu.Unlock()
		if full || s.raw.crowded() {
			s.background(func() { st.refuse(Limit, "too many streams") })
			continue
		}
		s.background(func() { s.opened(st) })
	}
}

// opened reads the OPEN of a stream and hands it on.
func (s *Session) opened(st *Stream) {
	open := io.Reader(st.raw)
	if s.cfg.Single { // its client may wait for a connection first
		var first [1]byte
		n, _ := st.raw.Read(first[:]) // an error is met again
		open = io.MultiReader(bytes.NewReader(first[:n]), open)
	}
	st.raw.SetReadDeadline(time.Now().Add(s.cfg.openTimeout))
	kind, body, err := readOpen(open)
	st.raw.SetReadDeadline(time.Time{})
	var refusal *RefusedError
	switch {
	case errors.As(err, &refusal):
		st.refuse(refusal.Status, refusal.Text)
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		st.refuse(TimedOut, "no OPEN came")
		return
	case err != nil:
		st.Abort(nil)
		return
	case kind == kindControl && !s.cfg.Single:
		s.serveControl(st)
		return
	}
	network := networkOf(kind)
	if network == "" {
		st.refuse(Bad, "not supported here")
		return
	}
	st.remote = target{network, body}
	select {
	case s.requests <- &Request{Network: network, Address: body, st: st}:
	case <-s.raw.CloseChan():
		st.Abort(nil)
	}
}

// Messages on a control stream, one a record: type u8 and its body. Others
// are for later versions and ignored.
const (
	ctlReset  = 1 // stream u32, code u16
	resetLen  = 1 + 4 + 2
	maxCtlLen = 1 << 10
)

func (s *Session) openControl() error {
	st, err := s.open(context.Background(), kindControl, "")
	if err != nil {
		return err
	}
	s.mu.Lock()
	st.isControl = true
	s.mu.Unlock()
	s.control = st
	s.running.Go(func() { st.Ready() }) // the answer; nothing follows it
	return nil
}

// reset tells the peer to abort its side of st, past everything that waits in
// the stream itself.
func (s *Session) reset(st *Stream, code uint16) {
	if st.raw.abort(code) {
		return
	}
	m := binary.BigEndian.AppendUint32([]byte{ctlReset}, st.raw.StreamID())
	m = binary.BigEndian.AppendUint16(m, code)
	s.control.Write(m) // fails only with the session, which resets every stream
}

// serveControl applies the peer's control messages until the session ends.
func (s *Session) serveControl(st *Stream) {
	s.mu.Lock()
	st.isControl = true
	s.controls++
	second := s.controls > 1
	s.mu.Unlock()
	if second {
		st.refuse(Bad, "there is a control stream")
		return
	}
	c, err := (&Request{st: st}).Grant("")
	if err != nil {
		return
	}
	defer c.Close()
	var buf [maxCtlLen]byte
	for {
		if err := c.Ready(); err != nil {
			return
		}
		n := c.left
		if n > len(buf) {
			return
		}
		if _, err := io.ReadFull(c, buf[:n]); err != nil {
			return
		}
		if n == resetLen && buf[0] == ctlReset {
			s.resetBy(binary.BigEndian.Uint32(buf[1:]), binary.BigEndian.Uint16(buf[5:]))
		}
	}
}

// resetBy fails a stream that the peer has reset. An unknown one has ended.
func (s *Session) resetBy(id uint32, code uint16) {
	s.mu.Lock()
	st := s.streams[id]
	if st != nil && st.isControl {
		st = nil
	}
	s.mu.Unlock()
	switch {
	case st == nil:
	case code == ResetUnread:
		st.failUnread()
	default:
		st.fail(&ResetError{code}, true)
	}
}
