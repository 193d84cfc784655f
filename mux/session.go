// Package mux carries connections to and from a peer over one line.
//
// A [Session] multiplexes streams with yamux. Yamux reports a finished stream,
// a closed one and a lost session with the same io.EOF, and has no reset, so
// every stream carries records: an end is said by a FIN record and a failure
// by RST, and what yamux says of an end is never believed. The far end is used
// like a network: [Session.Dial] there, [Session.Accept] what it dials here.
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
	line  Line
	guard *adapter
	ys    *yamux.Session
	cfg   Config

	requests chan *Request
	pending  chan struct{} // a slot for each OPEN of ours without an answer
	opening  sync.Mutex
	control  *Stream // ours, for RESETs; its peer's is read
	running  sync.WaitGroup

	mu       sync.Mutex
	streams  map[uint32]*Stream
	incoming int // of streams, those that the peer opened
	controls int // of incoming, control streams: one
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
	s := &Session{
		line: l, guard: &adapter{line: l, client: client}, cfg: cfg,
		requests: make(chan *Request),
		pending:  make(chan struct{}, maxPending),
		streams:  map[uint32]*Stream{},
	}
	var err error
	open := yamux.Server
	if client {
		open = yamux.Client
	}
	if s.ys, err = open(s.guard, yc); err != nil {
		l.Close()
		return nil, fmt.Errorf("session: %w", err)
	}
	if err := s.openControl(); err != nil {
		s.Close()
		return nil, err
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
	case <-s.ys.CloseChan():
		return nil, s.Err()
	}
	// yamux takes the id and sends the SYN in two steps: two openers at once
	// could send theirs out of order, which the peer's guard does not allow.
	s.opening.Lock()
	ys, err := s.ys.OpenStream()
	s.opening.Unlock()
	if err != nil {
		<-s.pending
		return nil, s.Err()
	}
	st := s.add(ys, target{networkOf(kind), body})
	st.replied = make(chan struct{})
	if _, err := ys.Write(appendOpen(nil, kind, body)); err != nil {
		st.answered(s.Err())
		st.Abort(nil)
		return nil, s.Err()
	}
	return st, nil
}

// add registers a stream; a session that has ended still gives it a life, the
// shortest possible.
func (s *Session) add(ys *yamux.Stream, remote net.Addr) *Stream {
	st := &Stream{ses: s, ys: ys, remote: remote, gone: make(chan struct{})}
	st.gate.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[ys.StreamID()] = st
	return st
}

func (s *Session) forget(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st.ys.StreamID())
	if st.incoming {
		s.incoming--
	}
}

// NumStreams returns how many streams are open, control streams not counted.
func (s *Session) NumStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, st := range s.streams {
		if !st.isControl {
			n++
		}
	}
	return n
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.ys.CloseChan() }

// ErrLost is wrapped by the errors of streams whose session ended before them.
var ErrLost = errors.New("session lost")

// Err returns why the session ended, and a general answer while it lives.
func (s *Session) Err() error {
	if v := s.guard.violation.Load(); v != nil {
		return fmt.Errorf("%w: %w", ErrLost, *v)
	}
	var err error
	if l, ok := s.line.(interface{ Err() error }); ok {
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
	// yamux's readers spin from the start of its Close until its receiving
	// goroutine has ended: with thousands of streams they keep that from the
	// processor for minutes. So it ends first, with the line.
	s.line.Close()
	select {
	case <-s.ys.CloseChan():
	case <-time.After(time.Second):
	}
	s.ys.Close()
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

// target is the address of a stream's far end, as asked for.
type target struct{ network, address string }

func (t target) Network() string { return t.network }
func (t target) String() string  { return t.address }
