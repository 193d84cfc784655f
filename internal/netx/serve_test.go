package netx_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Closing the listener drains: nothing new is taken and what runs goes on.
func TestServeDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n netxtest.Network
		ln := listen(t, &n, "db:5432")
		served := make(chan error)
		go func() { served <- netx.Serve(t.Context(), ln, echo) }()
		c := dial(t, &n, "db:5432")

		synctest.Wait() // until it is accepted
		ln.Close()
		synctest.Wait()
		select {
		case err := <-served:
			t.Fatalf("returned %v while a handler ran", err)
		default:
		}
		if _, err := n.Dial(t.Context(), "tcp", "db:5432"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial while draining: %v, want refused", err)
		}
		io.WriteString(c, "still here")
		netx.CloseWrite(c)
		if got, err := io.ReadAll(c); string(got) != "still here" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if err := <-served; err != nil {
			t.Errorf("served: %v", err)
		}
	})
}

// A done ctx stops Serve and is what the handlers see; they end the call.
func TestServeStopsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n netxtest.Network
		ln := listen(t, &n, "db:5432")
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error)
		go func() {
			served <- netx.Serve(ctx, ln, func(ctx context.Context, c net.Conn) {
				<-ctx.Done()
				netx.Abort(c, ctx.Err())
			})
		}()
		c := dial(t, &n, "db:5432")
		synctest.Wait()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("served: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("read: %v, want the handler's abort", err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v, want a closed listener", err)
		}
	})
}

func TestServeWaitsAfterAcceptErrors(t *testing.T) {
	const ms = time.Millisecond
	full := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	gone := errors.New("gone for good")
	for _, test := range []struct {
		name  string
		errs  []error // what Accept returns; nil: a conn
		pause []time.Duration
		want  error
	}{
		{"closed", []error{net.ErrClosed}, []time.Duration{0}, nil},
		{"for good", []error{gone}, []time.Duration{0}, gone},
		{"grows", []error{full, full, full, gone}, []time.Duration{0, 5 * ms, 10 * ms, 20 * ms}, gone},
		{"starts over", []error{full, full, nil, full, gone}, []time.Duration{0, 5 * ms, 10 * ms, 0, 5 * ms}, gone},
		{"is bounded", slices.Repeat([]error{full}, 12), []time.Duration{0, 5 * ms, 10 * ms, 20 * ms, 40 * ms,
			80 * ms, 160 * ms, 320 * ms, 640 * ms, time.Second, time.Second, time.Second, time.Second}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := &faultyListener{errs: test.errs, last: time.Now()}
				if err := netx.Serve(t.Context(), ln, echo); !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if !slices.Equal(ln.pauses, test.pause) {
					t.Errorf("pauses %v, want %v", ln.pauses, test.pause)
				}
				if !ln.closed.Load() {
					t.Error("the listener was left open")
				}
			})
		})
	}
}

// A pause does not hold up the end.
func TestServeStopsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := &net.OpError{Op: "accept", Err: syscall.EMFILE}
		ln := &faultyListener{errs: slices.Repeat([]error{full}, 20), last: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		if err := netx.Serve(ctx, ln, echo); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("returned %v after %v", err, time.Since(start))
		}
	})
}

// faultyListener returns errs in turn, then net.ErrClosed.
type faultyListener struct {
	errs   []error
	last   time.Time
	pauses []time.Duration // before each Accept
	closed atomic.Bool
}

func (l *faultyListener) Accept() (net.Conn, error) {
	l.pauses = append(l.pauses, time.Since(l.last))
	l.last = time.Now()
	if len(l.errs) == 0 {
		return nil, net.ErrClosed
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	if err == nil {
		a, b := netxtest.Pipe()
		b.Close()
		return a, nil
	}
	return nil, err
}

func (l *faultyListener) Close() error   { l.closed.Store(true); return nil }
func (l *faultyListener) Addr() net.Addr { return nil }

func echo(_ context.Context, c net.Conn) {
	defer c.Close()
	io.Copy(c, c)
}

func listen(t *testing.T, n netx.Network, address string) net.Listener {
	t.Helper()
	ln, err := n.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dial(t *testing.T, n netx.Network, address string) net.Conn {
	t.Helper()
	c, err := n.Dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
