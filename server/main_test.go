package server

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wstun/internal/access"
	"wstun/internal/line"
	"wstun/internal/logtest"
	"wstun/internal/netx/netxtest"
	"wstun/internal/wsconn"
	"wstun/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is a server on a real loopback port whose targets are in memory.
type site struct {
	*Server
	addr    string
	targets netxtest.Network
	log     *logtest.Buffer
	served  chan error
}

const target = "127.0.0.1:5900"

// serve starts a server for target, unless cfg has routes, until the test ends.
func serve(t testing.TB, cfg Config, f access.Front) *site {
	t.Helper()
	s := &site{served: make(chan error, 1)}
	if cfg.Routes.Default == nil && cfg.Routes.Exact == nil {
		to, err := ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Routes.Default = &to
	}
	if cfg.Policy == nil {
		cfg.Policy = &access.Policy{}
	}
	cfg.Policy.Allow = append(cfg.Policy.Allow, cfg.Routes.Rules()...)
	if cfg.Network == nil {
		cfg.Network = &s.targets
	}
	cfg.Agent = "wstun/test"
	cfg.Log, s.log = logtest.New()
	s.Server = New(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	f.Loopback = true
	f.Public = cfg.Policy.Users == nil
	go func() { s.served <- s.Serve(Listener{Listener: ln, Front: f}) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		if err := <-s.served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	return s
}

// listen announces a target and hands over what is dialled there.
func (s *site) listen(t testing.TB, address string) <-chan *netxtest.Conn {
	t.Helper()
	ln, err := s.targets.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan *netxtest.Conn, 16)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c.(*netxtest.Conn)
		}
	}()
	t.Cleanup(func() { ln.Close() })
	return conns
}

// request sends a plain GET or, if upgrade, what begins a WebSocket, and
// returns the answer. An empty Host is the address.
func (s *site) request(t testing.TB, upgrade bool, path string, header http.Header) (*http.Response, *ws) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	r, err := http.NewRequest("GET", "http://"+s.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	if h := header.Get("Host"); h != "" {
		r.Host = h
		r.Header.Del("Host")
	}
	if upgrade {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set("Sec-WebSocket-Version", "13")
		r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	}
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, r)
	if err != nil {
		t.Fatal(err)
	}
	return resp, &ws{conn, br}
}

// A ws is a WebSocket client that says exactly what it is told.
type ws struct {
	net.Conn
	br *bufio.Reader
}

const (
	opCont, opText, opBinary, opClose, opPing, opPong = 0, 1, 2, 8, 9, 10

	fin = 0x80
)

// browser opens a WebSocket that must be accepted.
func (s *site) browser(t testing.TB, path string, header http.Header) *ws {
	t.Helper()
	resp, w := s.request(t, true, path, header)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	return w
}

func (w *ws) send(first byte, payload string) {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	w.Write(append(append(b, 0, 0, 0, 0), payload...)) // masked with zeros
}

func (w *ws) sendClose(code uint16, reason string) {
	w.send(fin|opClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

func (w *ws) next() (op byte, payload []byte, err error) {
	var h [8]byte
	if _, err := io.ReadFull(w.br, h[:2]); err != nil {
		return 0, nil, err
	}
	op = h[0] & 0xf
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		_, err = io.ReadFull(w.br, h[:2])
		n = uint64(binary.BigEndian.Uint16(h[:]))
	case 127:
		_, err = io.ReadFull(w.br, h[:8])
		n = binary.BigEndian.Uint64(h[:])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.br, payload)
	return op, payload, err
}

// rest returns all data up to the Close frame, and what that says.
func (w *ws) rest(t testing.TB) (data []byte, code int, reason string) {
	t.Helper()
	for {
		op, p, err := w.next()
		switch {
		case err != nil:
			t.Errorf("no Close frame behind %d bytes: %v", len(data), err)
			return data, 0, ""
		case op == opClose:
			return data, int(binary.BigEndian.Uint16(p)), string(p[2:])
		case op < opClose:
			data = append(data, p...)
		}
	}
}

// A tunnel is a client's session.
type tunnel struct {
	*mux.Session
	line *line.Conn
	ws   *wsconn.Conn
	away chan line.GoAway

	resumed chan time.Duration
}

func (s *site) tunnel(t testing.TB, header http.Header) (*tunnel, error) {
	t.Helper()
	w, err := wsconn.Dial(t.Context(), "ws://"+s.addr, wsconn.DialOptions{Subprotocol: "wstun.v1", Header: header})
	if err != nil {
		return nil, err
	}
	tun := &tunnel{ws: w, away: make(chan line.GoAway, 8), resumed: make(chan time.Duration, 8)}
	l, err := line.Dial(t.Context(), w, line.Hello{Agent: "test"}, line.Config{Redial: func(ctx context.Context, _ func()) (line.Carrier, error) {
		w, err := wsconn.Dial(ctx, "ws://"+s.addr, wsconn.DialOptions{Subprotocol: "wstun.v1", Header: header})
		if err != nil {
			return nil, err
		}
		tun.ws = w // nobody looks before the event
		return w, nil
	}})
	if err != nil {
		return nil, err
	}
	tun.line = l
	l.OnEvent(func(e line.Event) {
		switch e.Kind {
		case line.GoingAway:
			tun.away <- e.GoAway
		case line.Resumed:
			tun.resumed <- e.After
		}
	})
	if tun.Session, err = mux.Client(l, mux.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close(); l.Wait() })
	return tun, nil
}
