package wsconn

import (
	"errors"
	"io"
	"net"
	"testing"

	"wstun/internal/netx"
)

// What a connection's end has cut short is not taken for a message, wherever
// in it that was.
func TestMessageThatIsCutShortIsNone(t *testing.T) {
	type cut struct {
		name   string
		frames []byte
	}
	mask := []byte{0, 0, 0, 0}
	toClient := []cut{
		{"behind its header", []byte{0x82, 100}},
		{"in its header", []byte{0x82, 126, 1}},
		{"in its bytes", append([]byte{0x82, 100}, "the first"...)},
		{"between two fragments", append([]byte{0x02, 5}, "first"...)},
		{"behind the header of a fragment", append(append([]byte{0x02, 5}, "first"...), 0x80, 5)},
	}
	check := func(t *testing.T, c *Conn) {
		t.Helper()
		r, err := c.Next()
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if err == nil {
			t.Errorf("a message of %d bytes", len(got))
		}
		if _, err := c.Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("and then %v", err)
		}
	}
	for _, tt := range toClient {
		t.Run("to a client, "+tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, c, s *Conn) {
				s.topConn.Write(tt.frames)
				netx.CloseWrite(plainEnd{s})
				check(t, c)
			})
		})
	}
	for _, tt := range []cut{
		{"behind its header", append([]byte{0x82, 0x80 | 100}, mask...)},
		{"in its mask", []byte{0x82, 0x80 | 100, 0, 0}},
		{"between two fragments", append(append([]byte{0x02, 0x80 | 5}, mask...), "first"...)},
	} {
		t.Run("to a server, "+tt.name, func(t *testing.T) {
			c, s := pair(t, false)
			c.wire.Conn.Write(tt.frames)
			netx.CloseWrite(c.wire.Conn)
			check(t, s)
		})
	}
}

// plainEnd ends a server's side in order: with TLS, as TLS does.
type plainEnd struct{ *Conn }

func (e plainEnd) CloseWrite() error {
	if c, ok := e.topConn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return e.wire.Conn.(*net.TCPConn).CloseWrite()
}
