package line

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// detachments returns how often and why a line has lost its carrier.
func detachments(es []Event) (errs []error) {
	for _, e := range es {
		if e.Kind == Detached {
			errs = append(errs, e.Err)
		}
	}
	return errs
}

// Bug 3 of the first drafts: bytes that come in are no proof that bytes go out.
func TestPathThatIsDarkIsFoundInTime(t *testing.T) {
	for _, tt := range []struct {
		name     string
		up, down bool
	}{{"both ways", true, true}, {"from the client", true, false}, {"from the server", false, true}} {
		for _, who := range []string{"idle", "the client writes", "the server writes", "both write"} {
			t.Run(tt.name+", "+who, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, always, Config{})
					last := w.wired(func(*wire) {})
					c, s := w.connect(Config{})
					time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Second))))
					l := last()
					l.mu.Lock()
					l.ways[0].hole, l.ways[1].hole = tt.up, tt.down
					l.mu.Unlock()
					limit := 25 * time.Second
					if tt.down && who != "idle" && who != "the server writes" {
						// The client comes back, and nothing that it receives prolongs its wait.
						limit = 10 * time.Second
					}
					if who == "the client writes" || who == "both write" {
						c.Write([]byte("anybody?"))
					}
					if who == "the server writes" || who == "both write" {
						s.Write([]byte("anybody?"))
					}
					start := time.Now()
					for last() == l || !c.Attached() {
						if time.Sleep(100 * time.Millisecond); time.Since(start) > limit {
							t.Fatalf("not found within %v", limit)
						}
					}
					if took := time.Since(start); took < 5*time.Second {
						t.Errorf("given up after %v", took)
					}
					w.end(c, s)
				})
			})
		}
	}
}

// Where one direction is dark and the other is busy it takes three times as
// long, and no longer.
func TestBusyPathThatIsDarkInOneDirectionIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		last := w.wired(func(l *wire) { l.ways[0].room = math.MaxInt })
		c, s := w.connect(Config{})
		l := last()
		l.mu.Lock()
		l.ways[0].hole = true
		l.mu.Unlock()
		start := time.Now()
		c.Write([]byte("anybody?"))
		go func() {
			for s.Err() == nil && last() == l {
				s.Write([]byte{1})
				time.Sleep(100 * time.Millisecond)
			}
		}()
		for last() == l && time.Since(start) < 26*time.Second {
			time.Sleep(100 * time.Millisecond)
		}
		if last() == l {
			t.Error("not found within 26 s")
		}
		synctest.Wait()
		time.Sleep(time.Second)
		w.end(c, s)
	})
}

func TestStallOfFiveSecondsCostsNoCarrier(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			last := w.wired(func(l *wire) {
				l.ways[0].latency, l.ways[1].latency = 50*time.Millisecond, 50*time.Millisecond
			})
			c, s := w.connect(Config{})
			told, toldThere := watch(c), watch(s)
			var sent int
			for range 300 {
				if busy {
					for _, l := range []*Conn{c, s} {
						l.Write(make([]byte, 20_000))
					}
					sent += 20_000
				}
				last().stall(time.Duration(rand.Int64N(int64(5 * time.Second))))
				time.Sleep(6*time.Second + time.Duration(rand.Int64N(int64(20*time.Second))))
				if busy {
					go io.CopyN(io.Discard, c, 20_000)
					go io.CopyN(io.Discard, s, 20_000)
				}
			}
			time.Sleep(10 * time.Second)
			if errs := append(detachments(told()), detachments(toldThere())...); len(errs) > 0 {
				t.Errorf("%d times, first %v", len(errs), errs[0])
			}
			w.end(c, s)
		})
	}
}

// Reasons to believe that the carrier is dead, again and again, must not keep
// the line from finding that it is.
func TestProbesInARowDoNotPutOffTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		dead := w.last()
		dead.mute.Store(true)
		start := time.Now()
		for w.last() == dead && time.Since(start) < time.Minute {
			c.Probe()
			time.Sleep(2 * time.Second)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("found after %v", took)
		}
		w.end(c, s)
	})
}

// Bug 8 of the first drafts: carriers that live shorter than a frame takes.
func TestFramesGetSmallerOnCarriersThatDieYoungAndLargerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		const lives = 2600 // bytes: a handshake and two frames of the least size
		short, longest := false, 0
		wires := 0
		w.wired(func(l *wire) {
			wires++
			if short {
				l.left = lives
			}
			l.peek = func(from int, m []byte) {
				if from == 0 && m[0] == frameData {
					longest = max(longest, len(m))
				}
			}
		})
		c, s := w.connect(Config{})
		w.mu.Lock()
		short = true
		w.mu.Unlock()
		c.Renew()
		synctest.Wait()
		want := noise(1, 40_000)
		got := make([]byte, len(want))
		start := time.Now()
		go c.Write(want)
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v", err)
		}
		if longest > lives || wires < 20 {
			t.Errorf("%d carriers, the longest frame that got through has %d bytes", wires, longest)
		}
		t.Logf("%d carriers, %v", wires, time.Since(start))
		w.mu.Lock()
		short = false
		w.mu.Unlock()
		time.Sleep(time.Minute)
		want = noise(2, 4<<20)
		got = make([]byte, len(want))
		go c.Write(want)
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v", err)
		}
		if longest != sendBlock {
			t.Errorf("the longest frame has %d bytes", longest)
		}
		w.end(c, s)
	})
}

// A line that is so slow that a frame of full size takes as long as the peer may
// be silent: it settles.
func TestSlowCarrierIsNotGivenUpAgainAndAgain(t *testing.T) {
	for _, rate := range []int{2000, 8000, 12_000, 40_000} {
		for _, room := range []int{16 << 10, 64 << 10, 256 << 10} {
			if room/rate > 40 {
				continue // a PING takes longer than anybody should wait for an answer
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				w.wired(func(l *wire) {
					for i := range l.ways {
						l.ways[i].rate, l.ways[i].room, l.ways[i].latency = rate, room, 50*time.Millisecond
					}
				})
				c, s := w.connect(Config{})
				told := watch(c)
				go c.Write(make([]byte, 30*60*rate)) // more than there is time for
				var at []int
				go func() {
					buf := make([]byte, 1<<20)
					n := 0
					for {
						k, err := s.Read(buf)
						if err != nil {
							return
						}
						n += k
						c.mu.Lock()
						at = append(at[:0], n)
						c.mu.Unlock()
					}
				}()
				before := 0
				var lost []error
				for minute := range 20 {
					time.Sleep(time.Minute)
					errs := detachments(told())
					c.mu.Lock()
					now := append([]int{0}, at...)[len(at)]
					c.mu.Unlock()
					if minute > 2 && now-before < 60*rate/2 {
						t.Errorf("%d B/s, %d B of buffers: %d bytes in minute %d", rate, room, now-before, minute)
					}
					before = now
					if minute >= 10 {
						lost = append(lost, errs...)
					}
				}
				if len(lost) > 1 {
					t.Errorf("%d B/s, %d B of buffers: given up %d times in ten minutes, first %v", rate, room, len(lost), lost[0])
				}
				w.end(c, s)
			})
		}
	}
}

// After ten minutes without a path all that was written arrives soon.
func TestAllArrivesSoonAfterALongOutage(t *testing.T) {
	for _, away := range []time.Duration{time.Second, 5 * time.Second, 20 * time.Second, time.Minute, 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			dark := false
			last := w.wired(func(l *wire) { l.ways[0].hole, l.ways[1].hole = dark, dark })
			c, s := w.connect(Config{})
			l := last()
			l.mu.Lock()
			l.ways[0].hole, l.ways[1].hole = true, true
			l.mu.Unlock()
			w.mu.Lock()
			dark = true
			w.mu.Unlock()
			want := noise(3, 500_000)
			go c.Write(want)
			time.Sleep(away)
			w.mu.Lock()
			dark = false
			w.mu.Unlock()
			if c.Attached() && last() == l {
				l.mu.Lock()
				l.ways[0].hole, l.ways[1].hole = false, false
				l.mu.Unlock()
			}
			start := time.Now()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
				t.Error(err)
			}
			// What was lost is found by then, or an attempt that began in the dark is over.
			if took := time.Since(start); took > 12*time.Second {
				t.Errorf("after %v: %v", away, took)
			}
			w.end(c, s)
		})
	}
}

func TestClientThatNeverReturnsIsForgottenAfterTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		s.Write([]byte("x"))
		w.last().mute.Store(true)
		w.set(errModel)
		start := time.Now()
		<-s.Done()
		if took := time.Since(start); took < always.ResumeWindow || took > always.ResumeWindow+25*time.Second || !errors.Is(s.Err(), ErrLost) {
			t.Errorf("after %v: %v", took, s.Err())
		}
		w.end(c, s)
	})
}

// A carrier that was given up without any proof makes the next one's time longer,
// and quick answers make it shorter again.
func TestPatienceGrowsWithCarriersThatProveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := carriers() // nobody answers
		c := newLine(Config{}, a, Session{}, 1<<20)
		c.Write([]byte("anybody?"))
		<-c.Done()
		if got := c.live.limit(8 * time.Second); got != 16*time.Second {
			t.Errorf("after one it is %v", got)
		}
		c.Wait()
	})
}
