package line

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What hostile readings have found: what a peer, a path and short memory could
// do to a line.

// dark has nothing get through a wire any more, one way or both.
func (w *wire) dark(ways ...int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range ways {
		w.ways[i].hole = true
	}
}

// latencies has both directions take so long.
func (w *wire) latencies(d time.Duration) { w.ways[0].latency, w.ways[1].latency = d, d }

// The bytes that a detached session had not read yet were given back by its
// owner, and so too late: others went as well, whose memory nobody needed.
func TestShortMemoryCostsNoMoreSessionsThanItMust(t *testing.T) {
	const limit, unread = 16 << 20, 3 << 20
	for _, tt := range []struct {
		over int64
		gone []int
	}{
		{0, nil}, {1, []int{0}}, {200_000, []int{0}}, {unread, []int{0}},
		{unread + 300_000, []int{0, 1}}, {2 * unread, []int{0, 1, 2}},
		{1 << 30, []int{0, 1, 2, 3}},
	} {
		t.Run(fmt.Sprintf("%d bytes too many", tt.over), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(limit)
				w := newWorld(t, always, Config{Budget: b, Window: 4 << 20})
				var cs, ss [5]*Conn
				for i := range cs {
					cs[i], ss[i] = w.connect(Config{Window: 4 << 20})
				}
				for _, i := range []int{0, 2} {
					cs[i].Write(make([]byte, unread)) // nobody reads it at the server
				}
				time.Sleep(time.Second)
				w.set(errModel)
				for i := range 4 {
					w.lose(cs[i])
					time.Sleep(time.Second)
				}
				for _, s := range ss { // as owners do, who need not be quick
					go func() { <-s.Done(); time.Sleep(time.Second); s.Close() }()
				}
				n := limit + tt.over - b.Held()
				b.take(n)
				synctest.Wait()
				var gone []int
				for i, s := range ss {
					if s.Err() != nil {
						gone = append(gone, i)
					}
				}
				if !slices.Equal(gone, tt.gone) {
					t.Errorf("%v are gone, want %v", gone, tt.gone)
				}
				b.give(n)
				for i := range cs {
					w.end(cs[i], ss[i])
				}
				time.Sleep(2 * time.Second)
				if n := b.Held(); n != 0 {
					t.Errorf("%d bytes are still held", n)
				}
			})
		})
	}
}

// A few carriers that died made the client wait for minutes before it believed
// that a later one had, although that one had answered at once for an hour.
func TestDeathIsNoticedSoonAgainAfterAnHourOfAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		last := w.wired(func(*wire) {})
		c, s := w.connect(Config{})
		noticed := func() time.Duration {
			n, start := w.attemptsMade(), time.Now()
			last().dark(0, 1)
			for w.attemptsMade() == n {
				<-time.After(100 * time.Millisecond)
			}
			return time.Since(start)
		}
		for range 6 {
			noticed()
			time.Sleep(3 * time.Second)
			if !c.Attached() {
				t.Fatal("it has no carrier")
			}
		}
		time.Sleep(time.Hour)
		if took := noticed(); took > 25*time.Second {
			t.Errorf("noticed after %v", took)
		}
		time.Sleep(time.Minute)
		w.end(c, s)
	})
}

// A laptop wakes up: what is asked then is asked of any carrier alike.
func TestProbeIsAnsweredWithinThreeSecondsWhateverCameBefore(t *testing.T) {
	for _, rest := range []time.Duration{3 * time.Second, 4 * time.Second, time.Minute, 2 * time.Minute, 10 * time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			last := w.wired(func(*wire) {})
			c, s := w.connect(Config{})
			noticed := func() time.Duration {
				n, start := w.attemptsMade(), time.Now()
				for w.attemptsMade() == n {
					<-time.After(100 * time.Millisecond)
				}
				return time.Since(start)
			}
			for range 6 {
				last().dark(0, 1)
				noticed()
				time.Sleep(3 * time.Second)
			}
			time.Sleep(rest)
			last().dark(0, 1)
			c.Probe()
			if took := noticed(); took > probeTimeout+200*time.Millisecond {
				t.Errorf("%v after the last death: noticed after %v", rest, took)
			}
			time.Sleep(3 * time.Second)
			w.end(c, s)
		})
	}
}

// Somebody on the way, who needs no key for it, or a server asked the client to
// come back in 49 days: it was gone, for good.
func TestNobodyCanSendAClientAwayForMoreThanAMinute(t *testing.T) {
	const long = 49 * 24 * time.Hour
	for _, tt := range []struct {
		name string
		does func(w *world, s *Conn)
	}{
		{"by BUSY in place of CHALLENGE", func(w *world, _ *Conn) {
			w.link = func() (Carrier, Carrier) {
				a, b := carriers()
				b.WriteMessages((&RejectError{Code: RejectBusy, After: long}).encode())
				dead, _ := carriers()
				dead.Close()
				return a, dead
			}
			w.last().Close()
			synctest.Wait()
			w.link = nil
		}},
		{"by DETACH", func(_ *world, s *Conn) { s.Detach(CodeShutdown, long) }},
		{"by an error of dialling", func(w *world, _ *Conn) {
			w.set(errBusy{long})
			w.last().Close()
			synctest.Wait()
			w.set(nil)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c, s := w.connect(Config{})
				time.Sleep(fruitful)
				tt.does(w, s)
				time.Sleep(time.Minute - time.Millisecond)
				if c.Attached() {
					t.Error("it is back early")
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if !c.Attached() || c.Err() != nil {
					t.Errorf("after a minute it is not back: %v", c.Err())
				}
				w.end(c, s)
			})
		})
	}
}

// A server that wants each carrier replaced had the client do nothing else.
func TestServerThatAlwaysWantsAnotherCarrierGetsOneEveryFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		var current *wire
		w.wired(func(l *wire) {
			l.latencies(5 * time.Millisecond)
			old := current
			current = l
			l.peek = func(_ int, m []byte) {
				if m[0] == msgResume {
					old.dark(1) // its end comes later than RESUMED
				}
			}
		})
		c, s := w.connect(Config{})
		told := watch(c)
		stop := false
		s.OnEvent(func(e Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if e.Kind == Moved && !stop {
				s.GoAway(GoAway{Flags: Redial})
			}
		})
		s.GoAway(GoAway{Flags: Redial})
		time.Sleep(time.Minute)
		if n := w.attemptsMade(); n < 10 || n > 14 {
			t.Errorf("%d carriers in a minute", n)
		}
		if errs := detachments(told()); len(errs) > 0 {
			t.Errorf("it was without a carrier: %v", errs[0])
		}
		w.mu.Lock()
		stop = true
		w.mu.Unlock()
		time.Sleep(time.Minute)
		transfer(t, s, c, 100_000)
		w.end(c, s)
	})
}

// A path on which each connection carries a byte and is cut counted as one that
// works: the client made hundreds of connections a second.
func TestPathThatPassesAByteAndCutsIsNotTriedWithoutAPause(t *testing.T) {
	for _, tt := range []struct {
		name string
		from int // who sends that byte
	}{{"from the client", 0}, {"from the server", 1}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				var passes atomic.Bool
				w.wired(func(l *wire) {
					l.latencies(2 * time.Millisecond)
					l.peek = func(from int, m []byte) {
						if from == tt.from && m[0] == frameData && !passes.Load() {
							l.cut(cutTold)
						}
					}
				})
				c, s := w.connect(Config{})
				from, to := c, s
				if tt.from == 1 {
					from, to = s, c
				}
				got := make(chan int)
				go func() {
					b, _ := io.ReadAll(to)
					got <- len(b)
				}()
				sent := make(chan int)
				go func() {
					for n := 0; ; n++ {
						if passes.Load() {
							from.CloseWrite()
							sent <- n
							return
						}
						from.Write([]byte{1})
						time.Sleep(10 * time.Millisecond)
					}
				}()
				var most int
				for second := range 60 {
					before := w.attemptsMade()
					time.Sleep(time.Second)
					if second > 5 {
						most = max(most, w.attemptsMade()-before)
					}
				}
				if n := w.attemptsMade(); n < 20 || n > 120 {
					t.Errorf("%d carriers in a minute, %d of them in one second", n, most)
				}
				passes.Store(true)
				if n, k := <-sent, <-got; n != k {
					t.Errorf("%d bytes of %d", k, n)
				}
				w.end(c, s)
			})
		})
	}
}

// A peer says GOAWAY without end while the owner is busy with the first one.
func TestGoAwaysThatNobodyHearsTakeNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := carriers()
		c, s := lines(t, a, b, Config{})
		busy := make(chan struct{})
		var told []GoAway
		s.OnEvent(func(e Event) {
			told = append(told, e.GoAway)
			<-busy
		})
		f := frame{typ: frameGoAway, wnd: 1 << 20}
		a.out <- f.append(nil)
		synctest.Wait()
		for i := range 10_000 {
			f.millis = uint32(i)
			a.out <- f.append(nil)
		}
		synctest.Wait()
		s.mu.Lock()
		if n := len(s.events.queue); n > 1 {
			t.Errorf("%d events wait", n)
		}
		s.mu.Unlock()
		close(busy)
		synctest.Wait()
		if n := len(told); n != 2 || told[n-1].Deadline != 9999*time.Millisecond {
			t.Errorf("%d were told, the last is %+v", n, told[n-1])
		}
		c.Abort(CodeAborted, nil)
		c.Wait()
		s.Abort(CodeAborted, nil)
		s.Wait()
	})
}

// They were taken for a gap, and the session for one to be resumed.
func TestOffsetsThatNoLineCanReachBreakTheProtocol(t *testing.T) {
	for _, off := range []uint64{1 << 63, 1<<63 + 1, 1<<64 - 1} {
		for name, f := range map[string]frame{
			"DATA":  {typ: frameData, arg: off, body: []byte("x")},
			"CLOSE": {typ: frameClose, arg: off},
			"ack":   {typ: frameAck, ack: off},
		} {
			t.Run(fmt.Sprintf("%s, %d", name, off), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, always, Config{})
					c, s := w.connect(Config{})
					told := watch(s)
					f.wnd = 1 << 20
					w.last().out <- f.append(nil)
					time.Sleep(abortTimeout)
					synctest.Wait()
					if !errors.Is(s.Err(), ErrProtocol) {
						t.Errorf("the server's line: %v", s.Err())
					}
					if es := told(); len(es) > 0 {
						t.Errorf("before that %+v", es)
					}
					var ce *CloseError
					if !errors.As(c.Err(), &ce) || ce.Code != CodeProtocol {
						t.Errorf("the client's: %v", c.Err())
					}
					w.end(c, s)
				})
			})
		}
	}
}
