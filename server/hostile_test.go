package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/access"
	"wstun/internal/netx/netxtest"
)

// Whoever vanished has not ended: the target must not take half a request for
// a whole one.
func TestBrowserThatDoesNotAnswerPingsResetsTheTarget(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	w := s.browser(t, "/", nil)
	w.send(fin|opBinary, "half a requ")
	c := <-conns
	if _, err := io.ReadFull(c, make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	for b, p := range s.browsers {
		p.rx, p.tx = b.Traffic()
		for range 1000 {
			p.beat(b, 5*time.Second, 25*time.Second)
		}
	}
	s.mu.Unlock()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target sees %d bytes, %v", n, err)
	}
}

// beats has p beat until giving up or the end of steps, between each of which a
// moment passes for the kernel to move bytes.
func beats(b *browser, p *pulse, steps int, gone <-chan struct{}, before func()) (ended bool) {
	for range steps {
		before()
		p.beat(b, 5*time.Second, 25*time.Second)
		select {
		case <-gone:
			return true
		case <-time.After(time.Millisecond):
		}
	}
	return false
}

// write has b written to until that fails.
func write(b *browser) (gone chan struct{}) {
	gone = make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if _, err := b.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	return gone
}

func TestBrowserThatTakesNothingAnyMoreIsGivenUpThoughAWriteIsBlocked(t *testing.T) {
	b, _ := pulsing(t)
	gone := write(b)
	var p pulse
	if !beats(b, &p, 1000, gone, func() {}) {
		t.Errorf("still there: %+v", p)
		b.Drop()
		<-gone
	}
}

func TestBrowserThatWasStuckAndReadsOnIsKept(t *testing.T) {
	b, w := pulsing(t)
	gone := write(b)
	var p pulse
	for deadline := time.After(20 * time.Second); !p.pinged; {
		p.beat(b, 5*time.Second, 25*time.Second)
		select {
		case <-deadline:
			t.Fatal("never asked")
		case <-time.After(time.Millisecond):
		}
	}
	// From now on it reads, and says nothing: it was sent no ping.
	if beats(b, &p, 200, gone, func() { io.CopyN(io.Discard, w.br, 1<<20) }) {
		t.Error("given up although it reads")
	}
	b.Drop()
	<-gone
}

func TestCloseOfTheBrowserWhileTheTargetTalksIsAnEndToTheTarget(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	want := bytes.Repeat([]byte("all of it "), 2000)
	for range 60 {
		w := s.browser(t, "/", nil)
		go io.Copy(io.Discard, w.br)
		c := <-conns
		talked := make(chan struct{})
		go func() {
			defer close(talked)
			for {
				if _, err := c.Write(make([]byte, 64)); err != nil {
					return
				}
			}
		}()
		w.send(fin|opBinary, string(want))
		w.sendClose(1000, "")
		if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
			t.Fatalf("%d bytes of %d, %v", len(got), len(want), err)
		}
		c.Close()
		<-talked
	}
}

// Through a session: the target answers, closes, and is sent more.
func TestCompleteAnswerIsWholeThoughTheClientGoesOnSending(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	tun, err := s.tunnel(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := tun.Dial(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	want := bytes.Repeat([]byte("413 "), 50_000)
	c := <-conns
	if _, err := c.Write(want); err != nil { // more than fits: the session takes it
		t.Fatal(err)
	}
	c.Close()
	st.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for err == nil {
		_, err = st.Write(make([]byte, 1000))
	}
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the client is told %v", err)
	}
	if got, err := io.ReadAll(st); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestDownloadThatIsNotReadIsEndedAndASlowOneIsNot(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big.js"), make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, tt := range []struct {
		name  string
		pause time.Duration // before each 32 KiB
		whole bool
	}{
		{"slow", answerQuiet - 5*time.Second, true},
		{"not read", 10 * answerQuiet, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network netxtest.Network
				ln, err := network.Listen(t.Context(), "tcp", "127.0.0.1:80")
				if err != nil {
					t.Fatal(err)
				}
				s := New(Config{Policy: &access.Policy{}, Log: slog.New(slog.DiscardHandler), Web: root})
				served := make(chan error, 1)
				go func() { served <- s.Serve(Listener{Listener: ln, Front: access.Front{Loopback: true, Public: true}}) }()
				c, err := network.Dial(t.Context(), "tcp", "127.0.0.1:80")
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(c, "GET /big.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
				br := bufio.NewReader(c)
				resp, err := http.ReadResponse(br, nil)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("%v, %v", resp, err)
				}
				var n int64
				for err == nil && n < size {
					time.Sleep(tt.pause)
					var k int64
					k, err = io.CopyN(io.Discard, resp.Body, 32<<10)
					n += k
				}
				if (n == size) != tt.whole {
					t.Errorf("%d bytes of %d, %v", n, size, err)
				}
				c.Close()
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				s.Shutdown(ctx)
				<-served
			})
		})
	}
}
