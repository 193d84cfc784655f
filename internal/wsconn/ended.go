package wsconn

import (
	"io"
	"net"
	"net/http"
)

// A noEnd is what the library reads a WebSocket from. An io.EOF there means that
// TCP, or TLS, has ended, which no frame allows; the library would take it for
// the end of the message where it comes right behind a frame's header or
// between two fragments. So it becomes an error.
type noEnd struct{ io.Reader }

func (r noEnd) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// A noEndConn is a server's conn, read like a noEnd.
type noEndConn struct{ net.Conn }

func (c noEndConn) Read(p []byte) (int, error) { return noEnd{c.Conn}.Read(p) }

// noEnds puts a noEnd under a client's WebSocket.
type noEnds struct{ http.RoundTripper }

func (t noEnds) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, err
	}
	if body, ok := resp.Body.(io.ReadWriteCloser); ok {
		resp.Body = struct {
			noEnd
			io.WriteCloser
		}{noEnd{body}, body}
	}
	return resp, nil
}
