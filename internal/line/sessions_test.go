package line

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// lose has the newest client of w lose its carrier, and not come back.
func (w *world) lose(c *Conn) {
	c.mu.Lock()
	car := c.at.car
	c.mu.Unlock()
	car.Close()
	synctest.Wait()
}

func TestOldestDetachedSessionsGoFirstAndAttachedOnesNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		w.server.MaxDetached = 2
		var cs, ss [6]*Conn
		for i := range cs {
			cs[i], ss[i] = w.connect(Config{})
		}
		w.user = "bob"
		bc, bs := w.connect(Config{})
		w.set(errModel)
		w.lose(bc) // another's do not count
		for _, i := range []int{3, 1, 4, 0} {
			w.lose(cs[i])
			time.Sleep(time.Second)
		}
		for i, gone := range []bool{false, true, false, true, false, false} {
			if err := ss[i].Err(); (err != nil) != gone || gone && !errors.Is(err, ErrLost) {
				t.Errorf("session %d: %v", i, err)
			}
		}
		if bs.Err() != nil {
			t.Errorf("another's: %v", bs.Err())
		}
		for i := range cs {
			w.end(cs[i], ss[i])
		}
		w.end(bc, bs)
	})
}

func TestShortMemoryCostsTheOldestDetachedSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 << 20
		budget := NewBudget(limit)
		w := newWorld(t, always, Config{Budget: budget})
		var cs, ss [5]*Conn
		for i := range cs {
			cs[i], ss[i] = w.connect(Config{})
		}
		w.set(errModel)
		for _, i := range []int{2, 0, 3} {
			w.lose(cs[i])
			time.Sleep(time.Second)
			ss[i].Write(make([]byte, 200_000)) // which nobody fetches
		}
		gone := func() (list []int) {
			synctest.Wait()
			for i, s := range ss {
				if s.Err() != nil {
					list = append(list, i)
				}
			}
			return list
		}
		others := int64(0)
		for _, tt := range []struct {
			over int64
			gone []int
		}{{0, nil}, {1, []int{2}}, {200_000, []int{0, 2}}, {10 << 20, []int{0, 2, 3}}} {
			n := limit + tt.over - budget.Held()
			budget.take(n)
			others += n
			if got := gone(); !slices.Equal(got, tt.gone) {
				t.Errorf("%d bytes too many: %v are gone, want %v", tt.over, got, tt.gone)
			}
		}
		budget.give(others)
		for i := range cs {
			w.end(cs[i], ss[i])
		}
		if n := budget.Held(); n != 0 {
			t.Errorf("%d bytes are still held", n)
		}
	})
}

// Memory is short and the reader slow: the writer hears of the little that it
// may send as soon as there is some, and not with the next PING.
func TestShortMemorySlowsALineAndDoesNotStopIt(t *testing.T) {
	for _, who := range []string{"receiver", "sender", "both"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{Window: 4 << 20})
			ccfg := Config{Window: 4 << 20}
			budget := NewBudget(10 << 20)
			if who != "sender" {
				ccfg.Budget = budget
			}
			if who != "receiver" {
				w.server.Config.Budget = budget
			}
			c, s := w.connect(ccfg)
			budget.take(20 << 20)
			start := time.Now()
			const n = 6 << 20 // what was granted before goes first
			go s.Write(make([]byte, n))
			buf := make([]byte, 64<<10)
			for got := 0; got < n; {
				k, err := c.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got += k
				time.Sleep(200 * time.Millisecond)
			}
			if took := time.Since(start); took > 60*time.Second {
				t.Errorf("%s: %v", who, took)
			}
			w.end(c, s)
		})
	}
}

// Another line takes the memory between two frames: what the first has granted
// must be remembered as it was said.
func TestWhatWasGrantedHoldsWhenMemoryGetsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(1 << 20)
		c, s := scripted(t, Config{Window: 4 << 20, Budget: budget}, 1<<20)
		defer end(c, s)
		c.mu.Lock()
		c.in.limit, c.in.rcv = 1000, 1000 // nothing is granted any more
		c.out.msgs, c.out.control = nil, nil
		f := frame{typ: frameAck}
		c.add(&f)
		budget.take(2 << 20)
		c.in.acked()
		limit := c.in.limit
		c.mu.Unlock()
		if said := f.ack + uint64(f.wnd); limit < said {
			t.Errorf("%d said, %d remembered", said, limit)
		}
	})
}

// A server whose memory is short looks for victims while a session is about to
// get its first carrier. That was taken for the oldest that waits for one.
func TestSessionThatIsAboutToBeginIsNotEvicted(t *testing.T) {
	srv := NewServer("test", always, Config{Budget: NewBudget(1)})
	a, b := carriers()
	c := newConn(srv.Config, Session{Limits: always}, minWindow)
	c.forget, c.orphaned = srv.forget, srv.thinOut
	srv.sessions[c.hello.ID] = c
	srv.Config.Budget.take(2)
	srv.thin()
	srv.Config.Budget.give(2)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	c.begin(b, nil)
	a.Close()
	c.Abort(CodeAborted, nil)
	c.Wait()
	srv.Wait()
}

// The window that follows from the round trip, the least, and one of a server
// that is told: a session works with each.
func TestResumedLineKeepsItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{Window: minWindow})
		c, s := w.connect(Config{Window: minWindow})
		go c.Write(make([]byte, 2*minWindow))
		synctest.Wait()
		for range 5 { // the server reads nothing, and is resumed all the same
			time.Sleep(fruitful)
			w.last().Close()
			time.Sleep(maxPause)
			if s.Err() != nil || !s.incomingIsSound() || !c.outgoingIsSound() {
				t.Fatalf("%v", s.Err())
			}
			s.mu.Lock()
			if s.in.held == 0 || s.in.held > minWindow {
				t.Errorf("%d bytes are held", s.in.held)
			}
			s.mu.Unlock()
		}
		if _, err := io.ReadFull(s, make([]byte, 2*minWindow)); err != nil {
			t.Error(err)
		}
		w.end(c, s)
	})
}

func TestAbortOfADetachedLineReachesTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		w.set(errModel)
		w.lose(c)
		c.Abort(CodeRevoked, errors.New("enough"))
		time.Sleep(10 * time.Second)
		w.set(nil)
		<-s.Done()
		var ce *CloseError
		if err := s.Err(); !errors.As(err, &ce) || ce.Code != CodeRevoked {
			t.Error(err)
		}
		if err := c.Drained(context.Background()); err == nil {
			t.Error("drained")
		}
		w.end(c, s)
	})
}

// The client knows that all has arrived, and the server does not yet know that
// the client does: it must not wait for that in vain.
func TestServerHearsTheLastCLOSE_ACKOnAnotherCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		w.last().filter = func(m []byte) []byte {
			if m[0] == frameCloseAck {
				m[0] = frameAck // it is lost
			}
			return m
		}
		c.CloseWrite()
		synctest.Wait()
		s.CloseWrite()
		synctest.Wait()
		if err := c.Drained(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Close()
		w.last().Close()
		start := time.Now()
		if err := s.Drained(t.Context()); err != nil || time.Since(start) > maxPause {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		w.end(c, s)
		if n, _ := w.server.Sessions(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// What came and was not read is thrown away with a session that is not kept: its
// reader must not take that for the end.
func TestSessionThatIsNotKeptNeverLooksComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		c.Write(make([]byte, 10_000))
		c.CloseWrite()
		synctest.Wait() // all of it has come, its end as well
		w.set(errModel)
		w.lose(c)
		s.evict("memory is short")
		got, err := io.ReadAll(s)
		if !errors.Is(err, ErrLost) {
			t.Errorf("behind %d bytes of 10,000: %v", len(got), err)
		}
		w.end(c, s)
	})
}
