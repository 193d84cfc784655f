package server

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const outside = "a byte of a file outside the root"

// webRoot is a folder of web pages with traps in and around it.
func webRoot(t testing.TB) *os.Root {
	t.Helper()
	dir := t.TempDir()
	web := filepath.Join(dir, "web")
	for name, content := range map[string]string{
		"secret.txt":                       outside,
		"secrets/index.html":               outside,
		"web-private/x.txt":                outside,
		"web/.htpasswd":                    outside,
		"web/.git/config":                  outside,
		"web/app/.env":                     outside,
		"web/.well-known/.hidden":          outside,
		"web/.well-known-not/x.txt":        outside,
		"web/index.html":                   "<!doctype html>start",
		"web/vnc.html":                     "<!doctype html>vnc",
		"web/app/index.html":               "app",
		"web/app/ui.JS":                    "ui",
		"web/core/rfb.js":                  "rfb",
		"web/odd:name/index.html":          "odd",
		"web/noext":                        "<html><script>x</script>",
		"web/strange.xyz":                  "<html><script>x</script>",
		"web/.well-known/security.txt":     "contact",
		"web/.well-known/acme/index.html":  "acme",
		"web/folder/index.html/deeper.txt": "a folder of that name",
	} {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"inside.js":   "core/rfb.js",
		"leaves.txt":  "../secret.txt",
		"leaves":      "../secrets",
		"absolute":    filepath.Join(dir, "secret.txt"),
		"top":         "/",
		"loop":        "loop",
		"leaves.html": "core/../../secret.txt",
	} {
		if err := os.Symlink(to, filepath.Join(web, name)); err != nil {
			t.Skip(err)
		}
	}
	root, err := os.OpenRoot(web)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func get(root *os.Root, path string, header ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.URL = &url.URL{Path: path}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	files(root).ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFiles(t *testing.T) {
	const html, js = "text/html; charset=utf-8", "text/javascript; charset=utf-8"
	root := webRoot(t)
	for _, test := range []struct {
		path   string
		status int
		kind   string
		body   string // or Location
	}{
		{"/", 200, html, "<!doctype html>start"},
		{"", 200, html, "<!doctype html>start"},
		{"/vnc.html", 200, html, "<!doctype html>vnc"},
		{"/core/rfb.js", 200, js, "rfb"},
		{"/app/", 200, html, "app"},
		{"/app/index.html", 200, html, "app"},
		{"/app/ui.JS", 200, js, "ui"},
		{"/app", 302, "", "./app/"},
		{"/odd:name", 302, "", "./odd:name/"},
		{"/.well-known/acme", 302, "", "./acme/"},
		{"/noext", 200, "application/octet-stream", "<html><script>x</script>"},
		{"/strange.xyz", 200, "application/octet-stream", "<html><script>x</script>"},
		{"/inside.js", 200, js, "rfb"},
		{"/.well-known/security.txt", 200, "text/plain; charset=utf-8", "contact"},

		{"/nothing", 404, "", ""},
		{"/vnc.html/", 404, "", ""},
		{"/core", 404, "", ""},  // no listing
		{"/core/", 404, "", ""}, // no listing
		{"/folder/", 404, "", ""},
		{"/.htpasswd", 404, "", ""},
		{"/.git/config", 404, "", ""},
		{"/app/.env", 404, "", ""},
		{"/.well-known/.hidden", 404, "", ""},
		{"/.well-known-not/x.txt", 404, "", ""},
		{"/leaves.txt", 404, "", ""},
		{"/leaves.html", 404, "", ""},
		{"/leaves/", 404, "", ""},
		{"/leaves", 404, "", ""},
		{"/absolute", 404, "", ""},
		{"/top/etc/passwd", 404, "", ""},
		{"/loop", 404, "", ""},
		{"/../secret.txt", 404, "", ""},
		{"/app/../../secret.txt", 404, "", ""},
		{"/app/../vnc.html", 404, "", ""},
		{"/./vnc.html", 404, "", ""},
		{"//vnc.html", 404, "", ""},
		{"//", 404, "", ""},
		{"/app//", 404, "", ""},
		{"/..\\secret.txt", 404, "", ""},
		{"/vnc.html\x00", 404, "", ""},
		{"/\xff", 404, "", ""},
		{"/" + strings.Repeat("x", 5000), 404, "", ""},
	} {
		t.Run(fmt.Sprintf("%.40q", test.path), func(t *testing.T) {
			r := get(root, test.path)
			got := body(t, r)
			if r.StatusCode != test.status {
				t.Fatalf("status %d, want %d", r.StatusCode, test.status)
			}
			if has(root, test.path) != (test.status != 404) {
				t.Errorf("has says %v", has(root, test.path))
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Content-Security-Policy": ""} {
				if v := r.Header.Get(name); v != want {
					t.Errorf("%s: %q, want %q", name, v, want)
				}
			}
			switch test.status {
			case 200:
				if got != test.body || r.Header.Get("Content-Type") != test.kind {
					t.Errorf("got %q of type %q", got, r.Header.Get("Content-Type"))
				}
			case 302:
				if l := r.Header.Get("Location"); l != test.body {
					t.Errorf("location %q, want %q", l, test.body)
				}
			}
		})
	}
}

func TestFilesKeepTheQuery(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/app?path=vnc&x=%20", nil)
	w := httptest.NewRecorder()
	files(webRoot(t)).ServeHTTP(w, r)
	if l := w.Header().Get("Location"); l != "./app/?path=vnc&x=%20" {
		t.Errorf("location %q", l)
	}
}

func TestFilesMethods(t *testing.T) {
	root := webRoot(t)
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 405, "TRACE": 405} {
		t.Run(method, func(t *testing.T) {
			w := httptest.NewRecorder()
			files(root).ServeHTTP(w, httptest.NewRequest(method, "/vnc.html", nil))
			if w.Code != want || want == 405 && w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("status %d, want %d; allow %q", w.Code, want, w.Header().Get("Allow"))
			}
			if method == "HEAD" && w.Body.Len() != 0 {
				t.Errorf("body %q", w.Body)
			}
		})
	}
}

func TestFilesAreCached(t *testing.T) {
	root := webRoot(t)
	first := get(root, "/core/rfb.js")
	tag, modified := first.Header.Get("ETag"), first.Header.Get("Last-Modified")
	for _, test := range []struct {
		name   string
		header []string
		status int
		body   string
	}{
		{"same tag", []string{"If-None-Match", tag}, 304, ""},
		{"other tag", []string{"If-None-Match", `"x"`}, 200, "rfb"},
		{"not modified", []string{"If-Modified-Since", modified}, 304, ""},
		{"range", []string{"Range", "bytes=1-"}, 206, "fb"},
		{"range of another version", []string{"Range", "bytes=1-", "If-Range", `"x"`}, 200, "rfb"},
		{"range beyond", []string{"Range", "bytes=9-"}, 416, "invalid range: failed to overlap\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := get(root, "/core/rfb.js", test.header...)
			if got := body(t, r); r.StatusCode != test.status || got != test.body {
				t.Errorf("got %d %q, want %d %q", r.StatusCode, got, test.status, test.body)
			}
		})
	}
}

// The open of a fifo would wait for somebody to write to it.
func TestFilesDoNotHangOnSpecialFiles(t *testing.T) {
	root := webRoot(t)
	mkfifo, err := exec.LookPath("mkfifo")
	if err != nil {
		t.Skip(err)
	}
	for _, name := range []string{"fifo.html", "core/index.html"} {
		if out, err := exec.Command(mkfifo, filepath.Join(root.Name(), name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, path := range []string{"/fifo.html", "/core/", "/core"} {
		if r := get(root, path); r.StatusCode != 404 || has(root, path) {
			t.Errorf("%s: %d, has %v", path, r.StatusCode, has(root, path))
		}
	}
	// As if it had replaced a file after locate had looked.
	w := httptest.NewRecorder()
	serveFile(w, httptest.NewRequest(http.MethodGet, "/fifo.html", nil), root, "fifo.html")
	if w.Code != 404 {
		t.Errorf("opened: %d", w.Code)
	}
}

func FuzzStaticPath(f *testing.F) {
	for _, path := range []string{"/", "/vnc.html", "/app", "/leaves.txt", "/leaves/", "/top/etc/passwd", "/../secret.txt",
		"/%2e%2e/secret.txt", "/..\\secret.txt", "/.well-known/../.htpasswd", "//secret.txt", "/absolute", "/loop", "/app/.env", "/./.git/config"} {
		f.Add(path)
	}
	root := webRoot(f)
	f.Fuzz(func(t *testing.T, path string) {
		r := get(root, path)
		if strings.Contains(body(t, r), outside) {
			t.Fatalf("%q was served", path)
		}
		found := r.StatusCode == http.StatusOK || r.StatusCode == http.StatusFound
		if !found && r.StatusCode != http.StatusNotFound || found != has(root, path) {
			t.Errorf("status %d, has %v", r.StatusCode, has(root, path))
		}
		// A redirect stays where it was, whatever the path looks like.
		if l := r.Header.Get("Location"); l != "" && (!strings.HasPrefix(l, "./") || strings.ContainsAny(l, "\\\r\n")) {
			t.Errorf("location %q", l)
		}
	})
}
