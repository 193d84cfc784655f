package integration

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"wstun/internal/impair"
)

// TestSurviveDesktop: a viewer that waits for the desktop to change is not
// disconnected by a cut, and sees what changes while there is no connection.
func TestSurviveDesktop(t *testing.T) {
	t.Parallel()
	desktop := startDesktop(t)
	drawnSnapshot(t, desktop)
	s := startServer(t, "--allow", desktop)
	r := impair.Listen(t, s.addr)
	c := startClient(t, "-L", "0:"+desktop, "ws://"+r.Addr())
	v := view(t, c.local(t, desktop))

	v.request(t, false)
	v.update(t)
	if n := v.colours(); n < manyColours {
		t.Fatalf("%d colours, want at least %d", n, manyColours)
	}
	want := bytes.Clone(v.pixels)
	for i := range 3 {
		r.Cut(impair.Reset)
		v.request(t, false)
		v.update(t)
		resumed(t, c.process, i+1)
		if !bytes.Equal(v.pixels, want) {
			t.Fatalf("after %d cuts the picture is another", i+1)
		}
	}

	// The pointer chooses who gets the keys. The change comes while the viewer,
	// which has asked for it, cannot be reached.
	v.request(t, true)
	r.Refuse(true)
	r.Cut(impair.Reset)
	c.awaitN(t, 4, "connection lost, resuming")
	v.click(t, desktopWidth/2, desktopHeight/2)
	v.keys(t, "wstun\r")
	r.Refuse(false)
	for v.share(0xff00ff) < 0.9 {
		v.update(t)
		v.request(t, true)
	}
	resumed(t, c.process, 4)
	neverEnds(t, c.process)
}

// A viewer speaks RFB (RFC 6143) over one connection, without compression.
type viewer struct {
	net.Conn
	pixels []byte // 4 bytes each: blue, green, red, nothing
}

// view connects a viewer, which shares the desktop with others.
func view(t testing.TB, addr string) *viewer {
	t.Helper()
	v := &viewer{Conn: dial(t, addr), pixels: make([]byte, 4*desktopWidth*desktopHeight)}
	v.read(t, 12) // ProtocolVersion
	v.write(t, "RFB 003.008\n")
	v.read(t, int(v.read(t, 1)[0])) // security types
	v.write(t, "\x01")              // None
	if result := v.read(t, 4); string(result) != "\x00\x00\x00\x00" {
		t.Fatalf("SecurityResult %x", result)
	}
	v.write(t, "\x01") // ClientInit: shared
	size := v.read(t, 4)
	if string(size) != string(v.words(desktopWidth, desktopHeight)) {
		t.Fatalf("the desktop is %x", size)
	}
	v.read(t, 16)                                         // its pixel format
	v.read(t, int(binary.BigEndian.Uint32(v.read(t, 4)))) // and name
	v.write(t, "\x00\x00\x00\x00"+                        // SetPixelFormat: 32 bits, little endian, true colour
		"\x20\x18\x00\x01\x00\xff\x00\xff\x00\xff\x10\x08\x00\x00\x00\x00")
	v.write(t, "\x02\x00\x00\x01\x00\x00\x00\x00") // SetEncodings: raw
	return v
}

func (v *viewer) words(list ...uint16) (b []byte) {
	for _, w := range list {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

func (v *viewer) read(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(v, b); err != nil {
		t.Fatalf("the viewer reads: %v", err)
	}
	return b
}

func (v *viewer) write(t testing.TB, b string) {
	t.Helper()
	if _, err := io.WriteString(v, b); err != nil {
		t.Fatalf("the viewer writes: %v", err)
	}
}

// request asks for all of the desktop, or, once it changes, for what changes.
func (v *viewer) request(t testing.TB, incremental bool) {
	t.Helper()
	kind := "\x03\x00"
	if incremental {
		kind = "\x03\x01"
	}
	v.write(t, kind+string(v.words(0, 0, desktopWidth, desktopHeight)))
}

// update takes the answer to a request into the picture.
func (v *viewer) update(t testing.TB) {
	t.Helper()
	for {
		switch kind := v.read(t, 1)[0]; kind {
		case 0: // FramebufferUpdate
			head := v.read(t, 3)
			for range binary.BigEndian.Uint16(head[1:]) {
				v.rectangle(t)
			}
			return
		case 2: // Bell
		case 3: // ServerCutText
			v.read(t, int(binary.BigEndian.Uint32(v.read(t, 7)[3:])))
		default:
			t.Fatalf("message %d of the VNC server", kind)
		}
	}
}

func (v *viewer) rectangle(t testing.TB) {
	t.Helper()
	head := v.read(t, 12)
	word := func(i int) int { return int(binary.BigEndian.Uint16(head[2*i:])) }
	x, y, width, height := word(0), word(1), word(2), word(3)
	if encoding := binary.BigEndian.Uint32(head[8:]); encoding != 0 || x+width > desktopWidth || y+height > desktopHeight {
		t.Fatalf("rectangle %x", head)
	}
	for row := y; row < y+height; row++ {
		copy(v.pixels[4*(row*desktopWidth+x):], v.read(t, 4*width))
	}
}

func (v *viewer) click(t testing.TB, x, y uint16) {
	t.Helper()
	for _, buttons := range []string{"\x00", "\x01", "\x00"} {
		v.write(t, "\x05"+buttons+string(v.words(x, y)))
	}
}

// keys types ASCII.
func (v *viewer) keys(t testing.TB, text string) {
	t.Helper()
	for _, key := range []byte(text) {
		if key == '\r' {
			v.key(t, 0xff, key) // XK_Return
		} else {
			v.key(t, 0, key)
		}
	}
}

func (v *viewer) key(t testing.TB, page, key byte) {
	t.Helper()
	for _, down := range []byte{1, 0} {
		v.write(t, string([]byte{4, down, 0, 0, 0, 0, page, key}))
	}
}

// colour is that of the pixel that begins at i, red first.
func (v *viewer) colour(i int) uint32 { return binary.LittleEndian.Uint32(v.pixels[i:]) & 0xffffff }

func (v *viewer) colours() int {
	seen := make(map[uint32]bool)
	for i := 0; i < len(v.pixels); i += 4 {
		seen[v.colour(i)] = true
	}
	return len(seen)
}

// share is how much of the picture has a colour, from 0 to 1.
func (v *viewer) share(colour uint32) float64 {
	n := 0
	for i := 0; i < len(v.pixels); i += 4 {
		if v.colour(i) == colour {
			n++
		}
	}
	return float64(n) / float64(len(v.pixels)/4)
}
