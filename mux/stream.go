package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Stream is one connection inside a session: a net.Conn that ends each
// direction apart, and that tells an end from a failure.
type Stream struct {
	ses       *Session
	raw       rawStream
	remote    net.Addr
	incoming  bool // opened by the peer
	isControl bool

	replied chan struct{} // the opener's: closed when the answer is in; nil on the acceptor
	refusal error         // what it was, once replied is closed
	gate    gate          // of what is sent before it

	readMu  sync.Mutex
	reply   []byte // the answer, as far as read
	head    [recHeader]byte
	have    int // bytes of head
	left    int // bytes of the current DATA record still to be read
	writeMu sync.Mutex
	owedHdr []byte // of a record that a deadline cut short, what its header still needs
	owed    int    // and its body
	scratch []byte

	mu       sync.Mutex
	finIn    bool  // the peer's FIN record was read
	finOut   bool  // ours was written
	err      error // why the stream failed; nil while it has not
	unread   bool  // the peer has closed it: writes fail, reads go on
	told     bool  // the peer knows of the failure: it said so itself
	closed   bool  // Close or Abort was called
	readBy   time.Time
	writeBy  time.Time
	releases sync.Once
	released bool          // only the peer's end is waited for: nothing ends that wait early
	gone     chan struct{} // closed when the peer has let go of it, after us
	lost     error         // once gone is closed: why it is not known that the peer let go in order
}

var _ net.Conn = (*Stream)(nil)

// A ResetError is why a stream failed when the peer reset it.
type ResetError struct{ Code uint16 }

func (e *ResetError) Error() string {
	switch e.Code {
	case ResetTimeout:
		return "reset by the far end: timed out there"
	case ResetShutdown:
		return "reset by the far end: it is stopping"
	case ResetUnread:
		return "closed by the far end"
	}
	return "reset by the far end"
}

// Is makes errors.Is(err, syscall.ECONNRESET) hold across the session, or
// EPIPE where a socket would say so.
func (e *ResetError) Is(target error) bool {
	if e.Code == ResetUnread {
		return target == syscall.EPIPE
	}
	return target == syscall.ECONNRESET
}

// Ready blocks until Read has bytes, an end or an error to return, so that a
// caller need not hold a buffer meanwhile.
func (s *Stream) Ready() error {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	return s.nextRecord()
}

// Read returns bytes of the current record. io.EOF means that the peer said
// FIN and everything before it was read; a reset is a [*ResetError], the loss
// of the session wraps [ErrLost], a refused open is a [*RefusedError].
func (s *Stream) Read(p []byte) (int, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	if err := s.nextRecord(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := s.raw.Read(p[:min(len(p), s.left)])
	s.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, s.readErr(err)
}

// nextRecord reads up to the next byte of data. It can be called again after a
// deadline.
func (s *Stream) nextRecord() error {
	if err := s.readable(); err != nil {
		return err
	}
	if err := s.readReply(); err != nil {
		return err
	}
	for s.left == 0 {
		for s.have < recHeader {
			n, err := s.raw.Read(s.head[s.have:])
			s.have += n
			if n == 0 {
				return s.readErr(err)
			}
		}
		typ, n, err := parseRecord(s.head[:])
		if err != nil {
			return s.fail(err, false)
		}
		switch typ {
		case recData:
			s.left = n
		case recFIN:
			s.mu.Lock()
			s.finIn = true
			s.mu.Unlock()
			return io.EOF
		case recRST:
			var code [2]byte
			if _, err := io.ReadFull(s.raw, code[:]); err != nil {
				return s.readErr(err)
			}
			return s.fail(&ResetError{binary.BigEndian.Uint16(code[:])}, true)
		}
		s.have = 0
	}
	return nil
}

// readable returns why a Read must not begin. yamux looks at a deadline only
// when it has to wait; net.Conn looks first.
func (s *Stream) readable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.finIn:
		return io.EOF
	case s.err != nil:
		return s.err
	case passed(s.readBy):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func passed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// readErr says what an error, or an end, of the raw stream means for the reader.
func (s *Stream) readErr(err error) error {
	s.mu.Lock()
	switch {
	case s.err != nil:
		defer s.mu.Unlock()
		return s.err
	case s.closed:
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.mu.Unlock()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	case err == io.EOF:
		// No FIN record came before it: the peer gave the stream up.
		return s.fail(&ResetError{ResetByPeer}, true)
	case s.ses.raw.IsClosed():
		return s.fail(s.ses.raw.explain(s.ses.Err()), true)
	case err == nil:
		return io.ErrNoProgress
	}
	return s.fail(err, true)
}

// fail makes err the reason of all further reads and writes, wakes those that
// wait, and returns the first such reason. told says that the peer knows.
func (s *Stream) fail(err error, told bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.released {
		s.err, s.told = err, told
		s.raw.SetDeadline(longAgo)
		s.gate.open()
	}
	return s.err
}

var longAgo = time.Unix(1, 0)

// unanswered reports whether the stream is ours and its answer not in.
func (s *Stream) unanswered() bool {
	if s.replied == nil {
		return false
	}
	select {
	case <-s.replied:
		return false
	default:
		return true
	}
}

// readReply reads the answer to our OPEN, once.
func (s *Stream) readReply() error {
	if s.replied == nil {
		return nil
	}
	if !s.unanswered() {
		return s.refusal
	}
	for want := 3; len(s.reply) < want; {
		b := make([]byte, want-len(s.reply))
		n, err := s.raw.Read(b)
		s.reply = append(s.reply, b[:n]...)
		if n == 0 {
			err = s.readErr(err)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				s.answered(err)
			}
			return err
		}
		if len(s.reply) == 3 {
			if want += int(binary.BigEndian.Uint16(s.reply[1:])); want > 3+maxText {
				err := s.fail(fmt.Errorf("%w: a reply of %d bytes", ErrProtocol, want), false)
				s.answered(err)
				return err
			}
		}
	}
	var err error
	if status := Status(s.reply[0]); status != OK {
		err = s.fail(&RefusedError{status, string(s.reply[3:])}, true)
	}
	s.answered(err)
	return err
}

// answered notes the answer, and frees the slot that its absence held.
func (s *Stream) answered(err error) {
	s.refusal = err
	close(s.replied)
	s.gate.open()
	<-s.ses.pending
}

// awaitReply reads until the answer is in.
func (s *Stream) awaitReply(ctx context.Context) error {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { s.raw.SetReadDeadline(longAgo); close(woken) })
	s.readMu.Lock()
	defer s.readMu.Unlock()
	err := s.readReply()
	if !stop() {
		<-woken
		return context.Cause(ctx)
	}
	return err
}

// Room is what WriteBlock wants before the bytes.
func (s *Stream) Room() int { return recHeader }

// WriteBlock sends p[Room():] as one record and writes its header before it.
func (s *Stream) WriteBlock(p []byte) (int, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	return s.writeBlock(p)
}

func (s *Stream) writeBlock(p []byte) (n int, err error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	if s.owed > 0 { // finish the record that a deadline cut short
		if n, err = s.writeOwed(p[recHeader:]); err != nil || n == len(p)-recHeader {
			return n, err
		}
		p = p[n:]
	}
	if err := s.gate.pass(s, len(p)); err != nil {
		return n, err
	}
	putRecord(p, recData, len(p)-recHeader)
	k, err := s.raw.Write(p)
	if k < len(p) {
		s.owedHdr = append(s.owedHdr[:0], p[min(k, recHeader):recHeader]...)
		s.owed = len(p) - max(k, recHeader)
	}
	return n + max(k-recHeader, 0), s.writeErr(err)
}

// writeOwed completes a record that was cut short with the next bytes of p.
func (s *Stream) writeOwed(p []byte) (int, error) {
	for len(s.owedHdr) > 0 {
		k, err := s.raw.Write(s.owedHdr)
		s.owedHdr = s.owedHdr[k:]
		if err != nil {
			return 0, s.writeErr(err)
		}
	}
	k, err := s.raw.Write(p[:min(len(p), s.owed)])
	s.owed -= k
	return k, s.writeErr(err)
}

// Write sends p as records. A Write that a deadline ends may have been cut in
// the middle of one; a later one completes it.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if len(p) == 0 {
		return 0, s.writable()
	}
	for len(p) > 0 && err == nil {
		part := p[:min(len(p), 32<<10)]
		s.scratch = append(append(s.scratch[:0], 0, 0, 0, 0), part...)
		var k int
		k, err = s.writeBlock(s.scratch)
		n += k
		p = p[k:]
	}
	return n, err
}

func (s *Stream) writable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed, s.finOut:
		return net.ErrClosed
	case s.err != nil:
		return s.err
	case s.unread:
		return &ResetError{ResetUnread}
	case passed(s.writeBy):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (s *Stream) writeErr(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	failed, closed, unread := s.err, s.closed, s.unread
	s.mu.Unlock()
	switch {
	case failed != nil:
		return failed
	case closed:
		return net.ErrClosed
	case unread:
		return &ResetError{ResetUnread}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	case s.ses.raw.IsClosed():
		if err := s.over(); err != nil {
			return s.fail(err, true)
		}
		s.failUnread()
		return &ResetError{ResetUnread}
	}
	return s.fail(&ResetError{ResetByPeer}, true)
}
