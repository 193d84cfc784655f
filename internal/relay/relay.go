// Package relay joins two connections: the one place where bytes are copied.
//
// It knows net.Conn and the abilities that package netx names, and nothing of
// what lies under them. Its callers dial and accept, log and authorise.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"wstun/internal/netx"
)

// A Relay joins two connections, once. Its counters may be read while it runs.
type Relay struct {
	// HalfOpen is how long a relay that has ended one way may carry no byte
	// the other way before it is aborted; 0 means for ever.
	HalfOpen time.Duration

	Sent     atomic.Int64 // bytes from a to b
	Received atomic.Int64 // bytes from b to a
}

// A Fault is the failure of one of a relay's two conns.
type Fault struct {
	Of  net.Conn // a or b, as given to Run
	Op  string   // "read" or "write"
	Err error
}

func (f *Fault) Error() string { return f.Op + ": " + f.Err.Error() }

// Unwrap returns the error of the conn.
func (f *Fault) Unwrap() error { return f.Err }

// Causes of an end that is no failure of a conn.
var (
	ErrHalfOpen = errors.New("half-closed and silent for too long")
	errEnded    = errors.New("ended")
)

// Run copies bytes both ways between a and b until both directions have ended,
// then closes a and b. It returns when nothing of it runs any more.
//
// The end of one direction is passed on by closing the other conn for writing,
// if both conns can do that; if not, it ends the relay. When a conn fails, or
// ctx is done, both are aborted with that cause, so that neither peer takes a
// broken stream for a finished one. Run returns that cause: a [*Fault], the
// cause of ctx, or ErrHalfOpen.
func (r *Relay) Run(ctx context.Context, a, b net.Conn) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	shut := sync.OnceFunc(func() {
		if cause := context.Cause(ctx); cause != nil && cause != errEnded {
			netx.Abort(a, cause)
			netx.Abort(b, cause)
			return
		}
		a.Close()
		b.Close()
	})
	defer context.AfterFunc(ctx, shut)()

	half := netx.CanCloseWrite(a) && netx.CanCloseWrite(b)
	run := func(d *direction) {
		err := d.copy()
		if err == nil && half && ctx.Err() == nil {
			if cerr := netx.CloseWrite(d.dst); cerr != nil {
				err = &Fault{d.dst, "write", cerr}
			}
		}
		switch {
		case unread(err):
			// dst has ended before and takes no more: what it said may be a
			// complete answer, which the other direction reads to its end.
		case err != nil:
			end(err)
		case !half:
			end(errEnded)
		}
	}
	there := &direction{dst: b, src: a, count: &r.Sent, fail: end}
	back := &direction{dst: a, src: b, count: &r.Received, fail: end}
	there.other, back.other = back, there
	var wg sync.WaitGroup
	halfOpen := r.reaper(end)
	wg.Go(func() { run(there); halfOpen() })
	run(back)
	halfOpen()
	wg.Wait()
	halfOpen()

	shut() // if both directions ended by themselves; else waits until it is done
	if err := context.Cause(ctx); err != nil && err != errEnded {
		return err
	}
	return nil
}

// reaper returns a func to call at the end of each direction and at the end of
// all: the first call starts the half-open clock, the third stops it.
func (r *Relay) reaper(end context.CancelCauseFunc) func() {
	if r.HalfOpen <= 0 {
		return func() {}
	}
	var mu sync.Mutex
	var calls int
	var seen int64
	var timer *time.Timer
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		if calls == 3 {
			return // it fired as all ended
		}
		if n := r.Sent.Load() + r.Received.Load(); n != seen {
			seen = n
			timer.Reset(r.HalfOpen)
			return
		}
		end(ErrHalfOpen)
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		switch calls++; calls {
		case 1:
			seen = r.Sent.Load() + r.Received.Load()
			timer = time.AfterFunc(r.HalfOpen, check)
		case 3:
			timer.Stop()
		}
	}
}

// A direction copies from src to dst.
type direction struct {
	dst, src net.Conn
	count    *atomic.Int64
	fail     context.CancelCauseFunc
	watch    *time.Timer
	other    *direction

	writing sync.Mutex // held while dst is written to
	failed  error      // what that failed with

	watching sync.Mutex
	armed    bool // a write is under way
}

// unread reports whether err says that bytes could not be written since their
// reader had ended, in order, before: a socket whose peer sent FIN and then a
// reset, a stream that was closed there.
func unread(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// blocked is after how long a write that does not return makes the relay look
// whether src still lives: nobody reads src meanwhile, so its reset would go
// unnoticed for as long as dst's peer stalls.
const blocked = 250 * time.Millisecond

func (d *direction) copy() error {
	in := newSource(d.src, d.other.metReset)
	out := newSink(d.dst)
	d.watch = time.AfterFunc(time.Hour, d.look)
	d.arm(false)
	for {
		block, n, err := in.next(out.room)
		if n > 0 {
			if werr := d.write(out, block[:out.room+n]); werr != nil {
				err = &Fault{d.dst, "write", werr}
			} else {
				d.count.Add(int64(n))
			}
		}
		putBlock(block)
		if err == nil {
			continue
		}
		var fault *Fault // escapes, so not before there is need of it
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &fault):
			return err
		default:
			return &Fault{d.src, "read", err}
		}
	}
}

func (d *direction) write(out sink, block []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.arm(true)
	_, err := out.write(block)
	d.arm(false)
	if err != nil {
		d.failed = err
	}
	return err
}

// metReset reports whether a write to dst was what met its reset. It waits for
// a write under way: ask only if dst is known to be dead, when that returns.
func (d *direction) metReset() bool {
	d.writing.Lock()
	defer d.writing.Unlock()
	return errors.Is(d.failed, syscall.ECONNRESET)
}

func (d *direction) arm(on bool) {
	d.watching.Lock()
	defer d.watching.Unlock()
	if d.armed = on; on {
		d.watch.Reset(blocked)
	} else {
		d.watch.Stop()
	}
}

// look runs while a write has been blocked for a while.
func (d *direction) look() {
	if err := netx.Broken(d.src); err != nil {
		d.fail(&Fault{d.src, "read", fmt.Errorf("while its bytes waited: %w", err)})
		return
	}
	d.watching.Lock()
	defer d.watching.Unlock()
	if d.armed {
		d.watch.Reset(4 * blocked)
	}
}
