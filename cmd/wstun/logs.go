package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// logger returns the log that s asks for, on w.
func (s *shared) logger(w io.Writer) *slog.Logger {
	level := s.LogLevel
	if s.Verbose {
		level = min(level, slog.LevelDebug)
	}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: forMachines}))
	}
	return slog.New(newTextHandler(w, level))
}

// forMachines makes durations seconds, and addresses what they look like.
func forMachines(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case time.Duration:
		a.Value = slog.Float64Value(v.Seconds())
	case slog.Level, error: // slog knows these
	case fmt.Stringer:
		if a.Value.Kind() == slog.KindAny {
			a.Value = slog.StringValue(v.String())
		}
	}
	if a.Value.Kind() == slog.KindString {
		a.Value = slog.StringValue(short(a.Value.String()))
	}
	return a
}

// maxText bounds a value: some of them are a peer's.
const maxText = 512

func short(s string) string {
	if len(s) <= maxText {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:maxText], len(s))
}

// A textHandler writes lines for people,
//
//	15:04:05 warn message key=value key="a value"
//
// with the level left out if it is info. Strings that come from a peer can
// neither break a line nor look like another key: they are quoted, and whatever
// does not print is escaped.
type textHandler struct {
	out    *output
	level  slog.Level
	attrs  string // what With has added, ready to be written
	prefix string // of keys, from groups
}

// output is the writer that a handler shares with those derived from it.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

var _ slog.Handler = (*textHandler)(nil)

func newTextHandler(w io.Writer, level slog.Level) *textHandler {
	return &textHandler{out: &output{w: w}, level: level}
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if !r.Time.IsZero() {
		b.WriteString(r.Time.Format(time.TimeOnly) + " ")
	}
	if r.Level != slog.LevelInfo {
		b.WriteString(strings.ToLower(r.Level.String()) + " ")
	}
	b.WriteString(visible(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, h.prefix, a)
		return true
	})
	b.WriteByte('\n')

	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := io.WriteString(h.out.w, b.String())
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		writeAttr(&b, h.prefix, a)
	}
	with := *h
	with.attrs += b.String()
	return &with
}

func (h *textHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.prefix += name + "."
	return &with
}

func writeAttr(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
		return
	case v.Kind() == slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			writeAttr(b, prefix, member)
		}
		return
	}
	text := v.String()
	if v.Kind() == slog.KindTime {
		text = v.Time().Format(time.RFC3339)
	}
	b.WriteString(" " + quoted(prefix+a.Key) + "=" + quoted(short(text)))
}

// quoted returns s as a key or a value of a line: as it is if it is one word.
func quoted(s string) string {
	plain := s != "" && visible(s) == s && !strings.ContainsAny(s, " \"=\\")
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// visible returns s with all that does not print escaped: control characters,
// what changes the direction of text, bytes that are not UTF-8.
func visible(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i]), 16))
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
