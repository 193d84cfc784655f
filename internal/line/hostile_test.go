package line

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// A reader that comes late gets all that was acknowledged, and is told of an
// end only if that is all there ever was.
func TestEndedLineIsReadToItsEnd(t *testing.T) {
	const n = 100_000
	abort := errors.New("time is up")
	for _, tt := range []struct {
		name  string
		does  func(c, s *Conn, car *pipe)
		bytes int   // that can be read
		is    error // behind them
	}{
		{"both have ended, and the writer has closed", func(c, s *Conn, _ *pipe) {
			c.CloseWrite()
			s.CloseWrite()
			if err := c.Drained(context.Background()); err != nil {
				panic(err)
			}
			c.Close()
		}, n, io.EOF},
		{"the writer has closed", func(c, _ *Conn, _ *pipe) { c.Close() }, n, io.EOF},
		{"the carrier broke behind the end", func(c, _ *Conn, car *pipe) {
			c.CloseWrite()
			synctest.Wait()
			car.Close()
		}, n, io.EOF},
		{"the carrier broke before the end", func(_, _ *Conn, car *pipe) { car.Close() }, n, ErrLost},
		{"the writer has given up", func(c, _ *Conn, _ *pipe) { c.Abort(CodeRevoked, abort) }, n, &CloseError{}},
		{"the reader has closed", func(c, s *Conn, _ *pipe) { c.CloseWrite(); synctest.Wait(); s.Close() }, 0, nil},
		{"the reader has closed after the carrier broke", func(c, s *Conn, car *pipe) {
			c.CloseWrite()
			synctest.Wait()
			car.Close()
			synctest.Wait()
			s.Close()
		}, 0, nil},
		{"the reader has given up", func(c, s *Conn, _ *pipe) { c.CloseWrite(); synctest.Wait(); s.Abort(CodeAborted, abort) }, 0, abort},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := carriers()
				c, s := lines(t, a, b, Config{})
				want := make([]byte, n)
				rand.Read(want)
				c.Write(want)
				synctest.Wait()
				tt.does(c, s, a)
				time.Sleep(8 * time.Second) // longer than a closed line goes on
				var got []byte
				var err error
				buf := make([]byte, 30_000)
				for err == nil {
					var k int
					k, err = s.Read(buf)
					got = append(got, buf[:k]...)
				}
				if !bytes.Equal(got, want[:tt.bytes]) {
					t.Errorf("%d bytes of %d", len(got), tt.bytes)
				}
				ce, byPeer := tt.is.(*CloseError)
				switch {
				case byPeer && !errors.As(err, &ce), !byPeer && tt.is != nil && !errors.Is(err, tt.is), tt.is != io.EOF && err == io.EOF:
					t.Errorf("behind %d bytes: %v", len(got), err)
				}
				closeBoth(c, s)
			})
		})
	}
}

func TestClosedAndDrainedLineEndsWhateverThePeerSends(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    frame
	}{
		{"pings", frame{typ: framePing, arg: 1}},
		{"pongs", frame{typ: framePong, arg: 1}},
		{"acknowledgements, and wants some", frame{typ: frameAck, ackNow: true}},
		{"its end, again and again", frame{typ: frameClose}},
		{"its CLOSE_ACK, again and again", frame{typ: frameCloseAck}},
		{"GOAWAY", frame{typ: frameGoAway}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := scripted(t, Config{}, 1<<20)
				send := func(f frame) {
					f.wnd = 1 << 20
					s.send(f)
				}
				c.Close()
				synctest.Wait()
				send(frame{typ: frameCloseAck})
				send(frame{typ: frameClose}) // and it does not end the carrier
				start := time.Now()
				for range 4 * 60 {
					time.Sleep(250 * time.Millisecond)
					select {
					case <-c.Done():
						if took := time.Since(start); took > lingerTimeout+500*time.Millisecond {
							t.Errorf("it ends after %v", took)
						}
						end(c, s)
						return
					default:
					}
					send(tt.f)
				}
				t.Errorf("it still runs after %v", time.Since(start))
				end(c, s)
			})
		})
	}
}

// Each frame repeats all but one byte of what came before, and leaves as much
// room behind that byte as the next one fills.
func TestRepeatedBytesPinNoBlocks(t *testing.T) {
	var r receiver
	r.init(4<<20, nil)
	const fill = receiveBlock - dataHeaderLen - MaxPayload
	var want []byte
	keep := func(start, n int) {
		q := chunk{new([receiveBlock]byte), start, start + n}
		rand.Read(q.b[start : start+n])
		want = append(want, q.b[start:start+n]...)
		r.keep(q)
	}
	keep(dataHeaderLen, MaxPayload)
	keep(dataHeaderLen, fill)
	for range 400 {
		keep(dataHeaderLen+MaxPayload-1, 1)
		keep(dataHeaderLen, fill)
	}
	if pinned := len(r.queue) * receiveBlock; pinned > 3*r.held || r.held != len(want) {
		t.Errorf("%d bytes are held in blocks of %d", r.held, pinned)
	}
	var got []byte
	for _, q := range r.queue {
		got = append(got, q.b[q.start:q.end]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the bytes are others")
	}
}

// With less than a frame's worth of window nothing would ever be sent.
func TestHandshakeRefusesAWindowThatNoFrameFits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		window int
		works  bool
	}{
		{"a byte", 1, false},
		{"half", minWindow / 2, false},
		{"a byte too little", minWindow - 1, false},
		{"the least", minWindow, true},
	} {
		for _, who := range []string{"HELLO", "WELCOME"} {
			t.Run(tt.name+", in the "+who, func(t *testing.T) {
				a, b := carriers()
				srv := NewServer("", Limits{}, Config{})
				ccfg := Config{Window: 1 << 20}.withDefaults()
				if who == "HELLO" {
					ccfg.Window = tt.window
				} else {
					srv.Config.Window = tt.window
				}
				served := make(chan error, 1)
				go func() {
					c, _, err := srv.Accept(context.Background(), b, "alice")
					if c != nil {
						c.Abort(CodeAborted, nil)
						c.Wait()
					}
					served <- err
				}()
				c, err := dial(a, Hello{}, ccfg)
				if c != nil {
					c.Abort(CodeAborted, nil)
					c.Wait()
				}
				a.Close()
				serr := <-served
				if tt.works {
					if err != nil || serr != nil {
						t.Errorf("client %v, server %v", err, serr)
					}
					return
				}
				var reject *RejectError
				if who == "HELLO" && (!errors.As(err, &reject) || reject.Code != RejectPolicy || serr == nil) {
					t.Errorf("client %v, server %v", err, serr)
				}
				if who == "WELCOME" && !errors.Is(err, ErrProtocol) {
					t.Errorf("client %v", err)
				}
			})
		}
	}
}
