package impair_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"wstun/internal/impair"
	"wstun/internal/netx"
)

func TestHoleLosesNothing(t *testing.T) {
	swap(t, func(t *testing.T, dir, back impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		from, to := pick(connect(t, r, ln))
		send(t, from, "before ")
		expect(t, to, "before ")
		r.Hole(dir, true)
		send(t, from, "meanwhile ")
		expectNothing(t, to)
		send(t, to, "the other way")
		expect(t, from, "the other way")
		r.Hole(back, true)
		send(t, to, "both ways")
		expectNothing(t, from)
		r.Hole(impair.Both, false)
		expect(t, from, "both ways")
		send(t, from, "after")
		expect(t, to, "meanwhile after")
	})
}

func TestHoleKeepsEndsAndResets(t *testing.T) {
	for name, test := range map[string]struct {
		end    func(net.Conn)
		answer bool // the other side sends, which meets a reset: that must not tell it either
		want   error
	}{
		"half-close":      {func(c net.Conn) { netx.CloseWrite(c) }, true, nil},
		"close":           {func(c net.Conn) { c.Close() }, false, nil},
		"close, answered": {func(c net.Conn) { c.Close() }, true, syscall.ECONNRESET},
		"reset":           {func(c net.Conn) { netx.Abort(c, nil) }, false, syscall.ECONNRESET},
		"reset, answered": {func(c net.Conn) { netx.Abort(c, nil) }, true, syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			swap(t, func(t *testing.T, dir, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
				r, ln := start(t)
				from, to := pick(connect(t, r, ln))
				r.Hole(dir, true)
				send(t, from, "last words")
				test.end(from)
				expectNothing(t, to)
				for range 2 {
					if test.answer {
						send(t, to, "and you?")
						expectNothing(t, to)
					}
				}
				if r.Open() != 1 {
					t.Error("the relay has let go of the connection")
				}
				r.Hole(dir, false)
				if test.want == nil {
					expectEnd(t, to, "last words", nil)
				} else if got, err := io.ReadAll(to); len(got) > 0 && string(got) != "last words" || err != nil && !errors.Is(err, test.want) {
					t.Errorf("received %q, %v", got, err)
				}
				to.Close()
				over(r)
			})
		})
	}
}

func TestHoleLetsTheSendersBuffersFill(t *testing.T) {
	swap(t, func(t *testing.T, dir, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		from, to := pick(connect(t, r, ln))
		r.Hole(dir, true)
		fill(t, from)
		expectNothing(t, to)
	})
}

// A write that waits for the reader is no way through.
func TestHoleStopsAWriteThatIsUnderWay(t *testing.T) {
	r, ln := start(t)
	client, server := connect(t, r, ln)
	want := random(32 << 20)
	go func() { client.Write(want); client.Close() }()
	r.Await("some has come", func() bool { return r.Bytes(impair.ToServer) > 1<<18 })
	r.Hole(impair.ToServer, true)
	before := r.Bytes(impair.ToServer)
	got := make([]byte, before)
	if _, err := io.ReadFull(server, got); err != nil {
		t.Fatal(err)
	}
	expectNothing(t, server)
	if n := r.Bytes(impair.ToServer) - before; n > 0 {
		t.Errorf("%d bytes came through the hole", n)
	}
	r.Hole(impair.ToServer, false)
	rest, err := io.ReadAll(server)
	if !bytes.Equal(append(got, rest...), want) || err != nil {
		t.Errorf("%d and %d bytes of %d, %v", len(got), len(rest), len(want), err)
	}
}

func TestConnectionMadeDuringAHole(t *testing.T) {
	for _, dir := range []impair.Direction{impair.ToServer, impair.ToClient, impair.Both} {
		t.Run(fmt.Sprint(dir), func(t *testing.T) {
			r, ln := start(t)
			r.Hole(dir, true)
			client := dial(t, r)
			send(t, client, "hello")
			r.Await("it is accepted", func() bool { return r.Conns() == 1 })
			gone := dial(t, r)
			r.Await("the other is accepted", func() bool { return r.Conns() == 2 })
			send(t, gone, "ghost")
			gone.Close()
			ln.(*net.TCPListener).SetDeadline(time.Now().Add(moment))
			if _, err := ln.Accept(); err == nil {
				t.Error("the server was reached through the hole")
			}
			r.Hole(dir, false)
			server := accept(t, ln)
			expect(t, server, "hello")
			send(t, server, "hello")
			expect(t, client, "hello")
			r.Await("the other is over", func() bool { return r.Open() == 1 })
		})
	}
}

// Each ending, as both sides see it.
func TestCut(t *testing.T) {
	const silent = syscall.EAGAIN // stands for nothing at all
	for _, test := range []struct {
		name           string
		how            impair.Ending
		client, server error
	}{
		{"reset", impair.Reset, syscall.ECONNRESET, syscall.ECONNRESET},
		{"reset client", impair.ResetClient, syscall.ECONNRESET, silent},
		{"reset server", impair.ResetServer, silent, syscall.ECONNRESET},
		{"FIN", impair.FIN, nil, nil},
		{"FIN client", impair.FINClient, nil, silent},
		{"FIN server", impair.FINServer, silent, nil},
		{"silence", impair.Silence, silent, silent},
	} {
		check := func(t *testing.T, c net.Conn, text string, want error) {
			t.Helper()
			if want != silent {
				expectEnd(t, c, text, want)
				return
			}
			expect(t, c, text)
			send(t, c, "anybody there?")
			expectNothing(t, c)
		}
		for _, hole := range []impair.Direction{0, impair.Both} {
			t.Run(fmt.Sprint(test.name, hole), func(t *testing.T) {
				r, ln := start(t)
				client, server := connect(t, r, ln)
				r.Hole(hole, true)
				r.Cut(test.how)
				check(t, client, "", test.client)
				check(t, server, "", test.server)
				if r.Cuts() != 1 || r.Open() != 0 {
					t.Errorf("%d cuts, %d open", r.Cuts(), r.Open())
				}
				// Who did not know gets to know; who was told is told once.
				r.Cut(impair.Reset)
				if _, err := io.ReadAll(client); test.client == silent && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client gets %v", err)
				}
				if _, err := io.ReadAll(server); test.server == silent && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the server gets %v", err)
				}
				if r.Cuts() != 1 {
					t.Errorf("%d cuts", r.Cuts())
				}
			})
		}
		t.Run("at an offset "+test.name, func(t *testing.T) {
			swap(t, func(t *testing.T, dir, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
				r, ln := start(t)
				r.CutAt(dir, 4, test.how)
				client, server := connect(t, r, ln)
				from, _ := pick(client, server)
				send(t, from, "01234567")
				texts := [2]string{"", "0123"}
				if dir == impair.ToClient {
					texts = [2]string{"0123", ""}
				}
				check(t, client, texts[0], test.client)
				check(t, server, texts[1], test.server)
				if r.Cuts() != 1 || r.Open() != 0 || r.Bytes(impair.Both) != 4 {
					t.Errorf("%d cuts, %d open, %d bytes", r.Cuts(), r.Open(), r.Bytes(impair.Both))
				}
			})
		})
	}
}

func TestFINCutTakesWhatIsStillSent(t *testing.T) {
	r, ln := start(t)
	client, server := connect(t, r, ln)
	r.Cut(impair.FIN)
	for _, c := range []net.Conn{client, server} {
		expectEnd(t, c, "", nil)
		if n, err := c.Write(make([]byte, 16<<20)); err != nil {
			t.Errorf("wrote %d bytes, %v", n, err)
		}
		c.Close()
	}
}

// talk is an exchange of five messages, as the client sees it and as the server
// does. It returns the bytes that each received.
var messages = []string{"GET", "101 Switching", "hello, server", "hi", "bye"}

func talk(c net.Conn, first int) (received string, err error) {
	for i, m := range messages {
		if i%2 == first {
			_, err = io.WriteString(c, m)
		} else {
			b := make([]byte, len(m))
			var n int
			n, err = io.ReadFull(c, b)
			received += string(b[:n])
		}
		if err != nil {
			break
		}
	}
	rest, end := io.ReadAll(c)
	return received + string(rest), errors.Join(err, end)
}

func TestCutAtEveryOffset(t *testing.T) {
	var sent [2]string // to the server, to the client
	for i, m := range messages {
		sent[i%2] += m
	}
	all := map[impair.Direction]int{
		impair.ToServer: len(sent[0]), impair.ToClient: len(sent[1]), impair.Both: len(sent[0]) + len(sent[1]),
	}
	for dir, total := range all {
		for n := range total + 1 {
			r, ln := start(t)
			r.CutAt(dir, int64(n), impair.Reset)
			if n == 0 {
				expectReset(t, r)
				expectEnd(t, accept(t, ln), "", syscall.ECONNRESET)
				continue
			}
			client, server := connect(t, r, ln)
			type result struct {
				got string
				err error
			}
			served := make(chan result)
			go func() {
				got, err := talk(server, 1)
				served <- result{got, err}
			}()
			toClient, cerr := talk(client, 0)
			s := <-served
			got := map[impair.Direction]int{
				impair.ToServer: len(s.got), impair.ToClient: len(toClient), impair.Both: len(s.got) + len(toClient),
			}
			if got[dir] != n || s.got != sent[0][:len(s.got)] || toClient != sent[1][:len(toClient)] {
				t.Errorf("direction %d cut at %d: the server got %q, the client %q", dir, n, s.got, toClient)
			}
			if cerr == nil || s.err == nil || r.Cuts() != 1 || r.Bytes(dir) != int64(n) {
				t.Errorf("direction %d cut at %d: the client ended with %v, the server with %v; %d cuts, %d bytes",
					dir, n, cerr, s.err, r.Cuts(), r.Bytes(dir))
			}
		}
	}
}

func TestCutAtIsExactForASlowReader(t *testing.T) {
	const n = 3<<20 + 1
	swap(t, func(t *testing.T, dir, _ impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		r, ln := start(t)
		r.CutAt(dir, n, impair.Reset)
		from, to := pick(connect(t, r, ln))
		go from.Write(make([]byte, 2*n))
		for total := 0; ; {
			got, err := to.Read(make([]byte, 64<<10))
			total += got
			if err != nil {
				if total != n || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("received %d bytes, %v, want %d", total, err, n)
				}
				break
			}
			<-time.After(time.Millisecond)
		}
	})
}

// An answer to the last byte before a cut comes too late.
func TestCutAtLetsNoAnswerPass(t *testing.T) {
	swap(t, func(t *testing.T, dir, back impair.Direction, pick func(c, s net.Conn) (net.Conn, net.Conn)) {
		for range 50 {
			r, ln := start(t)
			r.CutAt(dir, 4, impair.Reset)
			from, to := pick(connect(t, r, ln))
			answered := make(chan bool)
			go func() {
				expect(t, to, "ping")
				to.Write([]byte("pong"))
				close(answered)
			}()
			send(t, from, "ping")
			expectEnd(t, from, "", syscall.ECONNRESET)
			<-answered
			over(r)
			if n := r.Bytes(back); n > 0 {
				t.Errorf("%d bytes passed", n)
			}
		}
	})
}

func TestCutAtIsForOneConnectionEach(t *testing.T) {
	r, ln := start(t)
	r.CutAt(impair.ToServer, 1, impair.Reset)
	r.CutAt(impair.ToServer, 2, impair.Reset)
	for _, want := range []string{"0", "01"} {
		client, server := connect(t, r, ln)
		send(t, client, "012")
		expectEnd(t, server, want, syscall.ECONNRESET)
	}
	client, server := connect(t, r, ln)
	send(t, client, "012")
	client.Close()
	expectEnd(t, server, "012", nil)
}

// expectReset connects and gets a reset; if that is quick, connecting meets it.
func expectReset(t *testing.T, r *impair.Relay) {
	t.Helper()
	client, err := net.Dial("tcp", r.Addr())
	if err == nil {
		expectEnd(t, live(t, client), "", syscall.ECONNRESET)
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestCutEvery(t *testing.T) {
	r, ln := start(t)
	before, _ := connect(t, r, ln)
	r.CutEvery(time.Millisecond, 20*time.Millisecond, impair.Reset)
	expectEnd(t, before, "", syscall.ECONNRESET)
	for range 10 {
		begun := time.Now()
		expectReset(t, r)
		if age := time.Since(begun); age < time.Millisecond {
			t.Errorf("cut at the age of %v", age)
		}
	}
	if r.Cuts() != 11 {
		t.Errorf("%d cuts", r.Cuts())
	}
	ln = listen(t) // those that were cut wait with the other
	r.Retarget(ln.Addr().String())
	r.CutEvery(time.Hour, time.Hour, impair.Reset)
	client, server := connect(t, r, ln)
	r.CutEvery(0, 0, impair.Reset)
	send(t, client, "still here")
	expect(t, server, "still here")
	if r.Cuts() != 11 {
		t.Errorf("%d cuts", r.Cuts())
	}
}

func TestRefuse(t *testing.T) {
	r, ln := start(t)
	addr := r.Addr()
	for range 20 {
		client, server := connect(t, r, ln)
		r.Refuse(true)
		r.Refuse(true)
		if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("got %v, want refused", err)
		}
		send(t, client, "still here")
		expect(t, server, "still here")
		r.Refuse(false)
		r.Refuse(false)
	}
	connect(t, r, ln)
	if r.Conns() != 21 || r.Open() != 21 || r.Addr() != addr {
		t.Errorf("%d connections, %d open, at %s", r.Conns(), r.Open(), r.Addr())
	}
}

func TestRetarget(t *testing.T) {
	r, first := start(t)
	old, oldServer := connect(t, r, first)
	first.Close()
	expectReset(t, r) // nobody is there
	second := listen(t)
	r.Retarget(second.Addr().String())
	client, server := connect(t, r, second)
	send(t, client, "new")
	expect(t, server, "new")
	send(t, old, "old")
	expect(t, oldServer, "old")
	if r.Cuts() != 0 {
		t.Errorf("%d cuts, though none was asked for", r.Cuts())
	}
}

// The relay ends with its test in whatever state it is.
func TestEndOfTheTest(t *testing.T) {
	for name, fault := range map[string]func(*impair.Relay){
		"no fault":     func(*impair.Relay) {},
		"hole":         func(r *impair.Relay) { r.Hole(impair.Both, true) },
		"one-way hole": func(r *impair.Relay) { r.Hole(impair.ToClient, true) },
		"delay":        func(r *impair.Relay) { r.Delay(impair.Both, time.Hour) },
		"rate":         func(r *impair.Relay) { r.Rate(impair.Both, 1) },
		"silent cut":   func(r *impair.Relay) { r.Cut(impair.Silence) },
		"half a cut":   func(r *impair.Relay) { r.Cut(impair.ResetClient) },
		"FIN":          func(r *impair.Relay) { r.Cut(impair.FIN) },
		"refused":      func(r *impair.Relay) { r.Refuse(true) },
		"old age":      func(r *impair.Relay) { r.CutEvery(time.Hour, time.Hour, impair.Reset) },
	} {
		t.Run(name, func(t *testing.T) {
			var client, server, ended net.Conn
			t.Run("the test", func(t *testing.T) {
				ln := listen(t)
				r := impair.Listen(t, ln.Addr().String())
				connected := func() (client, server net.Conn) {
					client = dial(t, r)
					return client, accept(t, ln)
				}
				client, server = connected()
				ended, _ = connected()
				netx.CloseWrite(ended)
				go client.Write(make([]byte, 64<<20))
				go server.Write(make([]byte, 64<<20))
				r.Await("bytes come both ways", func() bool { return r.Bytes(impair.ToServer) > 0 && r.Bytes(impair.ToClient) > 0 })
				fault(r)
				if name != "refused" {
					dial(t, r)
				}
			})
		})
	}
}
