package netx_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/netx"
)

const addressChanged = "an address of this machine has changed"

func TestSlept(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		name                  string
		wall, monotonic, want time.Duration
	}{
		{"nothing", 2 * s, 2 * s, 0},
		{"a busy machine", 7 * s, 7 * s, 0},
		{"suspended", 122 * s, 2 * s, 120 * s},
		{"suspended where the monotonic clock goes on", 122 * s, 122 * s, 120 * s},
		{"suspended briefly", 7 * s, 2 * s, 0},
		{"stopped", 8 * s, 8 * s, 6 * s},
		{"suspended while stopped", 20 * s, 10 * s, 18 * s},
		{"the wall clock set forwards", time.Hour, 2 * s, time.Hour - 2*s},
		{"the wall clock set back", -time.Hour, 2 * s, 0},
		{"the wall clock set back while stopped", -time.Hour, 60 * s, 58 * s},
		{"the wall clock of 1970 set right", 1<<63 - 1, 2 * s, 1<<63 - 1 - 2*s},
		{"the wall clock lost", -1 << 63, 2 * s, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := netx.Slept(test.wall, test.monotonic); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// calls records what Watch said, and when.
type calls struct {
	start time.Time
	list  []call
}

type call struct {
	after time.Duration
	why   string
}

func (c *calls) changed(why string) { c.list = append(c.list, call{time.Since(c.start), why}) }

// inVirtualTime runs source under Watch for as long as the test lasts and
// returns what it said.
func inVirtualTime(t *testing.T, source netx.Source, test func()) (said []call) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := calls{start: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			netx.WatchSources(ctx, c.changed, source)
		}()
		synctest.Wait()
		test()
		synctest.Wait()
		cancel()
		<-done
		said = c.list
	})
	return said
}

// skewed is a clock of virtual time that a test may put forward.
type skewed struct{ wall, monotonic atomic.Int64 }

func (s *skewed) read() (time.Time, time.Duration) {
	now := time.Now()
	return now.Round(0).Add(time.Duration(s.wall.Load())), time.Duration(now.UnixNano() + s.monotonic.Load())
}

// sleep is how Linux counts it, and stop of a program alone.
func (s *skewed) sleep(d time.Duration) { s.wall.Add(int64(d)) }
func (s *skewed) stop(d time.Duration)  { s.wall.Add(int64(d)); s.monotonic.Add(int64(d)) }

func TestWatchNoticesSleep(t *testing.T) {
	var clock skewed
	got := inVirtualTime(t, netx.ClockSource(clock.read), func() {
		pass(time.Hour + time.Second) // to an odd second: it looks at the even ones
		clock.sleep(2 * time.Minute)
		pass(time.Hour)
		clock.sleep(-time.Hour) // set back, that is
		pass(time.Hour)
		clock.stop(10 * time.Second)
		pass(time.Hour)
	})
	want := []call{
		{time.Hour + 2*time.Second, "the machine or the program slept for 2m0s"},
		{3*time.Hour + 2*time.Second, "the machine or the program slept for 10s"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

// A call that takes long is no sleep, and hides none.
func TestWatchNoticesSleepDuringACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock skewed
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		netx.WatchSources(ctx, func(why string) {
			got = append(got, why)
			if len(got) == 3 {
				cancel()
				return
			}
			pass(time.Minute)
			clock.sleep(time.Duration(len(got)) * time.Hour)
			pass(time.Minute)
		}, netx.ClockSource(clock.read), func(_ context.Context, report func(string)) { report("begin") })
		want := []string{"begin", "the machine or the program slept for 1h0m0s", "the machine or the program slept for 2h0m0s"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestWatchLooksAtTheAddressesWhereTheKernelDoesNotTell(t *testing.T) {
	set := func(list ...string) netx.AddressSet {
		set := make(netx.AddressSet)
		for _, s := range list {
			set[netip.MustParsePrefix(s)] = true
		}
		return set
	}
	a, ab, b := set("192.0.2.1/24"), set("192.0.2.1/24", "2001:db8::1/64"), set("192.0.2.1/25")
	for _, test := range []struct {
		name  string
		looks []netx.AddressSet // nil: it fails
		want  []int             // the looks after which it calls
	}{
		{"no change", []netx.AddressSet{a, a, a}, nil},
		{"one more", []netx.AddressSet{a, ab, ab}, []int{1}},
		{"one less", []netx.AddressSet{ab, a}, []int{1}},
		{"another", []netx.AddressSet{a, b, a}, []int{1, 2}},
		{"none", []netx.AddressSet{a, set(), a}, []int{1, 2}},
		{"a look that fails", []netx.AddressSet{a, nil, a}, nil},
		{"a change behind a look that fails", []netx.AddressSet{a, nil, b}, []int{2}},
		{"the first look fails", []netx.AddressSet{nil, nil, a, b}, []int{3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			looks := test.looks
			list := func() (netx.AddressSet, error) {
				set := looks[0]
				if len(looks) > 1 {
					looks = looks[1:]
				}
				if set == nil {
					return nil, errors.New("not allowed")
				}
				return set, nil
			}
			kernel := func(context.Context, func(string)) error { return errors.ErrUnsupported }
			got := inVirtualTime(t, netx.AddressSource(kernel, list), func() { pass(time.Hour) })
			var want []call
			for _, i := range test.want {
				want = append(want, call{time.Duration(i) * 5 * time.Second, addressChanged})
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// Where the kernel tells, nobody looks, and nobody begins to at the end.
func TestWatchLeavesTheAddressesToAKernelThatTells(t *testing.T) {
	list := func() (netx.AddressSet, error) {
		t.Error("looked")
		return nil, nil
	}
	kernel := func(ctx context.Context, report func(string)) error {
		report("told")
		<-ctx.Done()
		return nil
	}
	got := inVirtualTime(t, netx.AddressSource(kernel, list), func() { pass(time.Hour) })
	if want := []call{{0, "told"}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWatchCallsOnceForWhatHappensDuringACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		running := false
		netx.WatchSources(ctx, func(why string) {
			if running {
				t.Error("called while a call runs")
			}
			running = true
			pass(time.Hour)
			running = false
			got = append(got, why)
		}, func(_ context.Context, report func(string)) {
			report("first")
			synctest.Wait() // until its call runs
			report("second")
			report("third")
			pass(3 * time.Hour)
			cancel()
		})
		if want := []string{"first", "second"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// The end waits for the call that runs and for the sources, and calls no more.
func TestWatchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 { // a select that has two ways takes either
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start, n := time.Now(), 0
			netx.WatchSources(ctx, func(string) {
				n++
				pass(2 * time.Second)
			}, func(ctx context.Context, report func(string)) {
				report("first")
				<-ctx.Done()
				report("too late")
				pass(2 * time.Second)
			})
			cancel()
			if took := time.Since(start); took != 3*time.Second || n != 1 {
				t.Fatalf("%d calls, took %v", n, took)
			}
		}
	})
}

// A panic of the callback ends the program; it does not hang in the clean-up.
func TestWatchPassesAPanicOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if r := recover(); r != "bug" {
				t.Errorf("recovered %v", r)
			}
		}()
		netx.WatchSources(t.Context(), func(string) { panic("bug") }, func(ctx context.Context, report func(string)) {
			report("now")
			<-ctx.Done()
		})
	})
}

// This machine's own clocks and addresses.
func TestWatchThisMachine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		netx.Watch(ctx, func(why string) { t.Logf("really: %s", why) })
	}()
	cancel()
	select {
	case <-done:
	case <-time.After(generous):
		t.Fatal("does not return")
	}
}

func TestHostAddressesAreThoseOthersMayReach(t *testing.T) {
	set, err := netx.HostAddresses()
	if err != nil {
		t.Skip(err)
	}
	for p := range set {
		if p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			t.Errorf("%v is among them", p)
		}
	}
}
