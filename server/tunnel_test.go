package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"wstun/internal/access"
	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
	"wstun/mux"
)

func TestStreamReachesItsTargetAndBothEndsAreCarried(t *testing.T) {
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
	want := make([]byte, 3<<20)
	rand.Read(want)
	go func() { st.Write(want); netx.CloseWrite(st) }()
	c := <-conns
	if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	go func() { c.Write(want); c.Close() }()
	if got, err := io.ReadAll(st); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
}

func TestResetsAreCarriedThroughATunnel(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	conns := s.listen(t, target)
	tun, err := s.tunnel(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"the target", "the client", "the session"} {
		st, err := tun.Dial(t.Context(), "tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		c := <-conns
		io.WriteString(st, "half")
		io.ReadFull(c, make([]byte, 4))
		var end net.Conn = c
		switch who {
		case "the target":
			c.Abort(nil)
			end = st
		case "the client":
			netx.Abort(st, nil)
		case "the session":
			tun.ws.Abort(nil)
		}
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset by %s: the other end sees %v", who, err)
		}
		st.Close()
	}
}

func TestWhatAClientMayNotHave(t *testing.T) {
	s := serve(t, Config{}, access.Front{})
	s.listen(t, "127.0.0.1:22")
	tun, err := s.tunnel(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		network, address string
		status           mux.Status
	}{
		{"tcp", "127.0.0.1:22", mux.Denied},
		{"tcp", "[::ffff:127.0.0.1]:22", mux.Denied},
		{"tcp", "169.254.169.254:80", mux.Denied},
		{"unix", "/etc/passwd", mux.Denied},
		{"tcp", target, mux.Refused}, // allowed, and nobody listens
		{"udp", target, mux.Bad},
		{"service", "lab7", mux.Bad},
	} {
		_, err := tun.Dial(t.Context(), tt.network, tt.address)
		var refusal *mux.RefusedError
		if !errors.As(err, &refusal) || refusal.Status != tt.status || strings.Contains(refusal.Text, "127") {
			t.Errorf("%s %s: %v", tt.network, tt.address, err)
		}
	}
}

// A slowNetwork never answers a dial, and counts them.
type slowNetwork struct {
	netxtest.Network
	dials, ended chan struct{}
}

func (n *slowNetwork) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.dials <- struct{}{}
	<-ctx.Done()
	n.ended <- struct{}{}
	return nil, ctx.Err()
}

func TestSessionHasOnlySoManyDialsInFlight(t *testing.T) {
	n := &slowNetwork{dials: make(chan struct{}, 100), ended: make(chan struct{}, 100)}
	s := serve(t, Config{Network: n}, access.Front{})
	tun, err := s.tunnel(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range maxDials + 8 {
		if _, err := tun.DialEarly(t.Context(), "tcp", target); err != nil {
			t.Fatal(err)
		}
	}
	for range maxDials {
		<-n.dials
	}
	select {
	case <-n.dials:
		t.Error("one more")
	case <-time.After(50 * time.Millisecond):
	}
	tun.ws.Abort(nil) // nobody waits for them any more
	for range maxDials {
		<-n.ended
	}
}
