package netx

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"

	"golang.org/x/net/proxy"
)

// Bounds of a proxy's answer to CONNECT.
const (
	maxStatusLine = 8 << 10
	maxReply      = 16 << 10 // the status line and the header
)

// connect is RFC 9110, section 9.3.6.
func (h *hop) connect(out io.Writer, in *bufio.Reader, address string) error {
	request := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if h.user != nil {
		password, _ := h.user.Password()
		request += "Proxy-Authorization: Basic " +
			base64.StdEncoding.EncodeToString([]byte(h.user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(out, request+"\r\n"); err != nil {
		return err
	}
	r, err := readReply(in)
	if err != nil {
		return err
	}
	if r.status/100 != 2 {
		perr := h.fail(address, "answered CONNECT "+address+" with "+quote(r.line), nil)
		perr.Status, perr.Offers = r.status, r.offers
		return perr
	}
	return nil
}

// reply is a proxy's answer to CONNECT.
type reply struct {
	status int
	line   []byte   // from the status on
	offers []string // schemes of its Proxy-Authenticate headers
}

// readReply reads an answer to CONNECT up to the empty line, and leaves what
// follows in the reader: a length that a 2xx answer announces means nothing
// (RFC 9110, section 9.3.6).
func readReply(in *bufio.Reader) (reply, error) {
	// A peer of another kind may never send a whole line: look at its first bytes.
	for n, want := 1, "HTTP/1."; n <= len(want); n++ {
		got, err := in.Peek(n)
		if len(got) < n {
			return reply{}, err
		}
		if got[n-1] != want[n-1] {
			said, _ := in.Peek(in.Buffered())
			return reply{}, &junkError{"an HTTP", bytes.Clone(said)}
		}
	}
	line, err := readLine(in, maxStatusLine)
	if err != nil {
		return reply{}, err
	}
	left := maxReply - len(line)
	line = bytes.TrimRight(line, "\r\n")
	_, rest, _ := bytes.Cut(line, []byte(" "))
	rest = bytes.TrimLeft(rest, " ")
	code, _, _ := bytes.Cut(rest, []byte(" "))
	status, err := strconv.Atoi(string(code))
	if err != nil || len(code) != 3 || status < 100 {
		return reply{}, &junkError{"an HTTP", line}
	}
	r := reply{status: status, line: rest}
	for {
		header, err := readLine(in, left)
		if err != nil {
			return reply{}, err
		}
		left -= len(header)
		header = bytes.TrimRight(header, "\r\n")
		if len(header) == 0 {
			return r, nil
		}
		name, value, _ := strings.Cut(string(header), ":")
		if strings.EqualFold(name, "Proxy-Authenticate") {
			scheme, _, _ := strings.Cut(strings.TrimSpace(value), " ")
			r.offers = append(r.offers, scheme)
		}
	}
}

// readLine reads up to and with the next line feed, at most limit bytes.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return nil, errors.New("its answer is too long")
		case err == bufio.ErrBufferFull:
		default:
			return line, err
		}
	}
}

// socks is RFC 1928 and 1929, by x/net. That returns its reasons as text only,
// so what the proxy said is kept to see what kind of refusal it was.
func (h *hop) socks(c net.Conn, in *bufio.Reader, address string) error {
	var auth *proxy.Auth
	if h.user != nil {
		password, _ := h.user.Password()
		auth = &proxy.Auth{User: h.user.Username(), Password: password}
	}
	said := &recorder{Conn: c, in: in}
	d, err := proxy.SOCKS5("tcp", h.address, auth, said)
	if err != nil {
		return err
	}
	// No ctx: handshake interrupts, and x/net would set deadlines of its own.
	_, err = d.(proxy.ContextDialer).DialContext(context.Background(), "tcp", address)
	if err == nil {
		return nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	perr := h.fail(address, "refused "+address+": "+strings.TrimPrefix(err.Error(), "unknown error "), err)
	b := said.bytes
	switch {
	case len(b) > 0 && b[0] != 5:
		rest, _ := in.Peek(in.Buffered())
		return &junkError{"a SOCKS5", append(b, rest...)}
	case len(b) == 2 && b[1] == 0xff, len(b) == 4 && b[1] == 2 && b[3] != 0:
		perr.Status = statusAuth
	case len(b) >= 4 && b[1] == 0 && b[3] == 2, len(b) >= 6 && b[1] == 2 && b[5] == 2:
		perr.Status = statusForbidden // "connection not allowed by ruleset"
	case len(b) >= 4 && b[1] == 0 && b[3] != 0, len(b) >= 6 && b[1] == 2 && b[5] != 0:
	default:
		return err // no answer, or half of one
	}
	return perr
}

// recorder is the conn that x/net speaks SOCKS on; it keeps what it reads.
type recorder struct {
	net.Conn
	in    *bufio.Reader
	bytes []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	r.bytes = append(r.bytes, p[:n]...)
	return n, err
}

// Close does nothing: hop.dial closes the conn.
func (r *recorder) Close() error { return nil }

// Dial and DialContext are the way to the proxy, as x/net wants to have it.
func (r *recorder) Dial(_, _ string) (net.Conn, error)                            { return r, nil }
func (r *recorder) DialContext(context.Context, string, string) (net.Conn, error) { return r, nil }
