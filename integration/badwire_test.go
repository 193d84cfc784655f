package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// What comes over the wire and is not as it should be: it ends there, with the
// right answer, and nobody else notices.

// TestPlainGET: somebody who opens the endpoint in a browser reads what it is.
func TestPlainGET(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--target", target, "--route", "/desk="+target)
	for _, path := range []string{"/", "/desk"} {
		response, err := http.Get(s.http() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusUpgradeRequired || !strings.Contains(string(body), "WebSocket") {
			t.Errorf("GET %s: %s %q, want 426 and a text about WebSocket", path, response.Status, body)
		}
		if strings.Contains(string(body), target) {
			t.Errorf("GET %s tells the target's address: %q", path, body)
		}
	}
	response, err := http.Get(s.http() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("GET /healthz: %s", response.Status)
	}
}

// TestBadHandshake sends requests as they are, and reads what comes back.
func TestBadHandshake(t *testing.T) {
	s := startServer(t, "--target", echoTarget(t))
	const (
		upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
		version = "Sec-WebSocket-Version: 13\r\n"
		key     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	)
	host := "Host: " + s.addr + "\r\n"
	for _, tt := range []struct {
		name    string
		request string
		want    string // the status, several with a bar; "" if it may also just close
	}{
		{"no HTTP", "\x00\x01\x02\x03 hello\r\n\r\n", "400"},
		{"an end in mid-request", "GET / HT", ""},
		{"no host", "GET / HTTP/1.1\r\n" + upgrade + version + key + "\r\n", "400"},
		{"no key", "GET / HTTP/1.1\r\n" + host + upgrade + version + "\r\n", "400"},
		{"short key", "GET / HTTP/1.1\r\n" + host + upgrade + version + "Sec-WebSocket-Key: eA==\r\n\r\n", "400"},
		{"old version", "GET / HTTP/1.1\r\n" + host + upgrade + "Sec-WebSocket-Version: 8\r\n" + key + "\r\n", "400|426"},
		{"not GET", "POST / HTTP/1.1\r\n" + host + upgrade + version + key + "Content-Length: 0\r\n\r\n", "400|405|426"},
		{"unknown subprotocol", "GET / HTTP/1.1\r\n" + host + upgrade + version + key + "Sec-WebSocket-Protocol: soap\r\n\r\n", "400"},
		{"unknown tunnel protocol", "GET / HTTP/1.1\r\n" + host + upgrade + version + key + "Sec-WebSocket-Protocol: wstun.v999\r\n\r\n", "400"},
		{"long header", "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", "431"},
		{"many headers", "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 200_000) + "\r\n", "431"},
		{"long path", "GET /" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\n" + host + "\r\n", "414|431"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, s.addr)
			// It may be refused before all of it is there.
			go func() {
				io.WriteString(c, tt.request)
				c.CloseWrite()
			}()
			response, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				// What a server sends with data of the client still unread may
				// be lost to the reset that follows (RFC 9112, section 9.6).
				if len(tt.request) < 1000 && tt.want != "" {
					t.Errorf("no answer: %v, want status %s", err, tt.want)
				}
				return
			}
			if tt.want != "" && !strings.Contains(tt.want, fmt.Sprint(response.StatusCode)) {
				t.Errorf("status %s, want %s", response.Status, tt.want)
			}
		})
	}
	s.serves(t)
}

// TestGarbageFrames: what is no frame ends that connection and its target's.
func TestGarbageFrames(t *testing.T) {
	target, results := sinkTarget(t)
	echo := echoTarget(t)
	s := startServer(t, "--target", echo, "--route", "/sink="+target)
	for _, tt := range []struct {
		name string
		send func(*wsConn) error
	}{
		{"noise", func(c *wsConn) error { _, err := c.Conn.Write(noiseBytes(3, 100_000)); return err }},
		{"no mask", func(c *wsConn) error { _, err := c.Conn.Write([]byte{0x82, 1, 'x'}); return err }},
		{"reserved bits", func(c *wsConn) error { return c.writeFrame(0x40|opBinary, true, []byte("x")) }},
		{"reserved opcode", func(c *wsConn) error { return c.writeFrame(3, true, []byte("x")) }},
		{"continuation of nothing", func(c *wsConn) error { return c.writeFrame(opContinuation, true, []byte("x")) }},
		{"message in a message", func(c *wsConn) error {
			return errors.Join(c.writeFrame(opBinary, false, []byte("x")), c.writeFrame(opBinary, true, []byte("y")))
		}},
		{"long ping", func(c *wsConn) error { return c.writeFrame(opPing, true, make([]byte, 126)) }},
		{"ping in fragments", func(c *wsConn) error { return c.writeFrame(opPing, false, nil) }},
		{"negative length", func(c *wsConn) error {
			_, err := c.Conn.Write([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4})
			return err
		}},
		{"end without close", func(c *wsConn) error { return c.Conn.(*net.TCPConn).CloseWrite() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialWS(t, s.ws()+"/sink")
			if err := tt.send(c); err != nil {
				t.Logf("send: %v", err) // it may be closed before all is sent
			}
			r := drain(struct{ io.Reader }{c})
			var closed *closeError
			if errors.As(r.err, &closed) && closed.code == 1000 {
				t.Errorf("it was closed with 1000, as if all were well")
			}
			if isTimeout(r.err) {
				t.Errorf("it was not closed")
			}
			// Broken is not complete: the target must not take it for an end.
			if got := receive(t, results, "the target's connection ends"); got.err == nil {
				t.Errorf("the target read %d bytes and a clean end, want a reset", got.n)
			}
		})
	}
	s.serves(t)
}

// TestGarbageTunnel: a peer that asks for the tunnel and then talks nonsense.
func TestGarbageTunnel(t *testing.T) {
	target := echoTarget(t)
	s := startServer(t, "--target", target, "--allow", target)
	for _, tt := range []struct {
		name string
		send func(*wsConn) error
	}{
		{"noise in a message", func(c *wsConn) error { return c.writeFrame(opBinary, true, noiseBytes(4, 5000)) }},
		{"zeros", func(c *wsConn) error { return c.writeFrame(opBinary, true, make([]byte, 64<<10)) }},
		{"nothing", func(c *wsConn) error { return c.writeFrame(opBinary, true, nil) }},
		{"text", func(c *wsConn) error { return c.writeFrame(opText, true, []byte("hello")) }},
		{"large message", func(c *wsConn) error { return c.writeFrame(opBinary, true, make([]byte, 1<<20)) }},
		{"an end", func(c *wsConn) error { return c.Conn.(*net.TCPConn).CloseWrite() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialWS(t, s.ws(), withHeader("Sec-WebSocket-Protocol", "wstun.v1"))
			if got := c.response.Header.Get("Sec-WebSocket-Protocol"); got != "wstun.v1" {
				t.Fatalf("the server selected %q", got)
			}
			if err := tt.send(c); err != nil {
				t.Logf("send: %v", err)
			}
			if r := drain(struct{ io.Reader }{c}); isTimeout(r.err) {
				t.Errorf("it was not closed (%d bytes came)", r.n)
			}
		})
	}
	s.serves(t)
}

// TestHugeMessage: a message of 100 MiB, in one frame and in fragments, is
// streamed to the target and never held.
func TestHugeMessage(t *testing.T) {
	const (
		size  = 100 << 20
		piece = 10 << 20
		// More than a relay's buffers, far less than the message. The race
		// detector would multiply it.
		flat = 48 << 20
	)
	target, results := sinkTarget(t)
	echo := echoTarget(t)
	s := startServer(t, "--target", echo, "--route", "/sink="+target)
	s.serves(t) // once around, so that memory is what it is in use
	content := noiseBytes(100, size)
	want := drain(bytes.NewReader(content))

	for _, tt := range []struct {
		name string
		send func(*wsConn) error
	}{
		{"one frame", func(c *wsConn) error { return c.writeFrame(opBinary, true, content) }},
		{"fragments", func(c *wsConn) error {
			op := byte(opBinary)
			for rest := content; len(rest) > 0; rest = rest[piece:] {
				if err := c.writeFrame(op, len(rest) == piece, rest[:piece]); err != nil {
					return err
				}
				op = opContinuation
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := s.peakMemory(t)
			c := dialWS(t, s.ws()+"/sink")
			if err := tt.send(c); err != nil {
				t.Fatal(err)
			}
			c.closeWith(t, 1000)
			if got := receive(t, results, "the target has it all"); got != want {
				t.Errorf("the target has %+v, want %+v", got, want)
			}
			if grown := s.peakMemory(t) - before; grown > flat {
				t.Errorf("the server's memory grew by %d MiB", grown>>20)
			}
		})
	}
	s.serves(t)
}
