package line

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// hang is a dial of which nothing comes.
func hang(ctx context.Context, _ func()) (Carrier, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAttemptIsGivenUpWhenNothingComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		type attempt struct{ began, took time.Duration }
		var attempts []attempt
		start := time.Now()
		redial := func(ctx context.Context, _ func()) (Carrier, error) {
			began := time.Since(start)
			<-ctx.Done()
			attempts = append(attempts, attempt{began, time.Since(start) - began})
			return nil, ctx.Err()
		}
		car, _ := w.dial(t.Context(), func() {})
		c, err := Dial(t.Context(), car, Hello{}, Config{Redial: redial})
		if err != nil {
			t.Fatal(err)
		}
		w.last().Close()
		time.Sleep(3 * time.Minute)
		c.mu.Lock()
		for i, a := range attempts {
			want := attemptQuiet
			if took := a.took; took == attemptTime {
				want = attemptTime // every fourth is patient
				if i < 3 || i > 3 && i < 7 {
					t.Errorf("attempt %d is a patient one", i)
				}
			}
			if a.took != want {
				t.Errorf("attempt %d was given up after %v", i, a.took)
			}
			if i > 0 {
				before := attempts[i-1]
				if pause := a.began - before.began - before.took; pause > maxPause {
					t.Errorf("a pause of %v", pause)
				}
			}
		}
		if len(attempts) < 30 {
			t.Errorf("%d attempts in 3 minutes", len(attempts))
		}
		c.mu.Unlock()
		w.conns.Wait()
		w.end(c, w.lines[0])
	})
}

// What answers slowly, but does, has ten seconds.
func TestAttemptOfWhichSomethingComesHasTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		var took []time.Duration
		redial := func(ctx context.Context, alive func()) (Carrier, error) {
			start := time.Now()
			for ctx.Err() == nil {
				select {
				case <-time.After(2 * time.Second):
					alive()
				case <-ctx.Done():
				}
			}
			took = append(took, time.Since(start))
			return nil, ctx.Err()
		}
		car, _ := w.dial(t.Context(), func() {})
		c, err := Dial(t.Context(), car, Hello{}, Config{Redial: redial})
		if err != nil {
			t.Fatal(err)
		}
		w.last().Close()
		time.Sleep(time.Minute)
		c.mu.Lock()
		if len(took) < 4 {
			t.Errorf("%d attempts", len(took))
		}
		for _, d := range took {
			if d != attemptTime {
				t.Errorf("given up after %v", d)
			}
		}
		c.mu.Unlock()
		w.conns.Wait()
		w.end(c, w.lines[0])
	})
}

func TestClientComesBackWhenItIsToldTo(t *testing.T) {
	for _, tt := range []struct {
		name  string
		does  func(w *world, s *Conn)
		after time.Duration
	}{
		{"by an error of dialling", func(w *world, _ *Conn) {
			w.set(errBusy{30 * time.Second})
			w.last().Close()
			synctest.Wait() // the attempt
			w.set(nil)
		}, 30 * time.Second},
		{"by DETACH", func(_ *world, s *Conn) { s.Detach(CodeShutdown, 7*time.Second) }, 7 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c, s := w.connect(Config{})
				time.Sleep(fruitful) // the first attempt is made at once
				tt.does(w, s)
				start := time.Now()
				time.Sleep(tt.after - time.Millisecond)
				if c.Attached() {
					t.Errorf("it is back early")
				}
				time.Sleep(maxPause + time.Millisecond)
				if !c.Attached() {
					t.Errorf("it is not back after %v", time.Since(start))
				}
				w.end(c, s)
			})
		})
	}
}

// wired has a world use wires; set changes each.
func (w *world) wired(set func(*wire)) (last func() *wire) {
	var wires []*wire
	w.link = func() (Carrier, Carrier) {
		l := newWire(uint64(len(wires)))
		l.sure = true
		set(l)
		wires = append(wires, l)
		return l.ends[0], l.ends[1]
	}
	return func() *wire {
		w.mu.Lock()
		defer w.mu.Unlock()
		return wires[len(wires)-1]
	}
}

// DETACH was dropped, and the carrier with it, if it came during a write.
func TestDetachIsSaidWhileAWriteIsHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		last := w.wired(func(l *wire) { l.ways[1].room, l.sure = 1000, true })
		c, s := w.connect(Config{})
		last().stall(2 * time.Second)
		go s.Write(make([]byte, 200_000))
		synctest.Wait()
		s.Detach(CodeShutdown, 7*time.Second)
		time.Sleep(2*time.Second + 7*time.Second - time.Millisecond)
		if c.Attached() {
			t.Error("it is back early")
		}
		time.Sleep(maxPause)
		if !c.Attached() {
			t.Error("it is not back")
		}
		w.end(c, s)
	})
}

// The next carrier of a line that has one may wait; of one that has lost it, not.
func TestLostCarrierEndsThePauseOfARenewal(t *testing.T) {
	for range 10 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			c, s := w.connect(Config{})
			time.Sleep(fruitful)
			w.set(errModel)
			c.Renew()
			time.Sleep(30 * time.Second) // it fails, and fails
			w.set(nil)
			if w.last().isClosed() {
				t.Fatal("the carrier is gone")
			}
			w.last().Close()
			synctest.Wait()
			if !c.Attached() {
				start := time.Now()
				for !c.Attached() {
					time.Sleep(10 * time.Millisecond)
				}
				t.Errorf("it was without a carrier for %v", time.Since(start))
			}
			w.end(c, s)
		})
	}
}

// What the server wants holds nevertheless.
func TestLostCarrierDoesNotEndThePauseThatTheServerWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		time.Sleep(fruitful)
		w.set(errBusy{20 * time.Second})
		c.Renew()
		synctest.Wait()
		w.set(nil)
		w.last().Close()
		time.Sleep(19 * time.Second)
		if c.Attached() {
			t.Error("it came back early")
		}
		time.Sleep(2 * time.Second)
		if !c.Attached() {
			t.Error("it did not come back")
		}
		w.end(c, s)
	})
}

func TestProbeOfALineWithoutACarrierTriesAtOnce(t *testing.T) {
	for _, during := range []string{"a pause", "an attempt", "a pause that the server wants"} {
		t.Run(during, func(t *testing.T) {
			for range 10 {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, always, Config{})
					hangs := during == "an attempt"
					car, _ := w.dial(t.Context(), func() {})
					c, err := Dial(t.Context(), car, Hello{}, Config{Redial: func(ctx context.Context, alive func()) (Carrier, error) {
						if hangs {
							return hang(ctx, alive)
						}
						return w.dial(ctx, alive)
					}})
					if err != nil {
						t.Fatal(err)
					}
					w.conns.Wait()
					time.Sleep(fruitful)
					switch during {
					case "a pause":
						w.set(errModel)
					case "a pause that the server wants":
						w.set(errBusy{time.Hour})
					}
					w.last().Close()
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
					hung := hangs
					hangs = false
					w.set(nil)
					c.Probe()
					time.Sleep(time.Millisecond)
					if hung { // one attempt is let come to its end, and counts for nothing
						time.Sleep(attemptQuiet)
					}
					if !c.Attached() {
						t.Error("it has no carrier")
					}
					w.end(c, w.lines[0])
				})
			}
		})
	}
}

// A network that changes once a second: an attempt that takes longer must come
// to its end nevertheless.
func TestProbesInARowLetAnAttemptThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		car, _ := w.dial(t.Context(), func() {})
		c, err := Dial(t.Context(), car, Hello{}, Config{Redial: func(ctx context.Context, alive func()) (Carrier, error) {
			select {
			case <-time.After(2 * time.Second):
				return w.dial(ctx, alive)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		w.conns.Wait()
		time.Sleep(fruitful)
		w.last().Close()
		for range 10 {
			time.Sleep(time.Second)
			c.Probe()
		}
		if !c.Attached() {
			t.Error("it has no carrier")
		}
		w.end(c, w.lines[0])
	})
}

func TestMakeBeforeBreakInterruptsNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		does func(c, s *Conn)
	}{
		{"Renew", Config{}, func(c, _ *Conn) { c.Renew() }},
		{"REDIAL", Config{}, func(_, s *Conn) { s.GoAway(GoAway{Flags: Redial}) }},
		{"MaxAge", Config{MaxAge: 50 * time.Second}, func(_, _ *Conn) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				last := w.wired(func(l *wire) {
					l.ways[0].latency, l.ways[1].latency = 40*time.Millisecond, 40*time.Millisecond
				})
				c, s := w.connect(tt.cfg)
				first := last()
				stop := make(chan struct{})
				var longest time.Duration
				go func() { // a byte every 10 ms, each with the time that it was written
					for {
						select {
						case <-stop:
							s.CloseWrite()
							return
						case <-time.After(10 * time.Millisecond):
							s.Write([]byte{1})
						}
					}
				}()
				read := make(chan struct{})
				go func() {
					defer close(read)
					before := time.Now()
					for {
						if _, err := c.Read(make([]byte, 100)); err != nil {
							return
						}
						longest = max(longest, time.Since(before))
						before = time.Now()
					}
				}()
				time.Sleep(20 * time.Second)
				tt.does(c, s)
				time.Sleep(35 * time.Second)
				if last() == first || !first.ends[0].isClosed() || !first.ends[1].isClosed() {
					t.Error("there is no other carrier in place of the first")
				}
				if es := w.attemptsMade(); es != 2 {
					t.Errorf("%d carriers", es)
				}
				close(stop)
				<-read
				if longest > 150*time.Millisecond { // a round trip and what a byte takes
					t.Errorf("nothing came for %v", longest)
				}
				w.end(c, s)
			})
		})
	}
}

func (w *world) attemptsMade() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.dials)
}

// Another carrier cannot be had: then the present one is left in peace, and so
// is what was received on it.
func TestRenewalThatFailsCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		told, toldThere := watch(c), watch(s)
		time.Sleep(time.Second)
		w.tamper = func(client, _ *pipe) { client.mute.Store(true) } // RESUME never arrives
		s.Write([]byte("one"))
		synctest.Wait()
		c.Renew() // before the acknowledgement is due
		time.Sleep(20 * time.Second)
		for _, e := range append(told(), toldThere()...) {
			if e.Kind == Detached {
				t.Errorf("the carrier was lost: %v", e.Err)
			}
		}
		w.mu.Lock()
		w.tamper = nil
		w.mu.Unlock()
		w.end(c, s)
	})
}

func TestGoAwayIsSaidAgainOnALaterCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		told := watch(c)
		s.GoAway(GoAway{CodeShutdown, time.Minute, NewSession | Redial})
		time.Sleep(10 * time.Second)
		w.last().Close()
		time.Sleep(10 * time.Second)
		var said []GoAway
		for _, e := range told() {
			if e.Kind == GoingAway {
				said = append(said, e.GoAway)
			}
		}
		if len(said) != 3 {
			t.Fatalf("said %+v", said)
		}
		if said[0] != (GoAway{CodeShutdown, time.Minute, NewSession | Redial}) {
			t.Errorf("first %+v", said[0])
		}
		for _, g := range said[1:] {
			if g.Flags != NewSession || g.Deadline > time.Minute || g.Deadline < 45*time.Second {
				t.Errorf("again %+v", g)
			}
		}
		if n := w.attempts(); n != 3 {
			t.Errorf("%d carriers", n)
		}
		w.end(c, s)
	})
}

func TestServerThatForgotIsALossAndSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		name string
		does func(w *world, s *Conn)
		is   error
	}{
		{"restarted", func(w *world, _ *Conn) { w.server = NewServer("another", always, Config{}) }, ErrRestart},
		{"evicted", func(_ *world, s *Conn) { s.evict("test") }, ErrUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c, s := w.connect(Config{})
				w.set(errModel)
				w.last().Close()
				synctest.Wait()
				tt.does(w, s)
				w.set(nil)
				<-c.Done()
				if err := c.Err(); !errors.Is(err, ErrLost) || !errors.Is(err, tt.is) {
					t.Error(err)
				}
				w.end(c, s)
			})
		})
	}
}
