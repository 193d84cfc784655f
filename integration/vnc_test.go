package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestBrowserDesktop is the first of the two things wstun is for: noVNC in a
// browser, straight to a VNC server, which knows nothing of WebSocket.
func TestBrowserDesktop(t *testing.T) {
	needsModule(t, "@novnc/novnc")
	for _, tt := range []struct {
		name string
		args []string
		page func(*server) string
	}{
		{"ws", nil, (*server).http},
		{"wss", []string{"--tls-self-signed"}, (*server).https},
	} {
		t.Run(tt.name, func(t *testing.T) {
			desktop := startDesktop(t)
			args := append([]string{"--target", desktop, "--web", webFolder(t)}, tt.args...)
			s := startServer(t, args...)
			useDesktop(t, tt.page(s)+"/vnc.html", tt.name)
		})
	}
}

// webFolder is noVNC with a page, as files: --web follows no links out of it.
func webFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("node_modules/@novnc/novnc")); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("testdata/vnc.html")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "vnc.html", string(page))
	return dir
}

// useDesktop opens the page in a browser, looks at the desktop and types.
func useDesktop(t testing.TB, page, name string) {
	t.Helper()
	ctx := startBrowser(t)
	step := func(what string, actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, actions...); err != nil {
			state, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`String(window.vnc?.state)`))
			t.Fatalf("%s: %v (noVNC is %q)", what, err, state)
		}
	}
	until := func(condition string) chromedp.Action[chromedp.Void] {
		return chromedp.Poll[chromedp.Void](condition,
			chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(patience))
	}
	look := func(file string) {
		t.Helper()
		picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		keepScreenshot(t, file, picture)
	}
	step("open the page", chromedp.Navigate(page))
	step("connect", until(`window.vnc?.state === 'connected'`))
	step("see the desktop", until(fmt.Sprintf(`window.vnc.colours() >= %d`, manyColours)))
	look("vnc-" + name + "-desktop.png")
	// The pointer chooses who gets the keys, so it must be on the terminal.
	step("type", chromedp.MouseClickXY(320, 240), chromedp.KeyEvent("wstun\r"))
	step("see what the keys did", until(`window.vnc.share(0xff00ff) > 0.9`))
	look("vnc-" + name + "-typed.png")
}

// startBrowser runs Chromium until the test ends, with a profile of its own.
func startBrowser(t testing.TB) context.Context {
	t.Helper()
	needs(t, "chromium")
	profile, err := os.MkdirTemp("", "wstun-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	// After the browser has ended; it may have left something locked.
	t.Cleanup(func() { os.RemoveAll(profile) })
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"),
		chromedp.UserDataDir(filepath.Join(profile, "data")),
		chromedp.NoInheritEnv, chromedp.Env(environment(t)...),
		chromedp.WindowSize(800, 600),
		chromedp.NoSandbox, // there is none for root, and none in most containers
		chromedp.DisableGPU,
		chromedp.IgnoreCertErrors,
		// It must talk to loopback only.
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	// Events that a newer Chromium has and chromedp does not know are no errors.
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return ctx
}
