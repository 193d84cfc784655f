package integration

import (
	"bufio"
	"fmt"
	"image"
	"image/jpeg"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The desktop that VNC shows. Its one terminal fills it with colours.
const (
	desktopWidth  = 640
	desktopHeight = 480
	// manyColours is what no blank or half drawn desktop has: the sheet has 240.
	manyColours = 200
)

// startDesktop runs a VNC server with something to see and gives its address.
func startDesktop(t testing.TB) (addr string) {
	t.Helper()
	needs(t, "Xvnc", "xterm")
	port := freePort(t)
	// The X server itself picks a display that nobody has and says which:
	// the number of a port says nothing about displays.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("Xvnc", "-displayfd", "3",
		"-rfbport", strconv.Itoa(port), "-localhost", "-SecurityTypes", "None", "-AlwaysShared",
		"-geometry", fmt.Sprintf("%dx%d", desktopWidth, desktopHeight), "-depth", "24",
		"-nolisten", "tcp", "-noreset", "-ac")
	cmd.ExtraFiles = []*os.File{w}
	x := startCommand(t, cmd)
	w.Close()
	r.SetReadDeadline(time.Now().Add(patience))
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvnc did not start: %v", err)
	}
	x.await(t, "Listening for VNC connections", strconv.Itoa(port))

	screen, err := filepath.Abs("testdata/screen.sh")
	if err != nil {
		t.Fatal(err)
	}
	// Larger than the desktop, and "fixed" is the one font every X server has.
	start(t, "xterm", "-display", ":"+strings.TrimSpace(number), "-geometry", "120x40+0+0",
		"-fn", "fixed", "-b", "0", "+sb", "-bg", "black", "-fg", "white", "-e", screen)
	return loopback(port)
}

// keepScreenshot stores a picture where the tester asked for it.
func keepScreenshot(t testing.TB, name string, picture []byte) {
	t.Helper()
	dir := os.Getenv("WSTUN_SCREENSHOTS")
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), picture, 0o666); err != nil {
		t.Fatal(err)
	}
}

// snapshot takes a picture of a VNC server with vncsnapshot.
func snapshot(t testing.TB, addr string) image.Image {
	t.Helper()
	needs(t, "vncsnapshot")
	_, port, _ := strings.Cut(addr, ":")
	file := filepath.Join(t.TempDir(), "desktop.jpg")
	// After two colons it is a port and not a display. With other encodings
	// than raw it stumbles over what TigerVNC sends and waits for ever; raw
	// also carries the most bytes.
	code, out := run(t, "vncsnapshot", "-quiet", "-encodings", "raw", "-quality", "100", "127.0.0.1::"+port, file)
	if code != 0 {
		t.Fatalf("vncsnapshot: exit code %d: %s", code, out)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := jpeg.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

// drawnSnapshot is a snapshot taken straight from the VNC server, once the
// terminal has filled the desktop.
func drawnSnapshot(t testing.TB, addr string) (picture image.Image) {
	t.Helper()
	eventually(t, "the desktop shows many colours", func() bool {
		before := picture
		picture = snapshot(t, addr)
		return colours(picture) >= manyColours && before != nil && difference(picture, before) == 0
	})
	return picture
}

func colours(m image.Image) int {
	seen := make(map[[3]uint32]bool)
	b := m.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, b, _ := m.At(x, y).RGBA()
			seen[[3]uint32{r, g, b}] = true
		}
	}
	return len(seen)
}

// difference is the mean difference of two pictures, from 0 to 1.
func difference(a, b image.Image) float64 {
	if a.Bounds() != b.Bounds() {
		return 1
	}
	var sum, n float64
	box := a.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			r1, g1, b1, _ := a.At(x, y).RGBA()
			r2, g2, b2, _ := b.At(x, y).RGBA()
			for _, d := range [][2]uint32{{r1, r2}, {g1, g2}, {b1, b2}} {
				sum += float64(max(d[0], d[1]) - min(d[0], d[1]))
				n += 0xffff
			}
		}
	}
	return sum / n
}
