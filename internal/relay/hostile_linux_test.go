package relay

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"wstun/internal/netx"
)

// gone waits until the peer of c has reset it, and takes nothing of c's error.
func gone(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(20 * time.Second); ; {
		raw.Control(func(fd uintptr) { _, err = syscall.Getpeername(int(fd)) })
		if err != nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal("no reset came")
		case <-time.After(time.Millisecond):
		}
	}
}

// As an HTTP server that answers, closes, and is sent one more byte.
func TestCompleteAnswerIsWholeThoughALateByteMeetsATargetThatIsGone(t *testing.T) {
	const n = 256 << 10
	for _, tt := range []struct {
		name string
		late func(t *testing.T, c *chain)
	}{
		{"a look finds the reset", func(t *testing.T, c *chain) {
			io.WriteString(c.client, "QUIT\r\n")
			gone(t, c.b)
			<-time.After(2 * blocked) // a look has been taken
		}},
		{"a write meets the reset", func(t *testing.T, c *chain) {
			io.WriteString(c.client, "QUIT\r\n")
			gone(t, c.b)
			io.WriteString(c.client, "QUIT\r\n")
			<-time.After(blocked / 5) // and has been passed on
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &chain{ended: make(chan error, 1)}
			c.client, c.a = tcp(t)
			c.b, c.target = tcp(t)
			defer c.client.Close()
			c.a.(*net.TCPConn).SetWriteBuffer(16 << 10) // much of the answer waits in the relay
			c.b.(*net.TCPConn).SetReadBuffer(4 * n)
			c.target.(*net.TCPConn).SetWriteBuffer(4 * n)
			go func() { c.ended <- c.relay.Run(context.Background(), c.a, c.b) }()
			c.target.Write(make([]byte, n))
			c.target.Close() // a FIN behind the answer
			tt.late(t, c)
			if got, err := io.Copy(io.Discard, struct{ io.Reader }{c.client}); got != n || err != nil {
				t.Errorf("%d bytes of %d, %v", got, n, err)
			}
			netx.CloseWrite(c.client)
			if err := <-c.ended; err != nil {
				t.Errorf("the relay: %v", err)
			}
		})
	}
}
