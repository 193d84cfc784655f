package netx

import (
	"crypto/tls"
	"errors"
	"net"
)

// A conn may do more than net.Conn says. These are the abilities that a relay
// asks for; a wrapper of a conn must pass them on, since embedding net.Conn
// hides them.
type (
	writeCloser interface{ CloseWrite() error }
	aborter     interface{ Abort(cause error) error }
	breaker     interface{ Broken() error }
)

// CloseWrite tells c's peer that no more bytes come. The peer may go on
// sending. It returns errors.ErrUnsupported if c cannot say that.
func CloseWrite(c net.Conn) error {
	if w, ok := c.(writeCloser); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// CanCloseWrite reports whether c has an end for each direction of its own.
func CanCloseWrite(c net.Conn) bool {
	_, ok := c.(writeCloser)
	return ok
}

// Abort closes c so that its peer sees a failure and not an end: a TCP reset,
// a stream's RST record, a WebSocket's close code. A conn whose protocol has
// words for it tells its peer the cause, which may be nil. Abort never blocks.
func Abort(c net.Conn, cause error) error {
	switch c := c.(type) {
	case aborter:
		return c.Abort(cause)
	case *net.TCPConn:
		c.SetLinger(0) // Close then sends RST and drops what was not sent
	case *tls.Conn:
		// tls.Conn.Close would say close_notify, which is an end, and may wait to do so.
		return Abort(c.NetConn(), cause)
	}
	return c.Close()
}

// Broken returns the failure that c has met and that no read or write has
// reported yet, such as a reset that came while nobody was reading; nil if
// there is none or c cannot tell. It takes no lock that a read or write holds.
func Broken(c net.Conn) error {
	switch c := c.(type) {
	case breaker:
		return c.Broken()
	case *tls.Conn:
		return Broken(c.NetConn())
	}
	return brokenSocket(c)
}
