package mux

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// rawPeer returns a session and, as its peer, yamux alone.
func rawPeer(t testing.TB, cfg Config, client bool) (*Session, *yamux.Session) {
	t.Helper()
	a, b := tcpPair(t)
	yc := yamux.DefaultConfig()
	yc.EnableKeepAlive, yc.LogOutput = false, io.Discard
	open, ours := yamux.Client, Server
	if client {
		open, ours = yamux.Server, Client
	}
	raw, err := open(a, yc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ours(tcpLine{b}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close(); s.Close() })
	return s, raw
}

// ask opens a stream with these bytes and returns the answer.
func ask(t *testing.T, raw *yamux.Session, open []byte) (Status, string) {
	t.Helper()
	st, err := raw.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	st.SetDeadline(time.Now().Add(20 * time.Second))
	st.Write(open)
	var h [3]byte
	if _, err := io.ReadFull(st, h[:]); err != nil {
		t.Fatalf("no answer: %v", err)
	}
	text := make([]byte, binary.BigEndian.Uint16(h[1:]))
	if _, err := io.ReadFull(st, text); err != nil {
		t.Fatal(err)
	}
	return Status(h[0]), string(text)
}

func TestOpenThatIsNoneIsRefusedAndTheSessionLives(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	header := func(version, kind byte, n uint16, body string) []byte {
		return append([]byte{version, kind, 0, 0, byte(n >> 8), byte(n)}, body...)
	}
	for _, tt := range []struct {
		name string
		open []byte
	}{
		{"a line break", appendOpen(nil, kindTCP, "db:5432\nlevel=ERROR")},
		{"a NUL", appendOpen(nil, kindUnix, "/run/\x00app")},
		{"an escape sequence", appendOpen(nil, kindService, "\x1b[2J")},
		{"DEL", appendOpen(nil, kindTCP, "db\x7f:1")},
		{"one byte too long", header(1, kindTCP, maxOpen+1, strings.Repeat("x", maxOpen+1))},
		{"64 KiB", header(1, kindTCP, 65535, "")},
		{"version 0", header(0, kindTCP, 3, "x:1")},
		{"version 2", header(2, kindTCP, 3, "x:1")},
		{"kind 0", appendOpen(nil, 0, "x:1")},
		{"kind 5", appendOpen(nil, kindListen, "tcp\x00localhost:80")},
		{"kind 6", appendOpen(nil, kindAccepted, "\x00\x00\x00\x01source")},
		{"kind 200", appendOpen(nil, 200, "x:1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, text := ask(t, raw, tt.open); status != Bad || text == "" {
				t.Errorf("status %d %q", status, text)
			}
		})
	}
	done := make(chan string, 1)
	go func() {
		r, err := s.Accept(t.Context())
		if err != nil {
			done <- err.Error()
			return
		}
		st, _ := r.Grant("")
		st.Close()
		done <- r.Network + " " + r.Address
	}()
	if status, _ := ask(t, raw, appendOpen(nil, kindTCP, strings.Repeat("x", maxOpen-2)+":1")); status != OK {
		t.Errorf("a good one: status %d", status)
	}
	if got := <-done; !strings.HasPrefix(got, "tcp xxxx") {
		t.Errorf("a good one: %q", got)
	}
	waitEmpty(t, s)
}

func TestStreamWithoutAnOpenIsRefusedInTime(t *testing.T) {
	s, raw := rawPeer(t, Config{openTimeout: 20 * time.Millisecond}, false)
	for _, n := range []int{0, 3, 8} {
		if status, _ := ask(t, raw, appendOpen(nil, kindTCP, "x:1")[:n]); status != TimedOut {
			t.Errorf("%d bytes of an OPEN: status %d", n, status)
		}
	}
	waitEmpty(t, s)
}

func TestStreamThatEndsInsideItsOpenIsForgotten(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	for n := range 9 {
		st, err := raw.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		st.Write(appendOpen(nil, kindTCP, "x:1")[:n])
		st.Close()
	}
	waitEmpty(t, s)
}

func TestRecordThatBreaksTheProtocolFailsItsStreamAlone(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	for _, tt := range []struct {
		name string
		rec  []byte
	}{
		{"DATA of 64 KiB", []byte{0, 1, 0, 0}},
		{"FIN with a body", []byte{1, 0, 0, 1}},
		{"RST without a code", []byte{2, 0, 0, 0}},
		{"NOOP with a body", []byte{3, 0, 0, 5}},
		{"type 4", []byte{4, 0, 0, 0}},
		{"type 255", []byte{255, 255, 255, 255}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st, err := raw.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			st.Write(appendOpen(nil, kindTCP, "x:1"))
			r, err := s.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c, err := r.Grant("")
			if err != nil {
				t.Fatal(err)
			}
			st.Write(append([]byte{0, 0, 0, 2, 'o', 'k', 3, 0, 0, 0}, tt.rec...)) // NOOP in between means nothing
			got, err := io.ReadAll(c)
			if string(got) != "ok" || !errors.Is(err, ErrProtocol) {
				t.Errorf("%q, %v", got, err)
			}
			c.Abort(err)
			said := make([]byte, 9) // the answer, and an RST record with the code
			if _, err := io.ReadFull(st, said); err != nil || !bytes.Equal(said, []byte{0, 0, 0, 2, 0, 0, 2, 0, 5}) {
				t.Errorf("the peer got %x, %v", said, err)
			}
			st.Close()
		})
	}
	waitEmpty(t, s)
}

func TestEndOfYamuxWithoutFINIsAReset(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	st, err := raw.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	st.Write(append(appendOpen(nil, kindTCP, "x:1"), 0, 0, 0, 2, 'o', 'k'))
	st.Close()
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Grant("")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	var re *ResetError
	if string(got) != "ok" || !errors.As(err, &re) {
		t.Errorf("%q, %v", got, err)
	}
	c.Abort(err)
}

// A control message for a stream that is none, or of a kind of later versions,
// changes nothing.
func TestStrangeControlMessagesAreIgnored(t *testing.T) {
	s, raw := rawPeer(t, Config{}, false)
	st, err := raw.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	st.Write(appendOpen(nil, kindControl, ""))
	st.Write([]byte{0, 0, 0, 7, 1, 0, 0, 0, 99, 0, 1}) // RESET of stream 99
	st.Write([]byte{0, 0, 0, 7, 1, 0, 0, 0, 1, 0, 1})  // of the control stream itself
	st.Write([]byte{0, 0, 0, 3, 77, 0, 0})             // a later version's
	st.Write([]byte{3, 0, 0, 0})                       // NOOP
	go func() {
		if r, err := s.Accept(t.Context()); err == nil {
			r.Refuse(net.UnknownNetworkError("x"))
		}
	}()
	if status, _ := ask(t, raw, appendOpen(nil, kindTCP, "x:1")); status != Internal {
		t.Errorf("status %d", status)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(appendOpen(nil, kindTCP, "db:5432"))
	f.Add(appendOpen(nil, kindControl, ""))
	f.Add(appendOpen(nil, kindListen, "\x00"))
	f.Add([]byte{1, 1, 0, 0, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := readOpen(bytes.NewReader(b))
		var refusal *RefusedError
		switch {
		case errors.As(err, &refusal):
			if refusal.Status != Bad {
				t.Fatal(refusal.Status)
			}
		case err != nil:
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatal(err)
			}
		default:
			again := appendOpen(nil, kind, body)
			again[2], again[3] = b[2], b[3] // flags mean nothing yet
			if len(body) > maxOpen || !bytes.HasPrefix(b, again) {
				t.Fatalf("%x read and written is %x", b, again)
			}
			if networkOf(kind) != "" && strings.ContainsAny(body, "\x00\n\r\x1b\x7f") {
				t.Fatalf("a control character in %q", body)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte{0, 0, 0, 5})
	f.Add([]byte{1, 0, 0, 0})
	f.Add([]byte{2, 0, 0, 2})
	f.Add([]byte{3, 0, 0, 0})
	f.Add([]byte{0, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < recHeader {
			return
		}
		typ, n, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		var again [recHeader]byte
		putRecord(again[:], typ, n)
		if !bytes.Equal(again[:], b[:recHeader]) || n > maxRecord || typ > recNoop {
			t.Fatalf("%x is type %d with %d bytes", b[:recHeader], typ, n)
		}
	})
}

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// The wire must not change by accident: another program may be the other end.
func TestWireIsAsTheProtocolSays(t *testing.T) {
	var b strings.Builder
	add := func(name string, v []byte) { fmt.Fprintf(&b, "%s = %s\n", name, hex.EncodeToString(v)) }
	add(`OPEN tcp "db:5432"`, appendOpen(nil, kindTCP, "db:5432"))
	add(`OPEN udp "dns:53"`, appendOpen(nil, kindUDP, "dns:53"))
	add(`OPEN unix "/run/app.sock"`, appendOpen(nil, kindUnix, "/run/app.sock"))
	add(`OPEN service "lab7"`, appendOpen(nil, kindService, "lab7"))
	add(`OPEN control`, appendOpen(nil, kindControl, ""))
	add(`reply ok`, appendReply(nil, OK, ""))
	for _, s := range statuses {
		add(fmt.Sprintf("reply %d %q", s.status, s.text), appendReply(nil, s.status, s.text))
	}
	record := func(typ byte, body ...byte) []byte {
		h := make([]byte, recHeader)
		putRecord(h, typ, len(body))
		return append(h, body...)
	}
	add(`DATA "hello"`, record(recData, []byte("hello")...))
	add(`FIN`, record(recFIN))
	add(`RST code=1`, record(recRST, 0, 1))
	add(`NOOP`, record(recNoop))
	add(`RESET stream=3 code=1 on the control stream`, resetOnTheWire(t))

	const file = "testdata/golden.txt"
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, []byte(b.String()), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != b.String() {
		t.Errorf("%s says\n%s\nthe program sends\n%s", file, want, b.String())
	}
}

// resetOnTheWire returns what a session really writes to its control stream.
func resetOnTheWire(t *testing.T) []byte {
	t.Helper()
	s, raw := rawPeer(t, Config{}, true)
	control, err := raw.AcceptStream()
	if err != nil {
		t.Fatal(err)
	}
	if kind, _, err := readOpen(control); kind != kindControl || err != nil {
		t.Fatalf("the first stream is of kind %d, %v", kind, err)
	}
	control.Write(appendReply(nil, OK, ""))
	st, err := s.DialEarly(t.Context(), "tcp", "x:1")
	if err != nil {
		t.Fatal(err)
	}
	s.reset(st, ResetByPeer)
	st.Abort(nil)
	b := make([]byte, recHeader+resetLen)
	if _, err := io.ReadFull(control, b); err != nil {
		t.Fatal(err)
	}
	raw.Close()
	return b
}
