package integration

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// The opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// A wsConn is a WebSocket client that can also do what a decent one does not.
// It is a byte stream: Read gives the bytes of all data frames, Write sends one
// binary message. Its reads and writes may be concurrent with each other.
type wsConn struct {
	net.Conn
	r        *bufio.Reader
	rest     int64 // of the data frame being read
	response *http.Response
}

// A closeError is the close frame that the server sent.
type closeError struct {
	code   int
	reason string
}

func (e *closeError) Error() string { return fmt.Sprintf("close frame %d %q", e.code, e.reason) }

// A dialOption changes the request or the conn that it is sent on.
type dialOption func(*http.Request, net.Conn)

func withHeader(key, value string) dialOption {
	return func(r *http.Request, _ net.Conn) { r.Header.Set(key, value) }
}

func withReadBuffer(n int) dialOption {
	return func(_ *http.Request, c net.Conn) { c.(*net.TCPConn).SetReadBuffer(n) }
}

// dialWS opens a WebSocket until the test ends.
func dialWS(t testing.TB, rawURL string, options ...dialOption) *wsConn {
	t.Helper()
	c, err := openWS(rawURL, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refusedWS opens a WebSocket that must be refused, and gives the answer.
func refusedWS(t testing.TB, rawURL string, options ...dialOption) (status int, body string) {
	t.Helper()
	c, err := openWS(rawURL, options...)
	if err == nil {
		c.Close()
		t.Fatalf("%s: the WebSocket was not refused", rawURL)
	}
	var refused *refusedError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	return refused.status, refused.body
}

type refusedError struct {
	status int
	body   string
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused with %d: %s", e.status, e.body) }

// openWS dials and makes the handshake of RFC 6455, section 4.1.
func openWS(rawURL string, options ...dialOption) (_ *wsConn, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if u.Path == "" {
		u.Path = "/"
	}
	tcp, err := net.Dial("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	conn := tcp
	defer func() {
		if err != nil {
			tcp.Close()
		}
	}()
	if err := tcp.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return nil, err
	}
	key := make([]byte, 16)
	rand.Read(key)
	request := &http.Request{Method: "GET", URL: u, Host: u.Host, Header: http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {base64.StdEncoding.EncodeToString(key)},
	}}
	for _, option := range options {
		option(request, tcp)
	}
	if u.Scheme == "wss" {
		// Whom the server is, is asked where that is what is tested.
		conn = tls.Client(tcp, &tls.Config{InsecureSkipVerify: true})
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		return nil, &refusedError{response.StatusCode, string(body)}
	}
	sum := sha1.Sum([]byte(request.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got := response.Header.Get("Sec-Websocket-Accept"); got != base64.StdEncoding.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("Sec-WebSocket-Accept is %q", got)
	}
	return &wsConn{Conn: conn, r: r, response: response}, nil
}

// writeFrame sends a frame as it is told, whether that is allowed or not.
func (c *wsConn) writeFrame(op byte, final bool, payload []byte) error {
	frame := make([]byte, 0, 14+len(payload))
	frame = append(frame, op)
	if final {
		frame[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	var mask [4]byte
	rand.Read(mask[:])
	frame = append(frame, mask[:]...)
	for i, b := range payload {
		frame = append(frame, b^mask[i&3])
	}
	_, err := c.Conn.Write(frame)
	return err
}

// Write sends b as one binary message.
func (c *wsConn) Write(b []byte) (int, error) {
	if err := c.writeFrame(opBinary, true, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read reads the bytes of data frames; it answers pings, and a close frame is
// its error. It is io.ErrUnexpectedEOF if the server ends without one.
func (c *wsConn) Read(b []byte) (int, error) {
	for c.rest == 0 {
		op, n, err := c.readHeader()
		if err != nil {
			return 0, err
		}
		if op < opClose {
			c.rest = n
			continue
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(c.r, payload); err != nil {
			return 0, noEOF(err)
		}
		switch {
		case op == opPing:
			if err := c.writeFrame(opPong, true, payload); err != nil {
				return 0, err
			}
		case op == opClose && n >= 2:
			return 0, &closeError{int(binary.BigEndian.Uint16(payload)), string(payload[2:])}
		case op == opClose:
			return 0, &closeError{1005, ""} // RFC 6455, section 7.1.5
		}
	}
	n, err := c.r.Read(b[:min(int64(len(b)), c.rest)])
	c.rest -= int64(n)
	return n, noEOF(err)
}

// readHeader reads a frame's header, and is as strict about it as a browser.
func (c *wsConn) readHeader() (op byte, n int64, err error) {
	var h [8]byte
	if _, err := io.ReadFull(c.r, h[:2]); err != nil {
		return 0, 0, noEOF(err)
	}
	if h[0]&0x70 != 0 || h[1]&0x80 != 0 {
		return 0, 0, fmt.Errorf("the server sent a frame with reserved bits or a mask: % x", h[:2])
	}
	op, n = h[0]&0x0f, int64(h[1])
	switch n {
	case 126:
		_, err = io.ReadFull(c.r, h[:2])
		n = int64(binary.BigEndian.Uint16(h[:]))
	case 127:
		_, err = io.ReadFull(c.r, h[:8])
		n = int64(binary.BigEndian.Uint64(h[:]))
	}
	if op >= opClose && n > 125 {
		return 0, 0, fmt.Errorf("the server sent a control frame of %d bytes", n)
	}
	return op, n, noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// closeWith sends a close frame and waits until the server's own is there and
// it has closed the conn, as RFC 6455 section 7.1.1 wants it to.
func (c *wsConn) closeWith(t testing.TB, code uint16) {
	t.Helper()
	if err := c.writeFrame(opClose, true, binary.BigEndian.AppendUint16(nil, code)); err != nil {
		t.Fatal(err)
	}
	var closed *closeError
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{c}); !errors.As(err, &closed) {
		t.Fatalf("the server answered a close frame with: %v", err)
	}
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Fatalf("after both close frames: %v, want EOF", err)
	}
}
