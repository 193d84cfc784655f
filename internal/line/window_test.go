package line

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A script is the far end of one line, played by hand.
type script struct {
	t   testing.TB
	car *pipe

	mu     sync.Mutex
	frames []frame // what the line has sent
	off    uint64  // of the next DATA
}

// scripted returns a line whose peer takes window bytes at first, and that
// peer. It must run in a bubble: what the line sends is noted at once.
func scripted(t testing.TB, cfg Config, window uint32) (*Conn, *script) {
	a, b := carriers()
	s := &script{t: t, car: b}
	go func() {
		for {
			m, err := b.Next()
			if err != nil {
				return
			}
			msg, _ := io.ReadAll(m)
			f, err := parseFrame(msg)
			if err != nil {
				t.Errorf("the line sent %x: %v", msg[:min(len(msg), 40)], err)
			}
			if f.typ == framePing {
				b.WriteMessages((&frame{typ: framePong, arg: f.arg}).append(nil))
				continue
			}
			f.body = bytes.Clone(f.body)
			s.mu.Lock()
			s.frames = append(s.frames, f)
			s.mu.Unlock()
		}
	}()
	c := newLine(cfg, a, Session{}, window)
	c.mu.Lock()
	c.out.flight.limit, c.out.chunk = c.out.window, sendBlock // as of a line that has been fast
	c.mu.Unlock()
	s.sent() // the ACK that a carrier begins with
	return c, s
}

// send sends f and waits until everything that follows from it has happened.
func (s *script) send(f frame) {
	if f.typ == frameData {
		f.arg = s.off
		s.off += uint64(len(f.body))
	}
	s.car.WriteMessages(f.append(nil))
	synctest.Wait()
}

// sent returns what the line has sent since the last call.
func (s *script) sent() []frame {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.frames
	s.frames = nil
	return got
}

func only(t *testing.T, fs []frame, typ byte) frame {
	t.Helper()
	if len(fs) != 1 || fs[0].typ != typ {
		t.Fatalf("want one frame 0x%02x, got %d: %+v", typ, len(fs), fs)
	}
	return fs[0]
}

func end(c *Conn, s *script) {
	s.car.Close()
	c.Wait()
}

func TestAcknowledgementComesWhenAskedForOrDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{}, 1<<20)
		defer end(c, s)
		start := time.Now()
		s.send(frame{typ: frameData, body: make([]byte, 10), ackNow: true})
		if f := only(t, s.sent(), frameAck); f.ack != 10 || time.Since(start) != 0 {
			t.Errorf("ACK_NOW: ack %d after %v", f.ack, time.Since(start))
		}
		s.send(frame{typ: frameData, body: make([]byte, 10)})
		if fs := s.sent(); len(fs) > 0 {
			t.Errorf("an ACK at once for 10 bytes: %+v", fs)
		}
		time.Sleep(ackDelay)
		if f := only(t, s.sent(), frameAck); f.ack != 20 {
			t.Errorf("delayed: ack %d", f.ack)
		}
		time.Sleep(time.Second)
		if fs := s.sent(); len(fs) > 0 {
			t.Errorf("twice: %+v", fs)
		}
		for range 4 {
			s.send(frame{typ: frameData, body: make([]byte, 64<<10)})
		}
		if f := only(t, s.sent(), frameAck); f.ack != 20+256<<10 {
			t.Errorf("after 256 KiB: ack %d", f.ack)
		}
		s.send(frame{typ: frameAck, ackNow: true})
		only(t, s.sent(), frameAck)
	})
}

func TestDataCarriesTheAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{}, 1<<20)
		defer end(c, s)
		s.send(frame{typ: frameData, body: make([]byte, 100)})
		c.Write([]byte("answer"))
		if f := only(t, s.sent(), frameData); f.ack != 100 || string(f.body) != "answer" {
			t.Errorf("%+v", f)
		}
		s.send(frame{typ: frameAck, ack: 6, wnd: 1 << 20})
		time.Sleep(time.Second)
		if fs := s.sent(); len(fs) > 0 {
			t.Errorf("and again: %+v", fs)
		}
	})
}

// The reader empties a quarter of the window, of which the writer hears at once.
func TestSlowReaderOpensTheWindowAsItReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 128 << 10
		c, s := scripted(t, Config{Window: window}, 1<<20)
		defer end(c, s)
		s.send(frame{typ: frameData, body: make([]byte, 64<<10)})
		s.send(frame{typ: frameData, body: make([]byte, 64<<10)})
		time.Sleep(ackDelay)
		fs := s.sent()
		if f := fs[len(fs)-1]; f.ack != window || f.wnd != 0 {
			t.Fatalf("full: ack %d, window %d", f.ack, f.wnd)
		}
		io.ReadFull(c, make([]byte, window/4-1))
		if fs := s.sent(); len(fs) > 0 {
			t.Errorf("a window update for less than a quarter: %+v", fs)
		}
		start := time.Now()
		io.ReadFull(c, make([]byte, 1))
		if f := only(t, s.sent(), frameAck); f.ack != window || f.wnd != window/4 || time.Since(start) != 0 {
			t.Errorf("ack %d, window %d", f.ack, f.wnd)
		}
	})
}

func TestLimitThatWasGivenIsNeverTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 256 << 10
		c, s := scripted(t, Config{Window: window}, 1<<30)
		defer end(c, s)
		rnd := rand.New(rand.NewPCG(1, 2))
		limit, unread := uint64(window), 0
		for range 2000 {
			switch n := 1 + rnd.IntN(60_000); rnd.IntN(4) {
			case 0, 1:
				if s.off+uint64(n) <= limit {
					s.send(frame{typ: frameData, body: make([]byte, n), ackNow: rnd.IntN(3) == 0})
					unread += n
				}
			case 2:
				n = min(n, unread)
				unread -= n
				io.ReadFull(c, make([]byte, n))
			case 3:
				time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
			}
			for _, f := range s.sent() {
				now := f.ack + uint64(f.wnd)
				if now < limit {
					t.Fatalf("the limit was %d and is %d", limit, now)
				}
				limit = now
			}
		}
		if c.Err() != nil || s.off < 1<<20 {
			t.Errorf("%d bytes, %v", s.off, c.Err())
		}
	})
}

func TestSenderStopsAtThePeersLimitAndCountsOnWhatItWasGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 256 << 10
		c, s := scripted(t, Config{}, window)
		defer end(c, s)
		go c.Write(make([]byte, 2<<20))
		sent := func() (n uint64) {
			for _, f := range s.sent() {
				if f.typ == frameData {
					n = f.arg + uint64(len(f.body))
				}
			}
			return n
		}
		first := sent()
		if first > window || first < window-64<<10 {
			t.Fatalf("%d bytes sent into a window of %d", first, window)
		}
		s.send(frame{typ: frameAck, ack: 0, wnd: 0}) // smaller than what was given: no withdrawal
		s.send(frame{typ: frameAck, ack: first, wnd: window})
		s.send(frame{typ: frameAck, ack: first, wnd: 10}) // late, from before: no effect
		if second := sent(); second > first+window || second < first+window-64<<10 {
			t.Errorf("%d bytes sent of %d allowed", second, first+window)
		}
		c.Abort(CodeAborted, nil)
	})
}

func TestWriterThatWaitsAsksForAnAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{Window: 256 << 10}, 1<<30)
		defer end(c, s)
		go c.Write(make([]byte, 1<<20))
		asked := false
		for _, f := range s.sent() {
			asked = asked || f.ackNow
		}
		if !asked {
			t.Error("the sender's window is full and no ACK_NOW was sent")
		}
		c.Abort(CodeAborted, nil)
	})
}

func TestTwoPiecesWrittenJoinedTravelInOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{0, 1, 100, inlineMax, 32 << 10, sendBlock - dataHeaderLen - 12} {
			c, s := scripted(t, Config{}, 1<<30)
			c.Write(make([]byte, 30_000)) // so that the block under way has no room for the largest
			s.send(frame{typ: frameAck, ack: 0, wnd: 1 << 30})
			s.sent()
			head, body := bytes.Repeat([]byte("h"), 12), bytes.Repeat([]byte("b"), size)
			if n, err := c.WriteJoined(head, body); n != 12+size || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			if f := only(t, s.sent(), frameData); !bytes.Equal(f.body, append(head, body...)) || f.arg != 30_000 {
				t.Errorf("a frame of %d bytes at %d", len(f.body), f.arg)
			}
			end(c, s)
		}
	})
}

func TestPiecesTooLargeForAFrameArriveAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{}, 1<<30)
		defer end(c, s)
		head, body := bytes.Repeat([]byte("h"), 12), bytes.Repeat([]byte("b"), 200_000)
		if n, err := c.WriteJoined(head, body); n != 200_012 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		var got []byte
		for _, f := range s.sent() {
			if f.typ != frameData || f.arg != uint64(len(got)) || len(f.body) > MaxPayload {
				t.Fatalf("%+v", f)
			}
			got = append(got, f.body...)
		}
		if !bytes.Equal(got, append(head, body...)) {
			t.Errorf("%d bytes", len(got))
		}
	})
}

// The peer's program may be stopped, in a debugger say, while its machine
// answers pings: that is slow, not dead.
func TestReaderThatPausesForMinutesLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := carriers()
		c, s := lines(t, a, b, Config{Window: 128 << 10})
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 1<<20))
			wrote <- err
		}()
		time.Sleep(10 * time.Minute)
		if n, err := io.ReadFull(s, make([]byte, 1<<20)); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if err := <-wrote; err != nil {
			t.Errorf("write: %v", err)
		}
		closeBoth(c, s)
	})
}

func TestDuplicateBytesAreTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{}, 1<<20)
		defer end(c, s)
		s.send(frame{typ: frameData, body: []byte("abcdef")})
		s.off = 3
		s.send(frame{typ: frameData, body: []byte("defghi")})
		s.off = 0
		s.send(frame{typ: frameData, body: []byte("abc")})
		buf := make([]byte, 20)
		if n, _ := c.Read(buf); string(buf[:n]) != "abcdefghi" {
			t.Errorf("%q", buf[:n])
		}
	})
}

func TestEveryPingIsAnsweredWithItsOwnValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{}, 1<<20)
		defer end(c, s)
		s.send(frame{typ: framePing, arg: 0x1122334455667788})
		if f := only(t, s.sent(), framePong); f.arg != 0x1122334455667788 {
			t.Errorf("%x", f.arg)
		}
		s.send(frame{typ: framePong, arg: 42}) // to no question
		if c.Err() != nil {
			t.Error(c.Err())
		}
	})
}

func TestBothWaysOfAnEndAreSaidInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{}, 1<<20)
		c.Write([]byte("last words"))
		c.CloseWrite()
		fs := s.sent()
		if len(fs) != 2 || fs[0].typ != frameData || fs[1].typ != frameClose || fs[1].arg != 10 || fs[1].code != CodeClean {
			t.Fatalf("%+v", fs)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write behind the end: %v", err)
		}
		s.send(frame{typ: frameCloseAck, ack: 10, wnd: 1 << 20})
		s.send(frame{typ: frameData, body: []byte("and yours"), ack: 10, wnd: 1 << 20})
		s.send(frame{typ: frameClose, arg: 9, ack: 10, wnd: 1 << 20})
		if got, err := io.ReadAll(c); string(got) != "and yours" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if f := only(t, s.sent(), frameCloseAck); f.ack != 9 {
			t.Errorf("%+v", f)
		}
		if err := c.Drained(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
		end(c, s)
	})
}

func TestBytesBehindTheCloseAreAViolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Config{}, 1<<20)
		s.send(frame{typ: frameClose, arg: 0})
		s.send(frame{typ: frameData, body: []byte("more")})
		<-c.Done()
		if !errors.Is(c.Err(), ErrProtocol) {
			t.Error(c.Err())
		}
		end(c, s)
	})
}
