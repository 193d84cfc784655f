package main

import (
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// settings are what the command of these tests is told.
type settings struct {
	Target  string
	Allow   []string
	Console bool
	Streams int
	Window  time.Duration
	shared
}

// settable is a command "try" that reports its settings.
func settable(got *settings, action cli.ActionFunc) []*cli.Command {
	*got = settings{Target: "vnc:5900", Allow: []string{"default"}, Window: 5 * time.Minute}
	f := newFlags("try")
	f.group = "Reach"
	f.text(&got.Target, "target", "`TARGET` that is dialed")
	f.lines(&got.Allow, "allow", "`RULE` of what may be dialed", "a", "permit")
	f.group = "More"
	f.toggle(&got.Console, "console", "show the console")
	f.number(&got.Streams, "max-streams", "`N` streams at most")
	f.duration(&got.Window, "window", "`TIME` that a session waits")
	f.shared(&got.shared)
	return []*cli.Command{{Name: "try", Usage: "try the flags", Flags: f.list, Action: action}}
}

func TestFlags(t *testing.T) {
	defaults := func(change func(*settings)) settings {
		s := settings{
			Target: "vnc:5900", Allow: []string{"default"}, Window: 5 * time.Minute,
			shared: shared{LogFormat: "text", DrainTimeout: 30 * time.Second},
		}
		change(&s)
		return s
	}
	for _, tt := range []struct {
		name   string
		env    map[string]string
		args   []string
		change func(*settings)
	}{
		{name: "nothing", change: func(*settings) {}},
		{
			name: "all on the command line",
			args: []string{"--target=a:1", "--allow", "x:1,2", "--allow", "y:3", "--console", "--max-streams", "7", "--window", "1h30m", "--log-level", "warn", "--log-format", "json", "-v", "--drain-timeout", "0"},
			change: func(s *settings) {
				*s = settings{"a:1", []string{"x:1,2", "y:3"}, true, 7, 90 * time.Minute, shared{slog.LevelWarn, "json", true, 0}}
			},
		},
		{
			name: "all in the environment",
			env: map[string]string{
				"WSTUN_TRY_TARGET": "a:1 ", "WSTUN_TRY_ALLOW": "x:1,2\r\n\n  y:3\n", "WSTUN_TRY_CONSOLE": "true", "WSTUN_TRY_MAX_STREAMS": "7",
				"WSTUN_TRY_WINDOW": "90m", "WSTUN_TRY_LOG_LEVEL": "WARN", "WSTUN_TRY_LOG_FORMAT": "json", "WSTUN_TRY_VERBOSE": "1", "WSTUN_TRY_DRAIN_TIMEOUT": "0s",
			},
			change: func(s *settings) {
				*s = settings{"a:1 ", []string{"x:1,2", "y:3"}, true, 7, 90 * time.Minute, shared{slog.LevelWarn, "json", true, 0}}
			},
		},
		{
			name:   "the command line counts more",
			env:    map[string]string{"WSTUN_TRY_ALLOW": "x:1\ny:2", "WSTUN_TRY_CONSOLE": "true", "WSTUN_TRY_WINDOW": "1s"},
			args:   []string{"--permit", "z:3", "-a", "q:4", "--allow", "r:5", "--console=false", "--window=2s"},
			change: func(s *settings) { s.Allow, s.Window = []string{"z:3", "q:4", "r:5"}, 2*time.Second },
		},
		{
			name:   "an empty variable is none",
			env:    map[string]string{"WSTUN_TRY_TARGET": "", "WSTUN_TRY_ALLOW": "", "WSTUN_TRY_CONSOLE": "", "WSTUN_TRY_WINDOW": ""},
			change: func(*settings) {},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			var got settings
			ran := false
			r := runWith(t, settable(&got, func(*cli.Context) error { ran = true; return nil }), "", append([]string{"try"}, tt.args...)...)
			if r.code != 0 || !ran {
				t.Fatalf("exit code %d: %s", r.code, r.err)
			}
			if want := defaults(tt.change); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestFlagErrors(t *testing.T) {
	for _, tt := range []struct{ variable, args, want string }{
		{"", "--window 5x", `--window "5x": not a duration; write 30s, 5m or 1h30m`},
		{"", "--window=-5s", `--window "-5s": not a duration; write 30s, 5m or 1h30m`},
		{"", "--console=maybe", `--console "maybe": neither yes nor no; write true or false`},
		{"", "--console maybe", `wstun try: "maybe" is one argument too many`},
		{"", "--max-streams many", `--max-streams "many": not a number; write 0, 1, 2 …`},
		{"", "-v=x", `--verbose "x": neither yes nor no; write true or false`},
		{"", "--log-level loud", `--log-level "loud": no such level; write debug, info, warn or error`},
		{"", "--log-format xml", `--log-format "xml": no such choice; write text or json`},
		{"WSTUN_TRY_WINDOW=5x", "", `WSTUN_TRY_WINDOW="5x": not a duration; write 30s, 5m or 1h30m`},
		{"WSTUN_TRY_WINDOW=5x", "--window 5s", `WSTUN_TRY_WINDOW="5x": not a duration; write 30s, 5m or 1h30m`},
		{"WSTUN_TRY_CONSOLE=on", "", `WSTUN_TRY_CONSOLE="on": neither yes nor no; write true or false`},
		{"WSTUN_TRY_WINDOW=1s", "--window 5x", `--window "5x": not a duration; write 30s, 5m or 1h30m`},
	} {
		t.Run(tt.variable+" "+tt.args, func(t *testing.T) {
			if name, v, ok := strings.Cut(tt.variable, "="); ok {
				t.Setenv(name, v)
			}
			var s settings
			action := atMost(0, func(*cli.Context) error { t.Error("ran"); return nil })
			r := runWith(t, settable(&s, action), "", append([]string{"try"}, strings.Fields(tt.args)...)...)
			if r.code != exitUsage || r.firstLine() != "wstun: "+tt.want {
				t.Errorf("exit code %d, %q\nwant %q", r.code, r.firstLine(), tt.want)
			}
		})
	}
}

// What is found to be wrong after parsing is said of where it stands.
func TestWrongFlag(t *testing.T) {
	var s settings
	check := func(c *cli.Context) error {
		if onCommandLine(c, "allow") != slices.Contains(s.Allow, "vnc") {
			t.Errorf("onCommandLine = %v", onCommandLine(c, "allow"))
		}
		return wrongFlag(c, "allow", s.Allow[0], errors.New("no ports"))
	}
	if r := runWith(t, settable(&s, check), "", "try", "-a", "vnc"); r.err != "wstun: --allow \"vnc\": no ports\n" || r.code != exitUsage {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
	t.Setenv("WSTUN_TRY_ALLOW", "desk")
	if r := runWith(t, settable(&s, check), "", "try"); r.err != "wstun: WSTUN_TRY_ALLOW=\"desk\": no ports\n" || r.code != exitUsage {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
}

func TestCommandHelp(t *testing.T) {
	var s settings
	cmds := settable(&s, nil)
	cmds[0].Description = "  wstun try --target vnc:5900      the most common\n"
	cmds = append(cmds, helpCommand())
	const want = `wstun try: try the flags

  wstun try --target vnc:5900      the most common

Usage: wstun try [flags]

Reach:
  --target TARGET           TARGET that is dialed (default vnc:5900)
  -a, --allow, --permit RULE…
                            RULE of what may be dialed (default default)

More:
  --console                 show the console
  --max-streams N           N streams at most
  --window TIME             TIME that a session waits (default 5m)

Running:
  --drain-timeout TIME      how long connections may go on after a first signal
                            to stop, in TIME; a second one ends them (default
                            30s)
  --log-level LEVEL         LEVEL from which on lines are logged: debug, info,
                            warn, error (default info)
  --log-format FORMAT       FORMAT of the log on stderr: text for people, json
                            for machines (default text)
  -v, --verbose             log everything, as --log-level debug

Every flag has a variable: --target is WSTUN_TRY_TARGET. One that may be
repeated (…) takes one value per line there.
`
	t.Setenv("WSTUN_TRY_WINDOW", "wrong, and no matter for the help")
	if r := runWith(t, cmds, "", "try", "--help"); r.out != want || r.code != 0 {
		t.Errorf("exit code %d, %s\n%s", r.code, r.err, r.out)
	}
}

func TestShortDuration(t *testing.T) {
	for long, want := range map[string]string{"1h0m0s": "1h", "5m0s": "5m", "10m0s": "10m", "10m30s": "10m30s", "30s": "30s", "vnc": "vnc"} {
		if got := shortDuration(long); got != want {
			t.Errorf("%s: got %s, want %s", long, got, want)
		}
	}
}
