package server

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// contentTypes is what web pages and noVNC are made of. What a file is must not
// depend on the machine's MIME tables, and never on what is in it.
var contentTypes = map[string]string{
	".css":         "text/css; charset=utf-8",
	".gif":         "image/gif",
	".htm":         "text/html; charset=utf-8",
	".html":        "text/html; charset=utf-8",
	".ico":         "image/x-icon",
	".jpeg":        "image/jpeg",
	".jpg":         "image/jpeg",
	".js":          "text/javascript; charset=utf-8",
	".json":        "application/json",
	".map":         "application/json",
	".md":          "text/plain; charset=utf-8",
	".mjs":         "text/javascript; charset=utf-8",
	".mp3":         "audio/mpeg",
	".oga":         "audio/ogg",
	".ogg":         "audio/ogg",
	".pdf":         "application/pdf",
	".png":         "image/png",
	".svg":         "image/svg+xml",
	".ttf":         "font/ttf",
	".txt":         "text/plain; charset=utf-8",
	".wasm":        "application/wasm",
	".wav":         "audio/wav",
	".webmanifest": "application/manifest+json",
	".webp":        "image/webp",
	".woff":        "font/woff",
	".woff2":       "font/woff2",
	".xml":         "text/xml; charset=utf-8",
}

// files serves what is below root to GET and HEAD, by the request's path. The
// caller closes root, after the last request.
//
// There are no listings, no dotfiles but /.well-known/, and no way out of root.
// There is no Content-Security-Policy either: the pages are the operator's, and
// noVNC's vnc.html has an inline module.
func files(root *os.Root) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
			return
		}
		name, moved, ok := locate(root, r.URL.Path)
		if ok && moved {
			// Relative, since a proxy may have stripped a prefix; "./", since a name may contain a colon.
			to := url.URL{Path: "./" + path.Base(r.URL.Path) + "/", RawQuery: r.URL.RawQuery}
			h.Set("Location", to.String())
			w.WriteHeader(http.StatusFound)
			return
		}
		if !ok {
			http.Error(w, "no such file", http.StatusNotFound)
			return
		}
		serveFile(w, r, root, name)
	})
}

func serveFile(w http.ResponseWriter, r *http.Request, root *os.Root, name string) {
	// What locate saw may have been replaced by a fifo, of which Open would wait for a writer.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	kind := contentTypes[strings.ToLower(path.Ext(name))]
	if kind == "" {
		kind = "application/octet-stream"
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	h.Set("Cache-Control", "no-cache") // kept, but asked for each time: scripts must be of one version
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// has reports whether files would answer a GET of urlPath with a file, or with
// the way to one.
func has(root *os.Root, urlPath string) bool {
	_, _, ok := locate(root, urlPath)
	return ok
}

// locate finds the regular file for urlPath: itself, or the index.html of a
// folder. moved says that it is a folder's and urlPath lacks the slash at the
// end without which the page's relative links would lead astray.
func locate(root *os.Root, urlPath string) (name string, moved, ok bool) {
	name, slash := strings.CutSuffix(strings.TrimPrefix(urlPath, "/"), "/")
	if name == "" {
		name, slash = ".", true
	}
	if urlPath == "//" || !servable(name) {
		return "", false, false
	}
	info, err := root.Stat(name) // follows symlinks, but not out of root
	if err != nil {
		return "", false, false
	}
	if !info.IsDir() {
		return name, false, info.Mode().IsRegular() && !slash
	}
	name = path.Join(name, "index.html")
	info, err = root.Stat(name)
	return name, !slash, err == nil && info.Mode().IsRegular()
}

// servable keeps out every spelling but the plain one, and dotfiles.
func servable(name string) bool {
	if !fs.ValidPath(name) || !filepath.IsLocal(name) || strings.ContainsAny(name, "\\\x00") {
		return false
	}
	name = strings.TrimPrefix(name+"/", ".well-known/")
	return name == "./" || !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.")
}
