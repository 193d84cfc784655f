package integration

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestREADME types what README.md prints and checks that bytes get through. The
// words, their order and the flags are as printed; only what names the world
// around is another, see reader.here.
func TestREADME(t *testing.T) {
	blocks := readmeBlocks(t)
	seen := make(map[string]bool)
	for _, b := range blocks {
		seen[b.section] = true
		if b.language == "sh" && uses[b.section] == nil {
			t.Errorf("README.md, %q: nobody tests its commands", b.section)
		}
	}
	for section, use := range uses {
		if !seen[section] {
			t.Errorf("README.md has no commands under %q", section)
			continue
		}
		t.Run(section, func(t *testing.T) {
			r := newReader(t)
			for _, b := range blocks {
				if b.section == section {
					r.blocks = append(r.blocks, b)
				}
			}
			use(r)
			if len(r.blocks) > 0 {
				t.Errorf("not tested: %q", r.blocks)
			}
		})
	}
}

// uses are the headings of README.md with commands under them, and what must
// be so after these.
var uses = map[string]func(*reader){
	"wstun":                   (*reader).session,
	"Try it":                  (*reader).try,
	"Install":                 (*reader).install,
	"From a browser":          (*reader).browser,
	"From a TCP-only program": (*reader).program,
	"Through an HTTP proxy":   (*reader).proxied,
	"ssh":                     (*reader).ssh,
	"Users and TLS":           (*reader).users,
}

// A block is what stands between two fences.
type block struct{ section, language, text string }

func readmeBlocks(t testing.TB) (blocks []block) {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	section, in := "", false
	for line := range strings.Lines(string(text)) {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && in:
			in = false
		case isFence:
			in = true
			blocks = append(blocks, block{section, strings.TrimSpace(fence), ""})
		case in:
			blocks[len(blocks)-1].text += line
		case strings.HasPrefix(line, "#"):
			section = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	return blocks
}

// A reader does what is printed, block by block.
type reader struct {
	*testing.T
	blocks  []block
	dir     string // where it types
	env     []string
	addr    string // of the server that the present block starts
	local   string // of its client's forward
	user    string // that the server takes the client for
	vnc, db string
	here    map[string]string
}

func newReader(t *testing.T) *reader {
	r := &reader{T: t, dir: t.TempDir(), user: "anonymous"}
	bin := t.TempDir()
	if err := os.Symlink(program(t), bin+"/wstun"); err != nil {
		t.Fatal(err)
	}
	r.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
	r.vnc = echoTarget(t)
	r.db = listen(t, func(c *net.TCPConn) { io.WriteString(c, "db") })
	r.addr, r.local = loopback(freePort(t)), loopback(freePort(t))
	_, port, _ := net.SplitHostPort(r.local)
	web := t.TempDir()
	writeFile(t, web, "vnc.html", "the desktop")
	r.here = map[string]string{
		"-L 5900:":         "-L " + port + ":",
		"vnc:5900":         r.vnc,
		"db:5432":          r.db,
		"--listen :8080":   "--listen " + r.addr,
		"--listen :8443":   "--listen " + r.addr,
		"//host:8080":      "//" + r.addr,
		"//host:8443":      "//" + r.addr,
		"/usr/share/novnc": web,
	}
	return r
}

// next takes the next block, which must be in the given language, as it reads here.
func (r *reader) next(language string) string {
	r.Helper()
	if len(r.blocks) == 0 || r.blocks[0].language != language {
		r.Fatalf("a block in %s should come next: %q", language, r.blocks)
	}
	text := r.blocks[0].text
	r.blocks = r.blocks[1:]
	printed := make([]string, 0, len(r.here))
	for p := range r.here {
		printed = append(printed, p)
	}
	slices.SortFunc(printed, func(a, b string) int { return len(b) - len(a) }) // -L 5900: before 5900
	for _, p := range printed {
		text = strings.ReplaceAll(text, p, r.here[p])
	}
	return text
}

// commands takes the next block and gives its commands; they have a line each.
func (r *reader) commands(want ...string) []string {
	r.Helper()
	var list []string
	for line := range strings.Lines(r.next("sh")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	if len(list) != len(want) {
		r.Fatalf("commands %q, want %d", list, len(want))
	}
	for i, prefix := range want {
		if !strings.HasPrefix(list[i]+" ", prefix+" ") {
			r.Fatalf("the command %q, want %q", list[i], prefix)
		}
	}
	return list
}

// command is one that a shell reads.
func (r *reader) command(line string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", "exec "+line)
	cmd.Env, cmd.Dir = r.env, r.dir
	return cmd
}

// server starts one and waits until it listens.
func (r *reader) server(line string) *process {
	r.Helper()
	p := startCommand(r, r.command(line))
	endsInOrder(r, p)
	p.await(r, "listening", "addr="+r.addr)
	return p
}

// client starts one and checks that an echo is behind its forward.
func (r *reader) client(line string) {
	r.Helper()
	p := startCommand(r, r.command(line))
	endsInOrder(r, p)
	p.await(r, "connected", "user="+r.user)
	p.await(r, "forwarding", "from="+r.local)
	roundTrip(r, "tcp", r.local)
	p.stop(r)
}

func (r *reader) session() {
	c := r.commands("wstun server", "wstun client")
	s := &server{r.server(c[0]), r.addr}
	r.page(s)
	r.client(c[1])
}

// page checks what a browser gets of the server with --target and --web.
func (r *reader) page(s *server) {
	r.Helper()
	if status, body := r.get(s.http() + "/vnc.html"); status != 200 || body != "the desktop" {
		r.Errorf("vnc.html: %d %q", status, body)
	}
	s.serves(r)
}

func (r *reader) get(url string) (status int, body string) {
	r.Helper()
	resp, err := http.Get(url)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// recipes gives what make would run; make itself would take this very test.
func (r *reader) recipes(want ...string) (recipes []string) {
	r.Helper()
	needs(r, "make")
	r.env = append(r.env, "HOME="+os.Getenv("HOME"))
	for _, line := range r.commands(want...) {
		cmd := r.command(line + " -n -C " + r.root())
		p := startCommand(r, cmd)
		if code := p.exit(r); code != 0 {
			r.Errorf("%s -n: exit code %d", line, code)
		}
		recipes = append(recipes, p.output())
	}
	return recipes
}

func (r *reader) root() string {
	dir, err := filepath.Abs("..")
	if err != nil {
		r.Fatal(err)
	}
	return dir
}

func (r *reader) try() {
	recipes := r.recipes("make", "make")
	if !strings.Contains(recipes[0], "wstun demo\n") {
		r.Errorf("make demo runs\n%s", recipes[0])
	}
	if !contains(recipes[1], "go vet", "go test", "./integration") {
		r.Errorf("make test runs\n%s", recipes[1])
	}
	if code, out := run(r, program(r), "demo", "--once"); code != 0 || strings.Count(out, "  ok  ") != 2 {
		r.Errorf("wstun demo --once: exit code %d\n%s", code, out)
	}
}

func (r *reader) install() {
	recipes := r.recipes("make install", "make install")
	for i, to := range []string{"/usr/local/bin/wstun", os.Getenv("HOME") + "/.local/bin/wstun"} {
		if !strings.Contains(recipes[i], `"`+to+`"`) {
			r.Errorf("nothing is installed as %s:\n%s", to, recipes[i])
		}
	}
}

func (r *reader) browser() {
	s := &server{r.server(r.commands("wstun server")[0]), r.addr}
	r.page(s)
	r.script(r.next("js"))
	if status, _ := refusedWS(r, s.ws(), withHeader("Origin", "https://page.example")); status != 403 {
		r.Errorf("a page from elsewhere: %d, want 403", status)
	}
	s.stop(r)

	cert := r.certificate("localhost")
	r.here["cert.pem"], r.here["key.pem"] = cert.file, cert.keyFile
	s = &server{r.server(r.commands("wstun server")[0]), r.addr}
	roundTripWS(r, s.wss(), withHeader("Origin", "https://page.example"))
	if status, _ := refusedWS(r, s.wss(), withHeader("Origin", "https://other.example")); status != 403 {
		r.Errorf("a page from an origin that is not named: %d, want 403", status)
	}
	s.stop(r)

	s = &server{r.server(r.commands("wstun server")[0]), r.addr}
	roundTripWS(r, s.ws()+"/vnc")
	b := make([]byte, 2)
	if _, err := io.ReadFull(dialWS(r, s.ws()+"/db"), b); err != nil || string(b) != "db" {
		r.Errorf("/db says %q, %v", b, err)
	}
	if status, body := r.get(s.http() + "/vnc"); status != 426 || body == "" {
		r.Errorf("/vnc as a page: %d %q, want 426", status, body)
	}
}

func roundTripWS(t testing.TB, url string, options ...dialOption) {
	t.Helper()
	c := dialWS(t, url, options...)
	if err := exchange(c, 2, 50_000); err != nil {
		t.Errorf("through %s: %v", url, err)
	}
	c.closeWith(t, 1000)
}

// script runs what a page would, with the WebSocket of node's ws.
func (r *reader) script(text string) {
	r.Helper()
	needs(r, "node")
	needsModule(r, "ws")
	modules, err := filepath.Abs("node_modules/ws")
	if err != nil {
		r.Fatal(err)
	}
	file := writeFile(r, r.dir, "page.cjs", fmt.Sprintf("globalThis.WebSocket = require(%q);\n%s\n%s", modules, text,
		`ws.onopen = () => ws.send("w"); ws.addEventListener("message", () => ws.close(1000));`))
	p := start(r, "node", file)
	p.await(r, "[ 119 ]")
	if p.await(r, "1000"); p.exit(r) != 0 {
		r.Error("the script failed")
	}
}

func (r *reader) program() {
	c := r.commands("wstun server", "wstun client")
	r.server(c[0])
	r.client(c[1])
}

func (r *reader) proxied() {
	cert := r.certificate("host")
	secure := startServer(r, "--allow", r.vnc, "--tls-cert", cert.file, "--tls-key", cert.keyFile)
	plain := startServer(r, "--allow", r.vnc, "--host", "host")
	asked := make(chan string, 100)
	proxy := connectProxy(r, "user", "pass", map[string]string{"host:8080": plain.addr, "host:443": secure.addr}, asked)
	delete(r.here, "//host:8080") // the proxy knows host
	r.here["proxy:3128"] = proxy

	r.client(r.commands("wstun client")[0])
	if got := <-asked; got != "host:8080" {
		r.Errorf("the proxy was asked for %q", got)
	}
	c := r.commands("export", "wstun client")
	r.env = append(r.env, strings.TrimPrefix(c[0], "export "), "SSL_CERT_FILE="+cert.file)
	r.client(c[1])
	if got := <-asked; got != "host:443" {
		r.Errorf("the proxy was asked for %q", got)
	}
}

// connectProxy answers CONNECT for the names it knows, if user and password
// are right, and says what it was asked for.
func connectProxy(t testing.TB, user, password string, names map[string]string, asked chan<- string) (addr string) {
	want := &http.Request{Header: http.Header{}}
	want.SetBasicAuth(user, password)
	return listen(t, func(c *net.TCPConn) {
		var head []byte // byte by byte: what follows is not the proxy's
		for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b[0]) {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
		}
		method, rest, _ := strings.Cut(string(head), " ")
		name, _, _ := strings.Cut(rest, " ")
		if method != "CONNECT" || !strings.Contains(rest, "Proxy-Authorization: "+want.Header.Get("Authorization")+"\r\n") {
			io.WriteString(c, "HTTP/1.1 407 no\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
			return
		}
		asked <- name
		there, err := dialTCP(names[name])
		if err != nil {
			io.WriteString(c, "HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n")
			return
		}
		defer there.Close()
		io.WriteString(c, "HTTP/1.1 200 ok\r\n\r\n")
		go func() { io.Copy(there, c); there.CloseWrite() }()
		io.Copy(c, there)
	})
}

// certificate makes one for a name, and its own authority.
func (r *reader) certificate(name string) *certificate {
	r.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		r.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.Fatal(err)
	}
	write := func(file, kind string, der []byte) string {
		return writeFile(r, r.dir, file, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	return &certificate{write(name+".pem", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", private)}
}

// ssh is Debian's, with a configuration that says what db1 is.
func (r *reader) ssh() {
	sshd := startSSHD(r)
	config := fmt.Sprintf("Host db1\n  HostName 127.0.0.1\n  Port %s\n  User %s\n", sshd.port, strings.TrimSuffix(sshd.host, "@127.0.0.1"))
	options := sshd.options("")
	for i := 3; i < len(options); i += 2 { // -F none -o NAME=VALUE -o …
		name, value, _ := strings.Cut(options[i], "=")
		if name != "ProxyCommand" && name != "Port" {
			config += "  " + name + " " + value + "\n"
		}
	}
	bin, real := r.TempDir(), lookPath(r, "ssh")
	writeFile(r, bin, "ssh", fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\" 'echo $((6 * 7))'\n", real, writeFile(r, r.dir, "config", config)))
	if err := os.Chmod(bin+"/ssh", 0o700); err != nil {
		r.Fatal(err)
	}
	r.here["db1:22"] = sshd.addr
	c := r.commands("wstun server", "ssh")
	r.server(c[0])
	r.env[0] = strings.Replace(r.env[0], "PATH=", "PATH="+bin+":", 1)
	p := startCommand(r, r.command(c[1]))
	if code := p.exit(r); code != 0 || !strings.Contains(p.output(), "42\n") {
		r.Errorf("ssh: exit code %d and %q, want 42", code, p.output())
	}
}

var (
	tokenPattern = regexp.MustCompile(`(?m)^wstun_\w+$`)
	sumPattern   = regexp.MustCompile(`sha256: (\w{64})`)
)

func (r *reader) users() {
	c := r.commands("wstun token", "wstun hash-password")
	p := startCommand(r, r.command(c[0]))
	p.exit(r)
	token, sum := tokenPattern.FindString(p.output()), sumPattern.FindStringSubmatch(p.output())
	if token == "" || sum == nil {
		r.Fatalf("%s printed %q", c[0], p.output())
	}
	var hash strings.Builder
	cmd := r.command(c[1])
	cmd.Stdin, cmd.Stdout = strings.NewReader("secret\n"), &hash
	startCommand(r, cmd).exit(r)

	r.here["$2a$10$..."] = strings.TrimSpace(hash.String())
	r.here["sha256: ..."] = "sha256: " + sum[1]
	writeFile(r, r.dir, "users.yaml", r.next("yaml"))
	writeFile(r, r.dir, "lab7.token", token+"\n")
	writeFile(r, r.dir, "FILE", "secret\n")
	c = r.commands("wstun server", "wstun client")
	r.user = "lab7"
	s := r.server(c[0])
	pin := capture(r, regexp.MustCompile(`--tls-pin (sha256/[\w+/=]+)`), s.await(r, "self-signed"))
	c[1] = strings.Replace(c[1], "sha256/...", pin, 1)
	r.client(c[1])
	r.client(strings.Replace(c[1], "--token-file lab7.token", "--user lab7 --password-file FILE", 1))
}

// TestDocumentsNameWhatExists: every command and flag that the documents name
// is one of the program's, and every file they point to is there.
func TestDocumentsNameWhatExists(t *testing.T) {
	_, help := run(t, program(t), "help")
	_, list, _ := strings.Cut(help, "Commands:\n")
	flags := map[string]string{"": ""} // by command; "": of any
	for line := range strings.Lines(list) {
		if words := strings.Fields(line); len(words) > 1 && words[0] != "wstun" {
			_, text := run(t, program(t), "help", words[0])
			flags[words[0]] = text
			flags[""] += text
		}
	}
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil || len(flags) < 5 {
		t.Fatal(err, flags)
	}
	for _, name := range append(documents, "../README.md", "../CHANGELOG.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range codeIn(string(text)) {
			for _, wrong := range unknownIn(code, flags) {
				t.Errorf("%s: %s in %q", name, wrong, code)
			}
		}
		for _, link := range linkPattern.FindAllStringSubmatch(string(text), -1) {
			file, _, _ := strings.Cut(link[1], "#")
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), file)); file != "" && !strings.Contains(file, "://") && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

var (
	spanPattern    = regexp.MustCompile("`[^`]+`")
	commandPattern = regexp.MustCompile(`\bwstun ([a-z][a-z-]*)((?: [^'|&\n]*)?)`)
	flagPattern    = regexp.MustCompile(`(?:^|[\s'"])(--?[A-Za-z][A-Za-z-]*)`)
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// codeIn gives the lines of a document's blocks of code, and what stands in
// back quotes.
func codeIn(text string) (code []string) {
	var prose strings.Builder
	in := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			in = !in
		case in || strings.HasPrefix(line, "    "):
			code = append(code, strings.TrimSpace(line))
		default:
			prose.WriteString(line)
		}
	}
	for _, span := range spanPattern.FindAllString(prose.String(), -1) {
		code = append(code, strings.Trim(span, "`"))
	}
	return code
}

// unknownIn gives the commands and flags in code that the program lacks. Flags
// that follow another program's name are that program's.
func unknownIn(code string, flags map[string]string) (wrong []string) {
	check := func(command, text string) {
		for _, f := range flagPattern.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)(^|[ ,])` + regexp.QuoteMeta(f[1]) + `([ ,…]|$)`).MatchString(flags[command]) {
				wrong = append(wrong, "no flag "+f[1])
			}
		}
	}
	if strings.HasPrefix(code, "-") {
		check("", code)
	}
	for _, c := range commandPattern.FindAllStringSubmatch(code, -1) {
		if flags[c[1]] == "" {
			wrong = append(wrong, "no command "+c[1])
			continue
		}
		check(c[1], c[2])
	}
	return wrong
}

// TestDependenciesAreExplained: docs/dependencies.md has a line for everything
// that the build and the tests need from others.
func TestDependenciesAreExplained(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	explained := read("../docs/dependencies.md")
	var used []string
	for _, pattern := range []struct{ file, text string }{
		{"../go.mod", `(?m)^(?:require)?\s+([\w./-]+\.[\w./-]+) v\S+$`}, // what is indirect ends in a comment
		{"../internal/tools/go.mod", `(?m)^tool (\S+)/cmd/`},
		{"package.json", `"([@\w/-]+)": "\d`},
		{"setup.sh", `(?m)^\S+ ([a-z][\w-]+)$`},
		{"setup.sh", `echo (python3-\w+|libc6-dev)`},
	} {
		found := regexp.MustCompile(pattern.text).FindAllStringSubmatch(read(pattern.file), -1)
		if len(found) == 0 {
			t.Errorf("%s: nothing found", pattern.file)
		}
		for _, m := range found {
			used = append(used, m[1])
		}
	}
	for _, name := range used {
		if !strings.Contains(explained, "| `"+name+"` |") {
			t.Errorf("docs/dependencies.md has no line for `%s`", name)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(explained, -1) {
		if !slices.Contains(used, m[1]) {
			t.Errorf("docs/dependencies.md explains `%s`, which is not used", m[1])
		}
	}
}

// TestVectorsAreInTheProtocol: docs/protocol.md prints what the packages' tests
// hold them to.
func TestVectorsAreInTheProtocol(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	printed := strings.Join(strings.Fields(string(text)), "")
	for _, file := range []string{"../internal/line/testdata/golden.txt", "../mux/testdata/golden.txt"} {
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(golden)) {
			name, vector, ok := strings.Cut(strings.TrimSpace(line), " = ")
			if ok && !strings.HasSuffix(name, "private key") && !strings.Contains(printed, vector) {
				t.Errorf("docs/protocol.md lacks %s = %s", name, vector)
			}
		}
	}
}

// TestVectorsFollowFromTheText computes the keys and proofs of the vectors in
// docs/protocol.md as a second implementation would, from that text alone.
func TestVectorsFollowFromTheText(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, vectors, _ := strings.Cut(string(text), "## Golden vectors")
	value := func(name string) []byte { // the digits behind a name
		before := "\n\n"
		if strings.HasPrefix(name, " ") { // on a line with it
			before = " "
		}
		_, after, ok := strings.Cut(vectors, "\n"+name)
		_, after, found := strings.Cut(after, before)
		m := regexp.MustCompile(`^\s*(?:[0-9a-f]{64}\s+)*[0-9a-f]+`).FindString(after)
		b, err := hex.DecodeString(strings.Join(strings.Fields(m), ""))
		if !ok || !found || err != nil || len(b) == 0 {
			t.Fatalf("no vector for %q: %v", name, err)
		}
		return b
	}
	serial := func(from byte, n int) (b []byte) {
		for i := range n {
			b = append(b, from+byte(i))
		}
		return b
	}
	challenge, hello, welcome := value("CHALLENGE"), value("HELLO"), value("WELCOME")
	resume, resumed, closed := value("RESUME:"), value("RESUMED:"), value("In its place REJECT CLOSED")
	sha := func(parts ...[]byte) []byte {
		sum := sha256.Sum256(bytes.Join(parts, nil))
		return sum[:]
	}

	server, err := ecdh.X25519().NewPrivateKey(serial(0x01, 32))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ecdh.X25519().NewPublicKey(hello[36:68])
	if err != nil {
		t.Fatal(err)
	}
	ikm, err := server.ECDH(client)
	if err != nil {
		t.Fatal(err)
	}
	salt := slices.Concat(challenge[12:44], hello[4:36])
	info := slices.Concat([]byte("wstun1"), welcome[4:20], challenge[4:12], sha([]byte("alice")))
	k, err := hkdf.Key(sha256.New, ikm, salt, string(info), 32)
	if err != nil {
		t.Fatal(err)
	}
	proof := func(label string, parts ...[]byte) []byte {
		h := hmac.New(sha256.New, k)
		h.Write([]byte(label))
		h.Write(bytes.Join(parts, nil))
		return h.Sum(nil)
	}
	second := slices.Clone(challenge)
	copy(second[12:], serial(0x70, 32))
	without := func(b []byte, n int) []byte { return b[:len(b)-n] }
	for _, v := range []struct {
		name      string
		got, want []byte
	}{
		{"pub_s", server.PublicKey().Bytes(), value("    pub_s")},
		{"pub_s in CHALLENGE", server.PublicKey().Bytes(), challenge[44:76]},
		{"ikm", ikm, value("    ikm")},
		{"K", k, value("    K")},
		{"confirm", proof("wstun1 W", sha(challenge, hello, without(welcome, 32))), welcome[len(welcome)-32:]},
		{"RESUME.mac", proof("wstun1 C", sha(second), without(resume, 32)), resume[72:]},
		{"RESUMED.mac", proof("wstun1 S", sha(second), resume, without(resumed, 32)), resumed[24:]},
		{"CLOSED's mac", proof("wstun1 X", sha(second), resume, closed[:14]), closed[14:46]},
	} {
		if !bytes.Equal(v.got, v.want) {
			t.Errorf("%s is %x, the text says %x", v.name, v.got, v.want)
		}
	}
}
