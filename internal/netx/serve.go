package netx

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Serve is the one accept loop: it runs handle for each connection of ln, each
// in a goroutine of its own, until ctx is done or ln is closed. It closes ln,
// and returns when every handle has returned; handle owns its conn.
//
// To drain, close ln and leave ctx be: running handles go on. The error is nil
// for both ways to stop, else the one that Accept failed with for good.
func Serve(ctx context.Context, ln net.Listener, handle func(context.Context, net.Conn)) error {
	shut := sync.OnceFunc(func() { ln.Close() }) // a second caller waits for the first
	defer context.AfterFunc(ctx, shut)()
	defer shut()

	var wg sync.WaitGroup
	defer wg.Wait()

	var delay time.Duration
	for {
		c, err := ln.Accept()
		if err == nil {
			delay = 0
			wg.Go(func() { handle(ctx, c) })
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		// Out of descriptors, most likely: wait for some to be closed. net/http does the same.
		var ne net.Error
		if !errors.As(err, &ne) {
			return err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}
