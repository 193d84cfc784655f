// Package mux carries connections to and from a peer over one line.
//
// A [Session] multiplexes streams with yamux, or carries a single one without.
// Yamux reports a finished stream, a closed one and a lost session with the same
// io.EOF, and has no reset, so every stream carries records: an end is said by a
// FIN record and a failure by RST, and what yamux says of an end is never
// believed. The far end is used like a network: [Session.Dial] there,
// [Session.Accept] what it dials here.
//
// docs/protocol.md is the normative text. Who may open what is the acceptor's
// question; this package knows nothing of HTTP, WebSocket or policy.
package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Config is what a session may be told. The zero value is ready to use.
type Config struct {
	// StreamWindow is how many bytes of one stream this side takes unread.
	// 0 means 1 MiB; less than 256 KiB, yamux's least, is raised to that.
	StreamWindow uint32

	// MaxStreams bounds the streams that the peer may have open. 0 means
	// 16,384; further ones are refused with Limit.
	MaxStreams int

	// Single makes a session of one stream, which the client opens: OPEN,
	// reply and records lie directly on the line, whose window bounds them,
	// so the two fields above mean nothing. Both ends must agree on it. The
	// line must have the methods of package line's Conn. The session ends
	// with its stream.
	Single bool

	openTimeout time.Duration // for tests; 0: openTimeout
}

// WindowFor returns the stream window for a path with this round trip: what
// fills 1 Gbit/s with a quarter to spare, between 1 and 16 MiB.
func WindowFor(rtt time.Duration) uint32 {
	const bytesPerSecond = 156_000_000
	return uint32(min(max(rtt.Seconds()*bytesPerSecond, 1<<20), 16<<20))
}

const (
	openTimeout   = 10 * time.Second // for an OPEN to arrive, and for a peer to end an aborted stream
	resetGrace    = 30 * time.Second // for a peer to come to an RST record behind unread bytes
	maxPending    = 512              // OPENs without an answer, below yamux's backlog
	acceptBacklog = 1024
	maxEarly      = 64 << 10 // bytes sent behind an OPEN before its answer
	maxUnanswered = 1024     // OPENs of the peer's without an answer
)

// A Session is one end. Its methods may be called concurrently.
type Session struct {
	line Line
	raw  rawSession
	cfg  Config

	requests chan *Request
	pending  chan struct{} // a slot for each OPEN of ours without an answer
	opening  sync.Mutex
	control  *Stream // ours, for RESETs; its peer's is read. nil: the raw streams need none
	running  sync.WaitGroup

	mu       sync.Mutex
	streams  map[uint32]*Stream
	incoming int           // of streams, those that the peer opened
	controls int           // of incoming, control streams: one
	idle     chan struct{} // closed when the last stream is gone; nil: nobody waits
	ended    bool
}

// Client and Server return the two ends of a session on l, which the session
// owns from then on. They differ in the ids of their streams only.
func Client(l Line, cfg Config) (*Session, error) { return newSession(l, cfg, true) }

// Server is the other end of Client.
func Server(l Line, cfg Config) (*Session, error) { return newSession(l, cfg, false) }

func newSession(l Line, cfg Config, client bool) (*Session, error) {
	if cfg.StreamWindow == 0 {
		cfg.StreamWindow = 1 << 20
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 16_384
	}
	if cfg.openTimeout == 0 {
		cfg.openTimeout = openTimeout
	}
	s := &Session{
		line: l, cfg: cfg,
		requests: make(chan *Request),
		pending:  make(chan struct{}, maxPending),
		streams:  map[uint32]*Stream{},
	}
	open := newYamux
	if cfg.Single {
		open = newSingle
	}
	var err error
	if s.raw, err = open(l, cfg, client); err != nil {
		l.Close()
		return nil, fmt.Errorf("session: %w", err)
	}
	if !cfg.Single {
		if err := s.openControl(); err != nil {
			s.Close()
			return nil, err
		}
	}
	s.running.Go(s.accept)
	return s, nil
}

// Dial opens a connection to address on the peer's side. It returns when the
// answer is there; a refusal is a [*RefusedError]. ctx bounds the call only.
func (s *Session) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	st, err := s.DialEarly(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := st.awaitReply(ctx); err != nil {
		st.Abort(err)
		return nil, &net.OpError{Op: "dial", Net: network, Addr: target{network, address}, Err: err}
	}
	return st, nil
}

// DialEarly is Dial that does not wait for the answer: up to 64 KiB may be
// written before it, and a refusal is what the first Read fails with. The
// conn must be read, or its writes stop there.
func (s *Session) DialEarly(ctx context.Context, network, address string) (*Stream, error) {
	kind, ok := kinds[network]
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
	}
	if len(address) > maxOpen {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("address too long")}
	}
	return s.open(ctx, kind, address)
}

func (s *Session) open(ctx context.Context, kind byte, body string) (*Stream, error) {
	select {
	case s.pending <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.raw.CloseChan():
		return nil, s.Err()
	}
	// yamux takes the id and sends the SYN in two steps: two openers at once
	// could send theirs out of order, which the peer's guard does not allow.
	s.opening.Lock()
	raw, err := s.raw.open()
	s.opening.Unlock()
	if err != nil {
		<-s.pending
		if errors.Is(err, errUsed) {
			return nil, err
		}
		return nil, s.Err()
	}
	st := s.add(raw, target{networkOf(kind), body})
	st.replied = make(chan struct{})
	if _, err := raw.Write(appendOpen(nil, kind, body)); err != nil {
		st.answered(s.Err())
		st.Abort(nil)
		return nil, s.Err()
	}
	return st, nil
}

// add registers a stream; a session that has ended still gives it a life, the
// shortest possible.
func (s *Session) add(raw rawStream, remote net.Addr) *Stream {
	st := &Stream{ses: s, raw: raw, remote: remote, gone: make(chan struct{})}
	st.gate.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[raw.StreamID()] = st
	return st
}

func (s *Session) forget(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st.raw.StreamID())
	if st.incoming {
		s.incoming--
	}
	if s.idle != nil && s.count() == 0 {
		close(s.idle)
		s.idle = nil
	}
}

// NumStreams returns how many streams are open, control streams not counted.
func (s *Session) NumStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count()
}

func (s *Session) count() (n int) {
	for _, st := range s.streams {
		if !st.isControl {
			n++
		}
	}
	return n
}

// Idle waits until no stream is open, the session has ended, or ctx is done.
func (s *Session) Idle(ctx context.Context) {
	s.mu.Lock()
	if s.count() == 0 {
		s.mu.Unlock()
		return
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
	case <-s.Done():
	case <-ctx.Done():
	}
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.raw.CloseChan() }

// ErrLost is wrapped by the errors of streams whose session ended before them.
var ErrLost = errors.New("session lost")

// Err returns why the session ended, and a general answer while it lives.
func (s *Session) Err() error {
	err := s.raw.fault()
	if l, ok := s.line.(interface{ Err() error }); ok && err == nil {
		err = l.Err()
	}
	if err == nil || errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("%w: %w", ErrLost, net.ErrClosed)
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// Close ends the session and its streams at once, and returns when nothing of
// it runs any more.
func (s *Session) Close() error {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.raw.Close()
	s.running.Wait()
	return nil
}

// background runs f as a part of the session, or, in an ended session, at once.
func (s *Session) background(f func()) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		f()
		return
	}
	s.running.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.running.Done()
		f()
	}()
}

// yamuxSession and yamuxStream are yamux's, behind its guard.
type yamuxSession struct {
	*yamux.Session
	guard *adapter
}

func newYamux(l Line, cfg Config, client bool) (rawSession, error) {
	yc := &yamux.Config{
		AcceptBacklog: acceptBacklog,
		// The line does liveness; and each of yamux's timers loses data or
		// kills a session that a slow carrier merely delays.
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour, // must be set, is not used
		ConnectionWriteTimeout: 24 * time.Hour,
		MaxStreamWindowSize:    max(cfg.StreamWindow, 256<<10),
		LogOutput:              io.Discard, // every error it logs also ends the session
	}
	s := &yamuxSession{guard: &adapter{line: l, client: client, streams: cfg.MaxStreams}}
	open := yamux.Server
	if client {
		open = yamux.Client
	}
	var err error
	s.Session, err = open(s.guard, yc)
	return s, err
}

func (s *yamuxSession) open() (rawStream, error)   { return s.wrap(s.OpenStream()) }
func (s *yamuxSession) accept() (rawStream, error) { return s.wrap(s.AcceptStream()) }

func (s *yamuxSession) wrap(st *yamux.Stream, err error) (rawStream, error) {
	return &yamuxStream{st, s}, err
}

func (s *yamuxSession) crowded() bool           { return s.guard.unanswered() > maxUnanswered }
func (s *yamuxSession) explain(err error) error { return err }

func (s *yamuxSession) fault() error {
	if v := s.guard.violation.Load(); v != nil {
		return *v
	}
	return nil
}

// Close ends the line first. yamux's readers spin from the start of its Close
// until its receiving goroutine has ended: with thousands of streams they keep
// that from the processor for minutes.
func (s *yamuxSession) Close() error {
	s.guard.Close()
	select {
	case <-s.CloseChan():
	case <-time.After(10 * time.Second):
	}
	return s.Session.Close()
}

type yamuxStream struct {
	*yamux.Stream
	ses *yamuxSession
}

// Read tells apart what yamux says with the same error, and says like net what
// it says in its own way.
func (s *yamuxStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err == io.EOF && s.ses.IsClosed() {
		err = yamux.ErrSessionShutdown
	}
	return n, inWordsOfNet(err)
}

func (s *yamuxStream) Write(p []byte) (int, error) {
	n, err := s.Stream.Write(p)
	if err == nil && s.ses.IsClosed() {
		err = yamux.ErrSessionShutdown // it went nowhere
	}
	return n, inWordsOfNet(err)
}

func inWordsOfNet(err error) error {
	switch err {
	case yamux.ErrTimeout:
		return os.ErrDeadlineExceeded
	case yamux.ErrConnectionReset:
		return &ResetError{ResetByPeer}
	}
	return err
}

// writeNow relies on yamux, which looks at a deadline only when it has to wait
// for the window.
func (s *yamuxStream) writeNow(p []byte) (int, error) {
	s.SetWriteDeadline(longAgo)
	return s.Write(p)
}

func (s *yamuxStream) abort(uint16) bool { return false }
func (s *yamuxStream) settled()          { s.ses.guard.settled(s.StreamID()) }
func (s *yamuxStream) rest() []byte      { return nil }

// target is the address of a stream's far end, as asked for.
type target struct{ network, address string }

func (t target) Network() string { return t.network }
func (t target) String() string  { return t.address }
