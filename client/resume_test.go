package client

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"wstun/internal/line"
	"wstun/mux"
)

// talk sends text from a to b and checks that it comes.
func talk(t testing.TB, a io.Writer, b io.Reader, text string) {
	t.Helper()
	buf := make([]byte, len(text))
	if _, err := io.WriteString(a, text); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, buf); err != nil || string(buf) != text {
		t.Fatalf("got %q, %v, want %q", buf, err, text)
	}
}

func TestLocalConnectionOutlivesItsWebSocketAndTheUserIsToldOnce(t *testing.T) {
	f := newFarThatKeeps(t, time.Minute)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	io.WriteString(c, "early")
	st := (<-f.sessions).grant(t)
	talk(t, st, c, "before")
	f.say(503, "a moment")
	f.cut()
	r.log.Await(t, "cannot resume yet")
	if _, err := io.WriteString(c, " meanwhile"); err != nil {
		t.Fatal(err)
	}
	f.say(0, "")
	r.log.Await(t, "nothing lost")
	got := make([]byte, len("early meanwhile"))
	if _, err := io.ReadFull(st, got); err != nil || string(got) != "early meanwhile" {
		t.Errorf("%q, %v", got, err)
	}
	talk(t, st, c, "after")
	for _, once := range []string{"connection lost, resuming", "cannot resume yet", "resumed after"} {
		if n := strings.Count(r.log.String(), once); n != 1 {
			t.Errorf("%q is said %d times", once, n)
		}
	}
}

func TestConnectionThatComesWhileDetachedWaits(t *testing.T) {
	f := newFarThatKeeps(t, time.Minute)
	r := newClient(t, f.url, nil).start(t)
	r.log.Await(t, "connected")
	s := <-f.sessions
	f.say(503, "a moment")
	f.cut()
	r.log.Await(t, "cannot resume yet")
	c := r.dial(t)
	io.WriteString(c, "hello")
	f.say(0, "")
	if _, err := io.ReadFull(s.grant(t), make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestRestartOfTheServerResetsConnectionsAndANewSessionIsMade(t *testing.T) {
	f := newFarThatKeeps(t, time.Minute)
	r := newClient(t, f.url, nil).start(t)
	c := r.dial(t)
	talk(t, c, (<-f.sessions).grant(t), "half")
	f.restart()
	isReset(t, c, "the local connection")
	r.log.Await(t, "the server has restarted")
	c = r.dial(t)
	talk(t, c, (<-f.sessions).grant(t), "again")
}

func TestEachConnectionHasAWebSocketOfItsOwnWithoutMux(t *testing.T) {
	f := newFarThatKeeps(t, time.Minute)
	r := newClient(t, f.url, func(c *Config) { c.Single = true }).start(t)
	type pair struct {
		local net.Conn
		far   io.ReadWriteCloser
	}
	// A session may be the one that waits for the next connection: each is asked.
	var sessions atomic.Int32
	streams := make(chan *mux.Stream)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for {
			select {
			case s := <-f.sessions:
				sessions.Add(1)
				go func() {
					if r, err := s.Accept(ctx); err == nil {
						if st, err := r.Grant(""); err == nil {
							streams <- st
						}
					}
				}()
			case <-ctx.Done():
				return
			}
		}
	}()
	var pairs []pair
	for range 3 {
		c := r.dial(t)
		io.WriteString(c, "first")
		st := <-streams
		if _, err := io.ReadFull(st, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, pair{c, st})
	}
	if n := sessions.Load(); n < 3 {
		t.Errorf("%d sessions for 3 connections", n)
	}
	f.cut()
	for _, p := range pairs {
		talk(t, p.local, p.far, "there")
		talk(t, p.far, p.local, "and back")
	}
	pairs[0].local.Close()
	if _, err := pairs[0].far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the end of a connection: %v", err)
	}
	pairs[0].far.Close()
	pairs[1].local.(interface{ Abort(error) error }).Abort(nil)
	if _, err := pairs[1].far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset of a connection: %v", err)
	}
	talk(t, pairs[2].local, pairs[2].far, "and the third goes on")
}

func TestConnectionIsReplacedWhileItWorks(t *testing.T) {
	f := newFarThatKeeps(t, time.Minute)
	r := newClient(t, f.url, func(c *Config) { c.MaxAge = time.Second }).start(t)
	c := r.dial(t)
	io.WriteString(c, "x")
	st := (<-f.sessions).grant(t)
	if _, err := io.ReadFull(st, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.log.Await(t, "moved to a new connection")
	talk(t, c, st, "there")
	talk(t, st, c, "and back")
	if strings.Contains(r.log.String(), "connection lost") {
		t.Error("the old one was lost first")
	}
}

func TestConnectionIsLookedAfterWhenTheNetworkChanges(t *testing.T) {
	f := newFarThatKeeps(t, time.Minute)
	change := make(chan string)
	r := newClient(t, f.url, func(c *Config) {
		c.Watch = func(ctx context.Context, changed func(string)) {
			for {
				select {
				case why := <-change:
					changed(why)
				case <-ctx.Done():
					return
				}
			}
		}
	}).start(t)
	c := r.dial(t)
	st := (<-f.sessions).grant(t)
	talk(t, c, st, "before")
	change <- "another network"
	r.log.Await(t, "another network")
	talk(t, st, c, "and nothing is lost by it")
	// While it has no connection, a change ends the pause between attempts.
	f.say(503, "Retry-After is a second")
	f.cut()
	r.log.Await(t, "cannot resume yet")
	f.say(0, "")
	change <- "and another"
	r.log.Await(t, "nothing lost")
	talk(t, c, st, "after")
}

// Where a name has two addresses, or a proxy two moods, the log had a line for
// each attempt.
func TestCausesThatTakeTurnsAreSaidOnceEachInEveryOutage(t *testing.T) {
	f := newFarThatKeeps(t, time.Minute)
	var mu sync.Mutex
	away, n, tries := false, 0, make(chan struct{}, 1000)
	causes := []string{"the first address does not answer", "the second has no route"}
	r := newClient(t, f.url, func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if !away {
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			}
			n++
			tries <- struct{}{}
			return nil, errors.New(causes[n%2])
		}
	}).start(t)
	c := r.dial(t)
	st := (<-f.sessions).grant(t)
	talk(t, c, st, "before")
	set := func(now bool) {
		mu.Lock()
		defer mu.Unlock()
		away = now
	}
	for outage := 1; outage <= 2; outage++ {
		set(true)
		f.cut()
		for range 3 {
			select {
			case <-tries:
			case <-time.After(20 * time.Second):
				t.Fatal("no attempt")
			}
		}
		set(false)
		talk(t, st, c, "after")
		for len(tries) > 0 {
			<-tries
		}
		said := ""
		for deadline := time.After(20 * time.Second); strings.Count(said, "nothing lost") < outage; said = r.log.String() {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-deadline:
				t.Fatal("not resumed")
			}
		}
		for _, cause := range causes {
			if n := strings.Count(said, cause); n != outage {
				t.Errorf("after outage %d %q is said %d times", outage, cause, n)
			}
		}
	}
}

// A server that is busy may say for how long. Somebody who only claims to be it
// must not keep a client away.
func TestBusyServerIsAskedAgainAfterAMinuteAtMost(t *testing.T) {
	c := New(Config{URL: newFar(t).url})
	for _, tt := range []struct{ says, after time.Duration }{{0, 0}, {5 * time.Second, 5 * time.Second}, {49 * 24 * time.Hour, time.Minute}} {
		err := c.explain(&line.RejectError{Code: line.RejectBusy, After: tt.says})
		if got := retryAfter(err); got != tt.after {
			t.Errorf("it says %v, and is asked after %v", tt.says, got)
		}
	}
}
