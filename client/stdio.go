package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"wstun/internal/relay"
	"wstun/mux"
)

// settleTimeout bounds the wait for the last acknowledgements, as long as there
// is a connection that they could come by.
const settleTimeout = 30 * time.Second

// settling returns a context that is done then, or with the client.
func (c *Client) settling(t *tunnel) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(c.life)
	c.rest.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for left := settleTimeout; left > 0; {
			select {
			case <-tick.C:
				if t.line.Attached() {
					left -= time.Second
				}
			case <-ctx.Done():
				return
			}
		}
		cancel(context.DeadlineExceeded)
	})
	return ctx, func() { cancel(nil) }
}

// Stdio joins in and out with address on the server's side, makes the session
// for it, and ends both. It returns nil only if the far end said that it has
// ended, and everything read from in has been acknowledged. When the far end
// ends, in is not waited for: if it has not ended as well a moment later, the
// target sees a reset, since nobody knows whether it had everything. ctx ends
// it at once. A Read of in is left behind if closing in does not interrupt it.
func (c *Client) Stdio(ctx context.Context, network, address string, in io.ReadCloser, out io.WriteCloser) error {
	defer context.AfterFunc(ctx, func() { c.end(context.Cause(ctx)) })()
	t, err := c.connect(c.life)
	if err != nil {
		return err
	}
	defer c.close(t)
	c.watch()
	defer c.rest.Wait()
	defer c.end(nil)
	conn, err := t.Dial(c.life, network, address)
	if err != nil {
		var refusal *mux.RefusedError
		if errors.As(err, &refusal) {
			return &Error{Refused: refusal.Status == mux.Denied, Err: fmt.Errorf("%s: the server says: %w", address, refusal)}
		}
		return err
	}
	st := conn.(*mux.Stream)
	local := newStdio(in, out)
	run := relay.Relay{HalfOpen: c.cfg.HalfOpen}
	err = run.Run(c.life, local, st)
	settling, cancel := c.settling(t)
	defer cancel()
	if errors.Is(err, errInputLeft) {
		// What was read of it has been sent, and closing the session has it
		// acknowledged. First a moment for the reset to arrive; without it the
		// target sees the session end, which is a failure as well.
		moment, cancel := context.WithTimeout(settling, inputGrace)
		defer cancel()
		st.Settled(moment)
		return t.finish(settling)
	}
	if err != nil {
		return errors.New(why(err, local))
	}
	if err := st.Settled(settling); err != nil {
		return fmt.Errorf("%s: the end is not acknowledged: %w", address, err)
	}
	return t.finish(settling)
}

// stdio is standard input and output as one conn. When its peer has ended,
// reading goes on only as long as there is more at once: a program that has
// said everything need not wait for input, but what is there must not be lost.
type stdio struct {
	net.Conn // nil: nothing else is asked of it
	in       *io.PipeReader
	src      io.ReadCloser
	out      io.WriteCloser
	once     sync.Once

	mu    sync.Mutex
	quiet *time.Timer // runs once the peer has ended
}

const inputGrace = time.Second

// errInputLeft ends a relay whose far end has ended while standard input, as
// far as can be told, has not: what came of it may be incomplete, so the target
// is told of a failure and not of an end.
var errInputLeft = errors.New("the far end has ended, and standard input has not")

func newStdio(in io.ReadCloser, out io.WriteCloser) *stdio {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, in)
		w.CloseWithError(err)
	}()
	return &stdio{in: r, src: in, out: out}
}

func (s *stdio) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet != nil {
		s.quiet.Reset(inputGrace)
	}
	if errors.Is(err, io.ErrClosedPipe) {
		err = errInputLeft
	}
	return n, err
}

// Write fails for good if nobody reads standard output any more. To a relay a
// broken pipe would be a conn whose peer wants no more bytes and goes on sending.
func (s *stdio) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = errors.New("nobody reads standard output any more")
	}
	return n, err
}

// CloseWrite is called when the far end has ended.
func (s *stdio) CloseWrite() error {
	s.mu.Lock()
	s.quiet = time.AfterFunc(inputGrace, func() { s.in.Close() })
	s.mu.Unlock()
	return s.out.Close()
}

func (s *stdio) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		if s.quiet != nil {
			s.quiet.Stop()
		}
		s.mu.Unlock()
		s.in.Close()
		s.out.Close()
		s.src.Close() // frees the copying goroutine, where the system can
	})
	return nil
}

func (s *stdio) Abort(error) error { return s.Close() }
