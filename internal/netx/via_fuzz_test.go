package netx_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func FuzzConnectReply(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\nSSH-2.0", "HTTP/1.0 407 No\r\nProxy-Authenticate: Basic\r\n\r\n",
		"SSH-2.0-x\r\n", "HTTP/1.1 99 x\r\n\r\n", "HTTP/1.1 200\nA\n\n", "", "H",
	} {
		f.Add([]byte(s))
	}
	dialThrough := func(t *testing.T, c net.Conn) (net.Conn, error) {
		next := func(context.Context, string, string) (net.Conn, error) { return c, nil }
		return mustVia(t, "http://proxy:3128", next)(t.Context(), "tcp", "db:5432")
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		said := &saying{rest: answer}
		c, err := dialThrough(t, said)
		const most = 16<<10 + 4096 // and what was buffered
		if read := len(answer) - len(said.rest); read > most {
			t.Errorf("read %d bytes", read)
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") || !said.closed {
				t.Errorf("error %q, closed %v", err, said.closed)
			}
			return
		}
		// What follows the empty line is the target's, to the last byte.
		got, err := io.ReadAll(c)
		if err != nil || !bytes.HasSuffix(answer, got) {
			t.Fatalf("read %q, %v", got, err)
		}
		if head := answer[:len(answer)-len(got)]; !bytes.HasSuffix(head, []byte("\n")) || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
			t.Errorf("took %q for the answer", head)
		}
	})
}

// saying is a conn that says rest, whatever it is told.
type saying struct {
	net.Conn // nil: crash on any unexpected use
	rest     []byte
	closed   bool
}

func (s *saying) Read(p []byte) (int, error) {
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *saying) Write(p []byte) (int, error) { return len(p), nil }
func (s *saying) Close() error                { s.closed = true; return nil }
func (s *saying) SetDeadline(time.Time) error { return nil }
