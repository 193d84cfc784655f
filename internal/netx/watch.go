package netx

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	clockEvery = 2 * time.Second // between two looks at the clocks
	sleepOver  = 5 * time.Second // a shorter pause is a busy machine's
	pollEvery  = 5 * time.Second // between two lists of the addresses, where the kernel does not tell
)

// Watch calls changed when something happened that conns die of without a
// word, so that whoever holds some can try them at once and need not wait for
// a timer: the machine or the program slept, an address of this machine came
// or went, on Linux also a default route. It may call for nothing, such as a
// clock that was set forwards, and says nothing of what happened before its
// first look.
//
// changed is told why, in words for a log. It is called on Watch's goroutine;
// whatever happens meanwhile is one more call behind it. Watch returns when
// ctx is done and changed has returned.
func Watch(ctx context.Context, changed func(why string)) {
	watch(ctx, changed,
		clockSource(hostClock()),
		addressSource(watchKernel, hostAddresses))
}

// A source reports what it sees until ctx is done. report never blocks.
type source func(ctx context.Context, report func(why string))

func watch(ctx context.Context, changed func(why string), sources ...source) {
	pending := make(chan string, 1)
	report := func(why string) {
		select {
		case pending <- why:
		default: // the call that is due comes after this too
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also when changed panics
	for _, s := range sources {
		wg.Go(func() { s(ctx, report) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case why := <-pending:
			if ctx.Err() == nil {
				changed(why)
			}
		}
	}
}

// A clock is read in two ways at once. They run apart when the machine sleeps:
// where the monotonic clock then stands still, as Linux's does, the wall's has
// jumped on waking up.
type clock func() (wall time.Time, monotonic time.Duration)

func hostClock() clock {
	start := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(start) // Round strips the monotonic reading
	}
}

// clockSource reports sleep. It sets its timer anew after each look, since a
// ticker that is late catches up, and the times between its ticks say nothing.
func clockSource(read clock) source {
	return func(ctx context.Context, report func(string)) {
		wall, monotonic := read()
		timer := time.NewTimer(clockEvery)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			w, m := read()
			if pause := slept(w.Sub(wall), m-monotonic); pause > 0 {
				report("the machine or the program slept for " + pause.Round(time.Second).String())
			}
			wall, monotonic = w, m
			timer.Reset(clockEvery)
		}
	}
}

// slept says how long nothing ran between two looks that the clocks have so
// far apart, 0 for an ordinary delay. The wall clock is ahead after the sleep
// of a machine; both are after that of the program: it was stopped, or the
// container frozen. A wall clock that went back says nothing.
func slept(wall, monotonic time.Duration) time.Duration {
	if pause := max(wall, monotonic) - clockEvery; pause > sleepOver {
		return pause
	}
	return 0
}

// An addressSet holds the addresses through which others may be reached, with
// the lengths of their prefixes.
type addressSet map[netip.Prefix]bool

// addressSource reports what the kernel tells, and looks for itself where, or
// as soon as, the kernel tells nothing.
func addressSource(kernel func(context.Context, func(string)) error, list func() (addressSet, error)) source {
	return func(ctx context.Context, report func(string)) {
		if err := kernel(ctx, report); err != nil {
			pollAddresses(ctx, list, report)
		}
	}
}

func pollAddresses(ctx context.Context, list func() (addressSet, error), report func(string)) {
	last, err := list()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for known := err == nil; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := list()
		if err != nil {
			continue // out of descriptors, or never allowed: no address is known to have changed
		}
		if known && !maps.Equal(last, now) {
			report(addressChanged.String())
		}
		last, known = now, true
	}
}

func hostAddresses() (addressSet, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	set := make(addressSet)
	for _, a := range list {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && outward(p.Addr()) {
			set[p] = true
		}
	}
	return set, nil
}

// outward reports whether others may be reached through an address. One of a
// link alone comes and goes with every interface, be it a container's.
func outward(a netip.Addr) bool { return !a.IsLoopback() && !a.IsLinkLocalUnicast() }

// A change is a set of things that may have changed.
type change uint8

const (
	addressChanged change = 1 << iota
	routeChanged
	missed // something, and it is too late to ask what
)

func (c change) String() string {
	switch {
	case c&missed != 0:
		return "much has changed in this machine's network"
	case c == addressChanged|routeChanged:
		return "an address and the default route of this machine have changed"
	case c == routeChanged:
		return "the default route of this machine has changed"
	case c == addressChanged:
		return "an address of this machine has changed"
	}
	return "nothing has changed"
}
