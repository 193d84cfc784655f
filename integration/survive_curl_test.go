package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wstun/internal/impair"
)

// TestSurviveDownload: curl, which does not know how to go on with what broke
// off, downloads a large file while the WebSocket is cut again and again.
func TestSurviveDownload(t *testing.T) {
	t.Parallel()
	const size = 256 << 20
	needs(t, "curl", "/usr/bin/python3")
	dir := t.TempDir()
	digest := writeNoise(t, filepath.Join(dir, "large"), 32, size)
	port := freePort(t)
	target := loopback(port)
	web := start(t, "/usr/bin/python3", "-u", "-m", "http.server", fmt.Sprint(port), "--bind", "127.0.0.1", "--directory", dir)
	web.await(t, "Serving HTTP")

	s := startServer(t, "--allow", target)
	r := impair.Listen(t, s.addr)
	c := startClient(t, "-L", "0:"+target, "ws://"+r.Addr())
	r.CutEvery(100*time.Millisecond, 500*time.Millisecond, impair.Reset)
	h := sha256.New()
	// Six seconds at least, at that rate.
	curl := pipeline(t, nil, h, "curl", "-sS", "--limit-rate", "42M", "http://"+c.local(t, target)+"/large")
	if code := curl.exit(t); code != 0 {
		t.Fatalf("curl: exit code %d: %s", code, curl.output())
	}
	r.CutEvery(0, 0, impair.Reset)
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != digest {
		t.Errorf("digest %.8s, want %.8s", got, digest)
	}
	if n := strings.Count(web.output(), "GET /large"); n != 1 {
		t.Errorf("%d requests for the file, want one", n)
	}
	for _, line := range c.awaitN(t, 10, "resumed after", "nothing lost") {
		t.Log(strings.TrimSpace(line))
	}
	neverEnds(t, c.process)
}

// writeNoise makes a file and gives its digest.
func writeNoise(t testing.TB, path string, seed uint64, n int64) (digest string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := drain(io.TeeReader(noise(seed, n), f))
	if r.n != n {
		t.Fatalf("wrote %d bytes of %d: %v", r.n, n, r.err)
	}
	return r.digest
}
