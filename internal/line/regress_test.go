package line

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// What hostile readings have found: how lines end. regress_peer_test.go has
// what a peer could ask for.

// closing is a session whose client has ended, and whose server knows it and has
// closed, as package server does. What the server says to that is lost.
func closing(w *world) (c, s *Conn, l *wire) {
	last := w.wired(func(l *wire) { l.latencies(time.Millisecond) })
	c, s = w.connect(Config{})
	l = last()
	c.Write([]byte("all"))
	if got, err := io.ReadAll(io.LimitReader(s, 3)); string(got) != "all" {
		w.t.Fatalf("%q, %v", got, err)
	}
	s.Write([]byte("thanks"))
	if err := s.Acknowledged(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	l.dark(1)
	w.set(errModel)
	c.CloseWrite()
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		w.t.Fatalf("the client's end: %v", err)
	}
	s.Close()
	return c, s, l
}

// The server forgot a session 5 s after its owner's Close: a client whose path
// was away for longer just then could not know that all had arrived, and
// `wstun client -W` ended with an error.
func TestPathIsAwayWhileTheSessionClosesAndTheClientStillEndsInOrder(t *testing.T) {
	for _, away := range []time.Duration{time.Second, 8 * time.Second, 60 * time.Second, 14 * time.Minute} {
		for noticed, how := range map[string]int{"by both": cutTold, "by one": cutOneTold, "by nobody": cutHole} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c, s, l := closing(w)
				l.cutNow(how)
				l.dark(0, 1)
				time.AfterFunc(away, func() { w.set(nil) })
				start := time.Now()
				if err := c.Drained(t.Context()); err != nil {
					t.Errorf("away for %v, noticed %s: after %v: %v", away, noticed, time.Since(start), err)
				}
				if took := time.Since(start); took > away+15*time.Second {
					t.Errorf("away for %v, noticed %s: it took %v", away, noticed, took)
				}
				if got, _ := io.ReadAll(c); string(got) != "thanks" {
					t.Errorf("read %q", got)
				}
				c.Close()
				c.Wait()
				s.Wait()
				if c.Err() != net.ErrClosed || s.Err() != net.ErrClosed {
					t.Errorf("client %v, server %v", c.Err(), s.Err())
				}
				w.conns.Wait()
			})
		}
	}
}

// The server keeps it as long as any other session, and no longer.
func TestClosedSessionWhoseClientNeverReturnsIsForgottenAfterTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s, l := closing(w)
		l.dark(0, 1)
		start := time.Now()
		s.Wait()
		if took := time.Since(start); took < always.ResumeWindow || took > always.ResumeWindow+25*time.Second || !errors.Is(s.Err(), ErrLost) {
			t.Errorf("after %v: %v", took, s.Err())
		}
		if n, _ := w.server.Sessions(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
		w.end(c, s)
	})
}

func TestServerThatStopsDoesNotWaitForTheClientOfAClosedSession(t *testing.T) {
	for _, noticed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			c, s, l := closing(w)
			limit := abortTimeout // the time that the client has to read it
			if noticed {
				l.cutNow(cutTold)
				limit = 0
			}
			l.dark(0, 1)
			synctest.Wait()
			start := time.Now()
			s.Abort(CodeShutdown, errors.New("about to stop"))
			s.Wait()
			if took := time.Since(start); took > limit {
				t.Errorf("noticed: %t: it took %v", noticed, took)
			}
			w.end(c, s)
		})
	}
}

// A client that has not ended has no claim to it.
func TestClosedSessionWhoseClientHasNotEndedIsOverSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		w.set(errModel)
		w.last().mute.Store(true)
		start := time.Now()
		s.Close()
		s.Wait()
		if took := time.Since(start); took > closeTimeout {
			t.Errorf("it took %v", took)
		}
		w.end(c, s)
	})
}

// Somebody on the way answers the next connection with REJECT CLOSED in place of
// CHALLENGE. He has no key, and the client took his word for it that the server
// had everything.
func TestNobodyOnTheWayCanSayThatAllHasArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		s.CloseWrite()
		synctest.Wait()
		w.last().mute.Store(true) // nothing of what follows arrives
		want := noise(1, 100_000)
		c.Write(want)
		c.CloseWrite()
		synctest.Wait()
		forged := 0
		w.mu.Lock()
		w.link = func() (Carrier, Carrier) {
			forged++
			a, b := carriers()
			b.WriteMessages((&RejectError{Code: RejectClosed, final: 100_000, mac: make([]byte, macLen)}).encode())
			dead, _ := carriers()
			dead.Close()
			return a, dead
		}
		w.mu.Unlock()
		w.last().Close()
		time.Sleep(time.Minute)
		c.mu.Lock()
		acked := c.out.closeAcked
		c.mu.Unlock()
		if c.Err() != nil || acked || forged < 10 {
			t.Errorf("after %d times: %v, drained: %t", forged, c.Err(), acked)
		}
		w.mu.Lock()
		w.link = nil
		w.mu.Unlock()
		if got, err := io.ReadAll(s); string(got) != string(want) || err != nil {
			t.Errorf("the server has %d bytes of %d, %v", len(got), len(want), err)
		}
		if err := c.Drained(t.Context()); err != nil {
			t.Error(err)
		}
		w.end(c, s)
	})
}

// A user breaks off, and the carrier is dead without anybody knowing: the server
// kept the session, and the connections to its targets, for the whole window.
func TestServerHearsOfAnAbortThoughTheCarrierWasDead(t *testing.T) {
	for _, tt := range []struct {
		name string
		dies func(l *wire)
	}{
		{"silently", func(l *wire) { l.dark(0, 1) }},
		{"towards the server", func(l *wire) { l.dark(0) }},
		{"as the write finds out", func(l *wire) {
			l.dark(0, 1)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ways[0].broken = true
		}},
	} {
		for _, away := range []time.Duration{0, 10 * time.Second, 25 * time.Second} {
			t.Run(tt.name+", "+away.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, always, Config{})
					last := w.wired(func(*wire) {})
					c, s := w.connect(Config{})
					tt.dies(last())
					w.set(errModel)
					time.AfterFunc(away, func() { w.set(nil) })
					start := time.Now()
					c.Abort(CodeAborted, nil)
					if _, err := c.Read(make([]byte, 1)); err == nil {
						t.Error("it can still be read")
					}
					s.Wait()
					var ce *CloseError
					if took := time.Since(start); took > away+5*time.Second || !errors.As(s.Err(), &ce) || ce.Code != CodeAborted {
						t.Errorf("after %v: %v", took, s.Err())
					}
					c.Wait()
					if took := time.Since(start); took > away+5*time.Second {
						t.Errorf("the client took %v", took)
					}
					w.conns.Wait()
				})
			})
		}
	}
}

// The path does not return: a client that ends must not wait for it for long.
func TestAbortWithoutAPathEndsAfterHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		last := w.wired(func(*wire) {})
		c, s := w.connect(Config{})
		last().dark(0, 1)
		w.set(errModel)
		start := time.Now()
		c.Abort(CodeAborted, nil)
		c.Wait()
		if took := time.Since(start); took < 25*time.Second || took > 32*time.Second {
			t.Errorf("it took %v", took)
		}
		w.end(c, s)
	})
}

func TestSecondAbortEndsItWithinASecond(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 5 * time.Second, 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			last := w.wired(func(*wire) {})
			c, s := w.connect(Config{})
			last().dark(0, 1)
			w.set(errModel)
			c.Abort(CodeAborted, nil)
			time.Sleep(after)
			start := time.Now()
			c.Abort(CodeAborted, nil)
			c.Wait()
			if took := time.Since(start); took > abortTimeout {
				t.Errorf("a second Abort %v after the first: it took %v", after, took)
			}
			w.end(c, s)
		})
	}
}

// Nor does it wait for a later carrier that has died as well.
func TestSecondAbortOnALaterCarrierEndsItWithinASecond(t *testing.T) {
	for _, how := range []int{cutHole, cutTold} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			last := w.wired(func(l *wire) {
				l.latencies(10 * time.Millisecond)
				l.alter = func(from int, m []byte) []byte {
					if from == 0 && m[0] == frameClose {
						return nil // nobody hears of it
					}
					return m
				}
			})
			c, s := w.connect(Config{})
			first := last()
			first.dark(0, 1)
			c.Abort(CodeAborted, nil)
			time.Sleep(5 * time.Second)
			if last() == first || !c.Attached() {
				t.Error("there is no later carrier")
			}
			w.set(errModel)
			start := time.Now()
			c.Abort(CodeAborted, nil)
			last().cutNow(how)
			c.Wait()
			if took := time.Since(start); took > abortTimeout {
				t.Errorf("it took %v", took)
			}
			w.end(c, s)
		})
	}
}

// Who talks nonsense is not asked again, whether he hears why or not.
func TestNobodyRedialsAPeerThatBrokeTheProtocol(t *testing.T) {
	for _, hears := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			c, s := w.connect(Config{})
			w.last().mute.Store(!hears)
			w.last().in <- []byte{0xff}
			start := time.Now()
			c.Wait()
			if took := time.Since(start); took > abortTimeout || !errors.Is(c.Err(), ErrProtocol) {
				t.Errorf("after %v: %v", took, c.Err())
			}
			time.Sleep(time.Minute)
			if n := w.attemptsMade(); n != 1 {
				t.Errorf("%d carriers", n)
			}
			w.end(c, s)
		})
	}
}

// vanish has a client lose its carrier and end without a word.
func (w *world) vanish(c *Conn) {
	w.set(errModel)
	w.lose(c)
	c.Abort(CodeAborted, nil)
	c.Abort(CodeAborted, nil)
	c.Wait()
	w.set(nil)
}

// One client that had vanished with a relay open kept `wstun server` from
// stopping for all of its --drain-timeout.
func TestServerThatDrainsWaitsTenSecondsForAClientThatHasVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		var cs, ss [5]*Conn
		for i := range cs {
			cs[i], ss[i] = w.connect(Config{})
		}
		const early, justNow, meanwhile, returns, stays = 0, 1, 2, 3, 4
		ends := map[int]time.Duration{} // behind Drain
		start := time.Now()
		for i, s := range ss {
			go func() {
				<-s.Done()
				w.mu.Lock()
				defer w.mu.Unlock()
				ends[i] = time.Since(start)
			}()
		}
		w.vanish(cs[early])
		time.Sleep(5 * time.Minute)
		w.vanish(cs[justNow])
		w.server.Drain()
		start = time.Now()
		time.Sleep(4 * time.Second)
		w.vanish(cs[meanwhile])
		w.set(errModel)
		w.lose(cs[returns])
		time.Sleep(7 * time.Second)
		w.set(nil)
		time.Sleep(10 * time.Minute)
		for i, want := range map[int]time.Duration{early: 10 * time.Second, justNow: 10 * time.Second, meanwhile: 14 * time.Second, returns: 0, stays: 0} {
			if got := ends[i]; got != want || want > 0 && !errors.Is(ss[i].Err(), ErrLost) {
				t.Errorf("session %d ended %v after Drain, want %v: %v", i, got, want, ss[i].Err())
			}
		}
		transfer(t, cs[stays], ss[stays], 100_000)
		transfer(t, cs[returns], ss[returns], 100_000)
		for i := range cs {
			w.end(cs[i], ss[i])
		}
	})
}

// Drain comes while a session begins, which was not there to be told.
func TestSessionThatBeginsWhileTheServerDrainsIsNotWaitedForEither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		w.server.StreamWindow = func(time.Duration) uint32 { // asked while a session is granted
			w.server.Drain()
			return 0
		}
		c, s := w.connect(Config{})
		w.vanish(c)
		start := time.Now()
		s.Wait()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("it is kept for %v", took)
		}
		w.end(c, s)
	})
}
