package wsconn

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// Listener returns ln with conns that gather writes beneath TLS: give it to
// tls.NewListener, or to http.Server, for [Accept] to find. Accept works
// without it too, at the cost of a system call per TLS record.
func Listener(ln net.Listener) net.Listener { return listener{ln} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newWire(c), nil
}

// Accept answers r with 101 and returns its WebSocket, which the caller ends.
// subprotocol must be among those that r offers; empty selects none. Origin
// and everything else about r is the caller's to check before. The handler may
// return while the Conn lives. On an error r has been answered.
func Accept(w http.ResponseWriter, r *http.Request, subprotocol string) (*Conn, error) {
	h := &hijacker{ResponseWriter: w}
	guard := new(pings)
	opts := &websocket.AcceptOptions{
		OnPingReceived:     guard.answer,
		InsecureSkipVerify: true, // the caller has checked Origin
		CompressionMode:    websocket.CompressionDisabled,
	}
	if subprotocol != "" {
		opts.Subprotocols = []string{subprotocol}
	}
	ws, err := websocket.Accept(h, r, opts)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	c := newConn(ws, h.wire)
	c.topConn = h.top
	guard.of(c)
	return c, nil
}

// A hijacker hands the library small buffers of its own over the conn's wire.
type hijacker struct {
	http.ResponseWriter
	wire *wire
	top  net.Conn
}

// The library's buffers, held as long as the connection. The reader's is
// passed by for what is larger; a large writer's buffer is of no use, since
// the wire gathers.
const (
	readBuffer  = 1 << 10
	writeBuffer = 4 << 10 // at most byRefMin-1
)

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w, top, secure := wireOf(conn)
	// The 101 has left already: the first frames may be here.
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	early = bytes.Clone(early)
	br := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), top), max(readBuffer, len(early)))
	br.Peek(len(early))
	w.upgrade(!secure)
	h.wire, h.top = w, top
	return noEndConn{top}, bufio.NewReadWriter(br, bufio.NewWriterSize(top, writeBuffer)), nil
}

// Unwrap lets http.ResponseController find the server's own methods.
func (h *hijacker) Unwrap() http.ResponseWriter { return h.ResponseWriter }
