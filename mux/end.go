package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// How a stream ends. yamux's Close is a half-close that also ends its writer's
// state; it is called once, when both directions have ended, by release.

// CloseWrite says FIN: no more bytes come.
func (s *Stream) CloseWrite() error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	if s.owed > 0 {
		return s.fail(errors.New("ended in the middle of a record"), false)
	}
	var fin [recHeader]byte
	putRecord(fin[:], recFIN, 0)
	if err := s.gate.pass(s, 0); err != nil {
		return err
	}
	if _, err := s.raw.Write(fin[:]); err != nil {
		return s.writeErr(err)
	}
	s.mu.Lock()
	s.finOut = true
	s.mu.Unlock()
	return nil
}

// Broken returns the failure that no read or write has reported yet.
func (s *Stream) Broken() error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err == nil && s.ses.raw.IsClosed() {
		return s.over()
	}
	return err
}

// failUnread makes writes fail, since nobody reads them, and leaves reads alone.
func (s *Stream) failUnread() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.unread && !s.closed {
		s.unread = true
		s.raw.SetWriteDeadline(longAgo)
		s.gate.open()
	}
}

// Close ends the stream: it says FIN if that was not said, and stops reading.
// A peer that goes on writing is told so. It does not wait for any of that.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	finished := s.finIn && s.finOut
	failed := s.err
	s.mu.Unlock()
	if finished {
		s.release()
		return nil
	}
	s.wake()
	if failed != nil {
		s.ses.background(func() { s.giveUp(failed) })
	} else {
		s.ses.background(s.linger)
	}
	return nil
}

// Abort ends the stream so that the peer's reads and writes fail with the code
// for cause, which may be nil. It does not wait.
func (s *Stream) Abort(cause error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.wake()
	s.ses.background(func() { s.giveUp(cause) })
	return nil
}

// wake frees a Read and a Write that wait.
func (s *Stream) wake() {
	s.raw.SetDeadline(longAgo)
	s.gate.open()
}

// linger finishes a closed stream: FIN, then the peer's end.
func (s *Stream) linger() {
	s.writeMu.Lock()
	s.mu.Lock()
	said, sayable := s.finOut, s.err == nil && s.owed == 0
	s.mu.Unlock()
	if !said && sayable {
		s.raw.SetWriteDeadline(time.Now().Add(resetGrace))
		var fin [recHeader]byte
		putRecord(fin[:], recFIN, 0)
		_, err := s.raw.Write(fin[:])
		said = err == nil
	}
	s.writeMu.Unlock()
	switch {
	case !said:
		s.ses.reset(s, ResetByPeer)
		s.awaitEnd(true)
	case !s.awaitEnd(false):
		s.ses.reset(s, ResetUnread)
		s.awaitEnd(true)
	}
	s.release()
}

// giveUp tells the peer that the stream failed, by an RST record if that goes
// out at once and by RESET on the control stream if not, and waits for it to
// let go. A peer that has not come to the record after a while, since unread
// bytes lie before it, is told by RESET as well.
func (s *Stream) giveUp(cause error) {
	defer s.release()
	s.mu.Lock()
	told := s.told
	s.mu.Unlock()
	if told || s.ses.raw.IsClosed() {
		return
	}
	code := codeOf(cause)
	if s.writeRST(code) && s.awaitEnd(true) {
		return
	}
	s.ses.reset(s, code)
	s.awaitEnd(true)
}

// writeRST writes the record unless it would have to wait for the window. A
// Write under way has been woken and lets go of the lock.
func (s *Stream) writeRST(code uint16) bool {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.owed > 0 || len(s.owedHdr) > 0 {
		return false
	}
	var rst [recHeader + 2]byte
	putRecord(rst[:], recRST, 2)
	binary.BigEndian.PutUint16(rst[recHeader:], code)
	n, err := s.raw.writeNow(rst[:])
	return err == nil && n == len(rst)
}

// awaitEnd discards what the peer sends until it lets go of the stream, for
// resetGrace at most, and reports whether it did. Unless all is unwanted, it
// also stops at the peer's FIN, and at bytes that it should not send.
func (s *Stream) awaitEnd(discard bool) bool {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	s.mu.Lock()
	if s.err != nil && s.told { // the peer waits for us to let go
		s.mu.Unlock()
		return true
	}
	s.raw.SetReadDeadline(time.Now().Add(resetGrace)) // under the lock: a RESET ends it
	s.mu.Unlock()
	if discard {
		_, err := io.Copy(io.Discard, s.raw)
		return err == nil
	}
	s.mu.Lock()
	finIn := s.finIn
	s.mu.Unlock()
	if finIn {
		return true
	}
	if s.left > 0 {
		return false
	}
	if err := s.readReply(); err != nil {
		var refusal *RefusedError
		return errors.As(err, &refusal)
	}
	for {
		for s.have < recHeader {
			n, err := s.raw.Read(s.head[s.have:])
			if s.have += n; n == 0 {
				return errors.Is(err, io.EOF)
			}
		}
		s.have = 0
		typ, n, err := parseRecord(s.head[:])
		switch {
		case err != nil, typ == recData && n > 0:
			return false
		case typ == recFIN, typ == recRST:
			return true
		}
	}
}

// release lets go of the stream, once. It counts as open until the peer has
// let go of it as well: yamux keeps it until then, and takes what still comes
// for it, which is dropped here.
func (s *Stream) release() {
	s.releases.Do(func() {
		s.readMu.Lock() // readers have been woken
		if s.unanswered() {
			s.answered(net.ErrClosed)
		}
		s.readMu.Unlock()
		s.raw.settled()
		s.raw.Close()
		s.ses.background(func() {
			s.readMu.Lock()
			defer s.readMu.Unlock()
			s.mu.Lock()
			s.released = true // before the deadline goes: fail would set it again
			s.raw.SetReadDeadline(time.Time{})
			s.mu.Unlock()
			if _, s.lost = io.Copy(io.Discard, s.raw); s.lost != nil && s.ses.raw.IsClosed() {
				s.lost = s.ses.Err()
			}
			close(s.gone)
			s.ses.forget(s)
		})
	})
}

// Settled waits until the peer has let go of a stream that both sides ended
// and that was closed here: then everything written has been taken at its far
// end. It returns why that is not known instead.
func (s *Stream) Settled(ctx context.Context) error {
	select {
	case <-s.gone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.lost
}
