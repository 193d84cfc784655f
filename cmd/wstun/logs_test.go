package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// logged returns the line that log writes as text, without the time.
func logged(log func(*slog.Logger)) string {
	var b strings.Builder
	s := shared{LogFormat: "text"}
	log(s.logger(&b))
	if b.Len() < len("15:04:05 ") {
		return b.String()
	}
	return b.String()[len("15:04:05 "):]
}

func TestTextLog(t *testing.T) {
	at := time.Date(2026, 8, 1, 15, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name string
		log  func(*slog.Logger)
		want string
	}{
		{"info", func(l *slog.Logger) { l.Info("relay ended", "bytes", 12, "took", 3*time.Second) }, "relay ended bytes=12 took=3s\n"},
		{"warn", func(l *slog.Logger) { l.Warn("retry", "ok", false) }, "warn retry ok=false\n"},
		{"error", func(l *slog.Logger) { l.Error("accept", "cause", errors.New("too many files")) }, "error accept cause=\"too many files\"\n"},
		{"debug is off", func(l *slog.Logger) { l.Debug("frame") }, ""},
		{"values", func(l *slog.Logger) {
			l.Info("m", "time", at, "ip", netip.MustParseAddr("::1"), "empty", "", "nil", nil, "list", []string{"a", "b"}, "umlaut", "für")
		}, "m time=2026-08-01T15:04:05Z ip=::1 empty=\"\" nil=<nil> list=\"[a b]\" umlaut=für\n"},
		{"with", func(l *slog.Logger) { l.With("user", "lab7").WithGroup("g").With("a", 1).Info("m", "b", 2) }, "m user=lab7 g.a=1 g.b=2\n"},
		{"group", func(l *slog.Logger) { l.Info("m", slog.Group("tls", "v", "1.3"), slog.Group("", "in", 1), slog.Attr{}) }, "m tls.v=1.3 in=1\n"},
		{"looks like a key", func(l *slog.Logger) { l.Info("m", "path", "/a user=root", "x", `"`, "y", "a=b", "z", `a\b`) },
			`m path="/a user=root" x="\"" y="a=b" z="a\\b"` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := logged(tt.log); got != tt.want {
				t.Errorf("got  %swant %s", got, tt.want)
			}
		})
	}
}

// What a peer sends cannot start a line, nor move the cursor, nor turn text round.
func TestLogOfHostileStrings(t *testing.T) {
	for _, s := range []string{
		"a\n15:04:05 admin logged in", "\r\x1b[2K", "\x1b]0;title\x07", "\x00", "\x7f", "\u0085", "\u009b31m", "\u2028", "\u202egpj.exe", "\xff\xfe", "a\tb",
	} {
		for name, log := range map[string]func(*slog.Logger){
			"value":   func(l *slog.Logger) { l.Info("m", "k", s) },
			"error":   func(l *slog.Logger) { l.Info("m", "k", errors.New(s)) },
			"key":     func(l *slog.Logger) { l.Info("m", s, "v") },
			"message": func(l *slog.Logger) { l.Info(s) },
			"with":    func(l *slog.Logger) { l.With("k", s).Info("m") },
			"group":   func(l *slog.Logger) { l.WithGroup(s).Info("m", "k", "v") },
		} {
			got := logged(log)
			body, ok := strings.CutSuffix(got, "\n")
			if !ok || visible(body) != body {
				t.Errorf("%s %q is logged as %q", name, s, got)
			}
		}
		if v := visible(s); visible(v) != v || v == s {
			t.Errorf("visible(%q) = %q", s, v)
		}
	}
}

func TestJSONLog(t *testing.T) {
	var b strings.Builder
	s := shared{LogFormat: "json", LogLevel: slog.LevelError, Verbose: true}
	s.logger(&b).Debug("m", "k", "a\n\x1b[2K")
	var line map[string]any
	if err := json.Unmarshal([]byte(b.String()), &line); err != nil {
		t.Fatal(err)
	}
	if line["level"] != "DEBUG" || line["msg"] != "m" || line["k"] != "a\n\x1b[2K" || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("%s", b.String())
	}
}

func TestLogFromManyGoroutines(t *testing.T) {
	var b strings.Builder
	s := shared{LogFormat: "text"}
	log := s.logger(&b)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { log.With("a", 1).Info("message") })
	}
	wg.Wait()
	for line := range strings.Lines(b.String()) {
		if !strings.HasSuffix(line, " message a=1\n") {
			t.Errorf("%q", line)
		}
	}
}
