package line

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// ask plays a client's part of a handshake by hand: it answers the challenge
// with what say makes of it, and returns what the server says to that.
func (w *world) ask(user string, say func(chal []byte) []byte) (answer []byte, car *pipe) {
	w.t.Helper()
	a, b := carriers()
	w.conns.Go(func() { w.server.Accept(context.Background(), b, user) })
	chal, err := receiveMessage(a)
	if err != nil {
		w.t.Fatal(err)
	}
	a.WriteMessages(say(chal))
	answer, err = receiveMessage(a)
	if err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	return answer, a
}

// asking is a RESUME of c's session.
func asking(c *Conn, epoch, rcv uint64) func([]byte) []byte {
	return func(chal []byte) []byte {
		m := resume{sid: c.hello.ID, epoch: epoch, rcv: rcv, wnd: minWindow}
		msg := m.encode()
		return append(msg, resumption(c.hello.key, byClient, chal, msg)...)
	}
}

func (p *pipe) isClosed() bool {
	select {
	case <-p.closed:
		return true
	case <-p.peerClosed:
		return true
	default:
		return false
	}
}

func refusal(t *testing.T, answer []byte) byte {
	t.Helper()
	var e *RejectError
	if err := parseReject(answer); !errors.As(err, &e) {
		t.Fatalf("%x is no refusal", answer)
	}
	return e.Code
}

func TestNewestAttemptWinsAndAnOlderOneIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		w.set(errModel) // the client itself stays away
		answer, seventh := w.ask("alice", asking(c, 7, 0))
		if m, _, err := parseResumed(answer); err != nil || m.epoch != 7 {
			t.Fatalf("%+v, %v", m, err)
		}
		if !w.last().isClosed() {
			t.Error("the carrier before is not closed")
		}
		for _, epoch := range []uint64{0, 1, 6, 7} {
			answer, car := w.ask("alice", asking(c, epoch, 0))
			if code := refusal(t, answer); code != RejectStaleEpoch {
				t.Errorf("attempt %d: refused with %d", epoch, code)
			}
			if !car.isClosed() || seventh.isClosed() || !s.Attached() {
				t.Errorf("attempt %d disturbed the session", epoch)
			}
		}
		for _, epoch := range []uint64{8, 9, 1 << 40} {
			answer, car := w.ask("alice", asking(c, epoch, 0))
			if m, _, err := parseResumed(answer); err != nil || m.epoch != epoch {
				t.Errorf("attempt %d: %+v, %v", epoch, m, err)
			}
			if !seventh.isClosed() || car.isClosed() {
				t.Errorf("attempt %d is not the current one", epoch)
			}
		}
		w.end(c, s)
	})
}

// The four reasons of UNKNOWN look the same, and a thousand of them do not touch
// the session that they are after.
func TestForeignResumesAreAllUnknownAndDisturbNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		told := watch(c)
		stranger := &Conn{hello: c.hello}
		stranger.hello.ID[3] ^= 1
		forger := &Conn{hello: c.hello}
		forger.hello.key = bytes.Repeat([]byte{1}, 32)
		late, first := w.connect(Config{})
		late.Abort(CodeAborted, nil) // now its session is over
		late.Wait()
		first.Wait()
		var want []byte
		for i := range 1000 {
			user, from := "alice", c
			switch i % 5 {
			case 0:
				from = stranger
			case 1:
				from = forger
			case 2:
				user = "bob"
			case 3:
				from = late
			case 4:
				user = ""
			}
			answer, car := w.ask(user, asking(from, uint64(100+i), 0))
			if want == nil {
				want = answer
			}
			if refusal(t, answer) != RejectUnknown || !bytes.Equal(answer, want) || !car.isClosed() {
				t.Fatalf("%d: %x, before it was %x", i, answer, want)
			}
		}
		if es := told(); len(es) > 0 || w.attempts() != 2 || c.Err() != nil || !s.Attached() {
			t.Errorf("the session was disturbed: %+v", es)
		}
		transfer(t, c, s, 1<<20)
		w.end(c, s)
	})
}

func TestRecordedResumeIsOfNoUseOnAnotherCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		var recorded []byte
		w.tamper = func(client, _ *pipe) {
			client.filter = func(m []byte) []byte {
				if m[0] == msgResume {
					recorded = bytes.Clone(m)
				}
				return m
			}
		}
		c, s := w.connect(Config{})
		w.last().Close()
		time.Sleep(maxPause)
		synctest.Wait()
		if recorded == nil || !s.Attached() {
			t.Fatal("not resumed")
		}
		recorded = append([]byte(nil), recorded...)
		for _, later := range []bool{false, true} {
			answer, _ := w.ask("alice", func([]byte) []byte {
				m := bytes.Clone(recorded)
				if later {
					m[4+16+7]++ // the epoch
				}
				return m
			})
			if code := refusal(t, answer); code != RejectUnknown {
				t.Errorf("refused with %d", code)
			}
		}
		if w.last().isClosed() {
			t.Error("the session was disturbed")
		}
		transfer(t, s, c, 100_000)
		w.end(c, s)
	})
}

func TestImpossibleOffsetsAreCorruptAndEndTheSession(t *testing.T) {
	for _, rcv := range []uint64{1, 1 << 62, 1 << 63, 1<<64 - 1} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			c, s := w.connect(Config{})
			w.set(errModel)
			answer, _ := w.ask("alice", asking(c, 1, rcv))
			if code := refusal(t, answer); code != RejectCorrupt {
				t.Errorf("%d bytes: refused with %d", rcv, code)
			}
			if err := s.Err(); !errors.Is(err, ErrLost) {
				t.Errorf("the server's line: %v", err)
			}
			w.end(c, s)
		})
	}
}

// without has the server's frames of a type become an ACK.
func (w *world) without(typ byte) {
	w.tamper = func(_, server *pipe) {
		server.filter = func(m []byte) []byte {
			if m[0] == typ {
				m[0] = frameAck
			}
			return m
		}
	}
}

// closed is a session that the server has closed in order, of which the client
// does not know: the last CLOSE_ACK was lost.
func closed(w *world) (c *Conn) {
	w.without(frameCloseAck)
	c, s := w.connect(Config{})
	w.mu.Lock()
	w.tamper = nil
	w.mu.Unlock()
	c.Write([]byte("to the server"))
	s.Write([]byte("to the client"))
	c.CloseWrite()
	s.CloseWrite()
	if err := s.Drained(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.set(errModel)
	s.Close()
	s.Wait()
	synctest.Wait()
	if c.Err() != nil || c.Attached() {
		w.t.Fatal("the client has heard of the end")
	}
	return c
}

// Bug 6 of the first drafts: the client could not know that all was delivered.
func TestClientLearnsThatTheSessionEndedInOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		away time.Duration
		ok   bool
	}{{"at once", 0, true}, {"after ten minutes", 10 * time.Minute, true}, {"not after sixteen", 16 * time.Minute, false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c := closed(w)
				time.Sleep(tt.away)
				w.set(nil)
				err := c.Drained(t.Context())
				if (err == nil) != tt.ok {
					t.Errorf("drained: %v", err)
				}
				if got, _ := io.ReadAll(c); string(got) != "to the client" {
					t.Errorf("read %q", got)
				}
				c.Wait()
				if tt.ok && c.Err() != net.ErrClosed {
					t.Errorf("it ended with %v", c.Err())
				}
				if n, _ := w.server.Sessions(); n != 0 {
					t.Errorf("%d sessions", n)
				}
				w.conns.Wait()
			})
		})
	}
}

func TestWordThatTheSessionEndedNeedsAProof(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   int
	}{{"another mac", 20}, {"another offset", 13}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c := closed(w)
				w.mu.Lock()
				w.down = nil
				w.tamper = func(_, server *pipe) {
					server.filter = func(m []byte) []byte {
						if m[0] == msgReject {
							m[tt.at] ^= 1
						}
						return m
					}
				}
				w.mu.Unlock()
				time.Sleep(time.Minute)
				if c.Err() != nil {
					t.Errorf("the client believed it: %v", c.Err())
				}
				w.mu.Lock()
				w.tamper = nil
				w.mu.Unlock()
				if err := c.Drained(t.Context()); err != nil {
					t.Error(err)
				}
				c.Close()
				c.Wait()
				w.conns.Wait()
			})
		})
	}
}

// A session ends in order while a RESUME for it is being looked at: the client
// must not hear that there was none.
func TestSessionThatEndsWhileItIsResumedIsNotUnknown(t *testing.T) {
	for range 50 {
		w := newWorld(t, always, Config{})
		w.without(frameCloseAck)
		car, _ := w.dial(t.Context(), func() {})
		c, err := Dial(t.Context(), car, Hello{}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		w.conns.Wait()
		s := w.lines[0]
		c.CloseWrite()
		s.CloseWrite()
		if err := s.Drained(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b := carriers()
		w.conns.Go(func() { w.server.Accept(context.Background(), b, "alice") })
		chal, _ := receiveMessage(a)
		msg := asking(c, 50, 0)(chal)
		s.mu.Lock()
		a.WriteMessages(msg)
		for len(b.in) > 0 {
			runtime.Gosched()
		}
		for range 1000 { // the server has found the session by now, and waits for its lock
			runtime.Gosched()
		}
		s.end(net.ErrClosed)
		s.mu.Unlock()
		answer, err := receiveMessage(a)
		if err == nil && answer[0] == msgReject && refusal(t, answer) != RejectClosed {
			t.Fatalf("refused with %d", refusal(t, answer))
		}
		a.Close()
		w.end(c, s)
	}
}

// Bug 7 of the first drafts: WELCOME was lost, and the server had a session of
// which no client knew.
func TestSessionThatNoClientHasTakenUpIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		_, car := w.ask("alice", func([]byte) []byte {
			h := hello{wnd: minWindow, tlvs: tlvs{}}
			h.pub = [32]byte{9}
			return h.encode()
		})
		car.Close()
		synctest.Wait()
		if all, detached := w.server.Sessions(); all != 1 || detached != 1 {
			t.Fatalf("%d sessions, %d detached", all, detached)
		}
		time.Sleep(orphanWindow)
		synctest.Wait()
		if n, _ := w.server.Sessions(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
		w.conns.Wait()
	})
}

func TestSecondGapWithoutProgressEndsTheSession(t *testing.T) {
	for _, tt := range []struct {
		name     string
		progress bool
	}{{"without progress", false}, {"with progress", true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c, s := w.connect(Config{})
				told := watch(c)
				skip := func(n int) {
					c.mu.Lock()
					f := frame{typ: frameData, arg: c.in.rcv + uint64(n), body: []byte("behind a gap"), wnd: 1 << 20, ack: c.out.una}
					c.mu.Unlock()
					w.last().in <- f.append(nil)
					synctest.Wait()
				}
				skip(1)
				time.Sleep(maxPause)
				es := told()
				if len(es) != 2 || !errors.Is(es[0].Err, errGap) || es[1].Kind != Resumed {
					t.Fatalf("after a gap: %+v", es)
				}
				if tt.progress {
					s.Write([]byte("x"))
					synctest.Wait()
				}
				skip(5)
				time.Sleep(2 * abortTimeout) // the peer may still be reading why
				if err := c.Err(); tt.progress != (err == nil) || err != nil && !errors.Is(err, ErrProtocol) {
					t.Errorf("after the second: %v", err)
				}
				w.end(c, s)
			})
		})
	}
}

// Nothing of the line goes to somebody who has not shown that he has the key.
func TestClientSaysNothingToAServerWithoutTheKey(t *testing.T) {
	for _, at := range []int{4 + 7, 12 + 7, 20 + 3, 24, 24 + 31} { // epoch, rcv, wnd, mac
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			c, s := w.connect(Config{})
			told := watch(c)
			said := 0
			w.tamper = func(client, server *pipe) {
				server.filter = func(m []byte) []byte {
					if m[0] == msgResumed {
						m[at] ^= 1
					}
					return m
				}
				client.filter = func(m []byte) []byte {
					if m[0] >= frameData {
						said++
					}
					return m
				}
			}
			w.last().Close()
			synctest.Wait()
			c.Write([]byte("for the server alone"))
			time.Sleep(20 * time.Second)
			if said > 0 || c.Attached() || c.Err() != nil || w.attempts() < 5 {
				t.Errorf("byte %d changed: %d frames in %d attempts, %v", at, said, w.attempts(), c.Err())
			}
			w.mu.Lock()
			w.tamper = nil
			w.mu.Unlock()
			time.Sleep(maxPause)
			if es := told(); !c.Attached() || es[len(es)-1].Kind != Resumed {
				t.Errorf("%+v", es)
			}
			w.end(c, s)
		})
	}
}

// over returns a line that has sent want and heard nothing, and a second carrier
// for it, on which what the line writes does not get on its way.
func over(t *testing.T, want []byte) (c *Conn, s *script, second *wire) {
	c, s = scripted(t, Config{Window: 4 << 20}, 4<<20)
	c.window = time.Hour
	if _, err := c.Write(want); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	second = newWire(1)
	second.sure = true
	second.stall(time.Second)
	second.ways[0].room = 1
	return c, s, second
}

// Bug 4 of the first drafts: with make-before-break the peer acknowledges what
// the carrier before has brought, which this one has not yet.
func TestPeerMayAcknowledgeWhatTheOldCarrierBrought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := noise(1, 600_000)
		c, _, second := over(t, want)
		c.mu.Lock()
		c.attach(second.ends[0], nil, 1000, 4<<20)
		c.mu.Unlock()
		synctest.Wait() // what fits a batch is on its way, and no more
		second.ends[1].WriteMessages((&frame{typ: frameAck, ack: 600_000, wnd: 4 << 20}).append(nil))
		time.Sleep(2 * time.Second)
		c.mu.Lock()
		if c.err != nil || c.out.una != 600_000 || c.out.sent != 600_000 {
			t.Errorf("una %d, sent %d: %v", c.out.una, c.out.sent, c.err)
		}
		c.mu.Unlock()
		c.Abort(CodeAborted, nil)
		second.ends[1].Close()
		c.Wait()
	})
}

// Bug 5: what the peer had when it asked is less than it has acknowledged since.
func TestNewCarrierBeginsAtWhatIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := noise(1, 200_000)
		c, s, second := over(t, want)
		s.send(frame{typ: frameAck, ack: 150_000, wnd: 4 << 20})
		from := uint64(0)
		second.peek = func(way int, m []byte) {
			if at, to := extent(m); way == 0 && to > 0 && from == 0 {
				from = at
			}
		}
		c.mu.Lock()
		c.attach(second.ends[0], nil, 1000, 4<<20)
		if c.err != nil || c.out.una != 150_000 || c.out.sent != 150_000 {
			t.Errorf("una %d, sent %d: %v", c.out.una, c.out.sent, c.err)
		}
		c.mu.Unlock()
		for from == 0 {
			if _, err := second.ends[1].Next(); err != nil {
				t.Fatal(err)
			}
		}
		if from != 150_000 {
			t.Errorf("the first byte on the new carrier is number %d", from)
		}
		c.Abort(CodeAborted, nil)
		second.ends[1].Close()
		c.Wait()
	})
}

// Bug 2: pongs that wait behind a write that is held up are one.
func TestManyPingsWhileAWriteIsHeldUpAreOnePong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, second := over(t, noise(1, 200_000))
		c.mu.Lock()
		c.attach(second.ends[0], nil, 0, 4<<20)
		c.mu.Unlock()
		synctest.Wait()
		for i := range 1000 {
			second.ends[1].WriteMessages((&frame{typ: framePing, arg: uint64(i), wnd: 4 << 20}).append(nil))
		}
		time.Sleep(2 * time.Second) // they arrive, and nothing is on its way back
		var pongs []uint64
		for len(pongs) == 0 || c.sentSoFar() > 0 && pongs[len(pongs)-1] != 999 {
			m, err := receiveFrame(second.ends[1])
			if err != nil {
				t.Fatal(err)
			}
			if m.typ == framePong {
				pongs = append(pongs, m.arg)
			}
		}
		if len(pongs) > 3 {
			t.Errorf("%d pongs", len(pongs))
		}
		_ = s
		c.Abort(CodeAborted, nil)
		second.ends[1].Close()
		c.Wait()
	})
}

func receiveFrame(car Carrier) (frame, error) {
	r, err := car.Next()
	if err != nil {
		return frame{}, err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return frame{}, err
	}
	return parseFrame(b)
}
