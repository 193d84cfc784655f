package mux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"wstun/internal/line"
)

// What a session's streams lie on: yamux's, or the line as it is.

// A rawSession carries raw streams on a session's line.
type rawSession interface {
	open() (rawStream, error)   // errUsed, or any other error once it has ended
	accept() (rawStream, error) // fails once it has ended
	crowded() bool              // too many streams of the peer's have no answer

	CloseChan() <-chan struct{} // closed when it has ended
	IsClosed() bool
	Close() error // ends it and its line, at once

	fault() error            // how the peer broke the protocol of the raw session; nil: it did not
	explain(err error) error // what a stream fails with when Session.Err says err
}

// A rawStream is a stream below OPEN and records. Its errors are io.EOF, of a
// Read, only if the peer has let go of the stream; os.ErrDeadlineExceeded; a
// *ResetError; and any other if the session has ended.
type rawStream interface {
	io.ReadWriter
	Close() error // lets go of it, behind all that was written; reading goes on
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	StreamID() uint32

	writeNow(p []byte) (int, error) // Write, unless that has to wait for the peer
	abort(code uint16) bool         // resets it, past all that waits in it; false: that takes a RESET
	settled()                       // its OPEN is answered, or it is over
	rest() []byte                   // what came, once a reset has ended the session; Read returns it still
}

// errUsed is why a session of a single stream opens none.
var errUsed = errors.New("the session carries a single stream, its client's first")

// A singleLine is what a session of a single stream asks of its line; package
// line's Conn has it. Acknowledged is asked for where it is used.
type singleLine interface {
	Line
	CloseWrite() error // a clean CLOSE, behind everything; the peer reads io.EOF
	Abort(code uint16, cause error)
	Drained(ctx context.Context) error
	Done() <-chan struct{}
	Err() error
}

// A singleSession is the line as the one stream that its client opens.
type singleSession struct {
	line   singleLine
	client bool
	stream *singleStream
	taken  atomic.Bool // the stream was opened, or accepted

	life  context.Context // until the session has ended
	end   context.CancelFunc
	ended chan struct{} // closed when both sides have let go of the stream
	once  sync.Once
	abort sync.Once
}

func newSingle(l Line, _ Config, client bool) (rawSession, error) {
	able, ok := l.(singleLine)
	if !ok {
		return nil, errors.New("a single stream needs a line that says clean and other ends")
	}
	s := &singleSession{line: able, client: client, ended: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	s.stream = &singleStream{ses: s, line: able}
	return s, nil
}

func (s *singleSession) open() (rawStream, error) {
	switch {
	case !s.client:
		return nil, errUsed
	case s.IsClosed():
		return nil, net.ErrClosed
	case s.taken.Swap(true):
		return nil, errUsed
	}
	return s.stream, nil
}

// accept returns the client's stream, once, before its OPEN has come. No more than the OPEN is read before the answer, so
// what nobody has agreed to is bounded by the line's window.
//
// Then it waits for the end of the session, and makes it known. Nothing comes
// behind a stream that both sides let go of, but the line lasts until the peer
// knows that, and resumes for it.
func (s *singleSession) accept() (rawStream, error) {
	if !s.client && !s.taken.Swap(true) {
		return s.stream, nil
	}
	select {
	case <-s.line.Done():
	case <-s.life.Done():
	case <-s.ended:
		s.line.Drained(s.life)
	}
	s.end()
	return nil, net.ErrClosed
}

func (s *singleSession) crowded() bool              { return false }
func (s *singleSession) fault() error               { return nil }
func (s *singleSession) CloseChan() <-chan struct{} { return s.life.Done() }

// IsClosed may be true a moment before CloseChan is closed.
func (s *singleSession) IsClosed() bool {
	select {
	case <-s.line.Done():
		return true
	default:
		return s.life.Err() != nil
	}
}

// Close must not end the line clean under a stream that has not ended: the peer
// would take it for "all has arrived".
func (s *singleSession) Close() error {
	if s.taken.Load() && !s.stream.closed.Load() {
		s.reset(line.CodeAborted)
	}
	s.end()
	return s.line.Close()
}

// reset ends the line with a CLOSE, once: a second Abort would keep a line that
// has no carrier from telling the peer of the first.
func (s *singleSession) reset(code uint16) {
	s.abort.Do(func() { s.line.Abort(code, resetHere{}) })
}

// resetHere ends a line whose stream was reset on this side: as little a
// failure of the session as a Close. The peer may see the text.
type resetHere struct{}

func (resetHere) Error() string        { return "stream reset" }
func (resetHere) Is(target error) bool { return target == net.ErrClosed }

// explain makes a reset of the peer's CLOSE.
func (s *singleSession) explain(err error) error {
	var c *line.CloseError
	if !errors.As(err, &c) {
		return err
	}
	switch c.Code {
	case line.CodeAborted:
		return &ResetError{ResetByPeer}
	case line.CodeShutdown:
		return &ResetError{ResetShutdown}
	case line.CodeProtocol:
		return &ResetError{ResetProtocol}
	}
	return fmt.Errorf("%w: %w", &ResetError{ResetByPeer}, c)
}

// closeCode returns the CLOSE that stands for an RST.
func closeCode(code uint16) uint16 {
	switch code {
	case ResetShutdown:
		return line.CodeShutdown
	case ResetProtocol:
		return line.CodeProtocol
	}
	return line.CodeAborted
}

type singleStream struct {
	ses    *singleSession
	line   singleLine
	closed atomic.Bool
	ahead  []byte // by rest, and not read since
}

func (s *singleStream) Read(p []byte) (int, error) {
	if len(s.ahead) > 0 {
		n := copy(p, s.ahead)
		s.ahead = s.ahead[n:]
		return n, nil
	}
	n, err := s.line.Read(p)
	if err == io.EOF && s.closed.Load() {
		s.ses.once.Do(func() { close(s.ses.ended) })
	}
	return n, s.check(err)
}

func (s *singleStream) Write(p []byte) (int, error) {
	n, err := s.line.Write(p)
	return n, s.check(err)
}

// check notes the end of the session, which the line's own Done may not say
// yet: a line that is closed or aborted here still sends.
func (s *singleStream) check(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	s.ses.end()
	return err
}

// Close says a clean CLOSE, which to the peer means that everything was taken.
func (s *singleStream) Close() error {
	s.closed.Store(true)
	return s.line.CloseWrite()
}

func (s *singleStream) SetDeadline(t time.Time) error      { return s.line.SetDeadline(t) }
func (s *singleStream) SetReadDeadline(t time.Time) error  { return s.line.SetReadDeadline(t) }
func (s *singleStream) SetWriteDeadline(t time.Time) error { return s.line.SetWriteDeadline(t) }
func (s *singleStream) StreamID() uint32                   { return 1 }
func (s *singleStream) settled()                           {}

// nowWait is what "at once" means on a line: a deadline that is past makes its
// Write fail even if there is room, and the goroutine may not run for a while.
const nowWait = 100 * time.Millisecond

func (s *singleStream) writeNow(p []byte) (int, error) {
	s.SetWriteDeadline(time.Now().Add(nowWait))
	return s.Write(p)
}

// abort is CLOSE with a code, which overtakes everything and discards what the
// peer's line has not accepted. So if it only says that nobody reads any more,
// it waits for that.
func (s *singleStream) abort(code uint16) bool {
	if code == ResetUnread {
		s.deliver()
	}
	s.ses.reset(closeCode(code))
	return true
}

// unreadGrace bounds how long the peer may leave bytes unaccepted that were
// sent before the stream was closed, and have its own taken and dropped.
const unreadGrace = time.Hour

// deliver waits until the peer's line has accepted everything, or the peer has
// let go. What comes meanwhile it drops: a peer may not take what it is sent
// before it is rid of its own.
func (s *singleStream) deliver() {
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	grace := resetGrace // on a line that cannot tell
	if l, ok := s.line.(interface{ Acknowledged(context.Context) error }); ok {
		wait, grace = l.Acknowledged, unreadGrace
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	dropped := make(chan struct{})
	s.SetReadDeadline(time.Time{})
	go func() {
		defer close(dropped)
		io.Copy(io.Discard, s.line)
		cancel()
	}()
	wait(ctx)
	s.SetReadDeadline(longAgo)
	<-dropped
}

// rest is called with the stream's readMu held, and nothing comes any more.
func (s *singleStream) rest() []byte {
	b, _ := io.ReadAll(s.line)
	s.ahead = append(s.ahead, b...)
	return s.ahead
}

// over returns what a stream that has not failed fails with, since its session
// has ended. nil: the peer has reset it, but had ended its own direction in
// order before. Then what came from there stands and is read to its FIN, as
// after a RESET with ResetUnread, and only writes fail.
func (s *Stream) over() error {
	err := s.ses.raw.explain(s.ses.Err())
	var reset *ResetError
	if errors.As(err, &reset) && reset.Code == ResetByPeer && s.endsInOrder() {
		return nil
	}
	return err
}

// endsInOrder reports whether the peer's FIN has come, be it behind bytes that
// are not read yet.
func (s *Stream) endsInOrder() bool {
	s.readMu.Lock() // no Read waits any more
	defer s.readMu.Unlock()
	s.mu.Lock()
	finIn := s.finIn
	s.mu.Unlock()
	if finIn {
		return true
	}
	begun := s.head[:s.have]
	if s.unanswered() {
		begun = s.reply
	}
	r := io.MultiReader(bytes.NewReader(begun), bytes.NewReader(s.raw.rest()))
	if s.unanswered() {
		var h [3]byte
		if _, err := io.ReadFull(r, h[:]); err != nil || Status(h[0]) != OK {
			return false
		}
		io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint16(h[1:])))
	}
	io.CopyN(io.Discard, r, int64(s.left))
	for {
		var h [recHeader]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return false
		}
		typ, n, err := parseRecord(h[:])
		switch {
		case err != nil, typ == recRST:
			return false
		case typ == recFIN:
			return true
		}
		io.CopyN(io.Discard, r, int64(n))
	}
}
