package main

import (
	"context"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/urfave/cli/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A result is what a command line led to.
type result struct {
	code     int
	out, err string
}

func (r result) firstLine() string {
	line, _, _ := strings.Cut(r.err, "\n")
	return line
}

// runWith runs args, a command line without the program's name. Without
// commands, those of the program are there.
func runWith(t *testing.T, cmds []*cli.Command, stdin string, args ...string) result {
	t.Helper()
	if cmds == nil {
		cmds = commands()
	}
	var out, errs strings.Builder
	code := runOne(t.Context(), cmds, append([]string{"wstun"}, args...), stdio{strings.NewReader(stdin), &out, &errs})
	return result{code, out.String(), errs.String()}
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		err  string
	}{
		{"help", 0, ""},
		{"--help", 0, ""},
		{"-h", 0, ""},
		{"help token", 0, ""},
		{"token --help", 0, ""},
		{"token --nonsense -h", 2, "wstun: unknown flag --nonsense\nhint: wstun token --help lists the flags\n"},
		{"--version", 0, ""},
		{"version", 0, ""},
		{"version now", 2, "wstun: wstun version: \"now\" is one argument too many\nhint: usage: wstun version\n"},
		{"versoin", 2, "wstun: unknown command \"versoin\"\nhint: did you mean wstun version?\n"},
		{"help versoin", 2, "wstun: unknown command \"versoin\"\nhint: did you mean wstun version?\n"},
		{"frobnicate", 2, "wstun: unknown command \"frobnicate\"\nhint: wstun --help lists the commands\n"},
		{"--log-level debug version", 2, "wstun: unknown flag --log-level\nhint: flags follow the command: wstun COMMAND --log-level\n"},
		{"\x1b[2J", 2, "wstun: unknown command \"\\x1b[2J\"\nhint: wstun --help lists the commands\n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			r := runWith(t, nil, "", strings.Fields(tt.args)...)
			if r.code != tt.code || r.err != tt.err {
				t.Errorf("exit code %d, stderr\n%swant %d and\n%s", r.code, r.err, tt.code, tt.err)
			}
			if (r.out == "") != (tt.code != 0) {
				t.Errorf("stdout: %q", r.out)
			}
		})
	}
}

func TestRunBare(t *testing.T) {
	help := runWith(t, nil, "", "help")
	if r := runWith(t, nil, ""); r.code != exitUsage || r.err != help.out || r.out != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
	}
	var errs strings.Builder
	if code := run(t.Context(), nil, stdio{err: &errs}); code != exitUsage || errs.String() != help.out {
		t.Errorf("without even a name: exit code %d, stderr %q", code, errs.String())
	}
}

func TestVersion(t *testing.T) {
	defer func(v string) { version = v }(version)
	version = "v1.2.3"
	for _, args := range []string{"version", "--version"} {
		r := runWith(t, nil, "", args)
		if !regexp.MustCompile(`^wstun v1\.2\.3 go\S+ \w+/\w+\n$`).MatchString(r.out) {
			t.Errorf("%s: %q", args, r.out)
		}
	}
}

// A command gets the context of run, and its standard files.
func TestRunPassesOn(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "from run")
	var out, errs strings.Builder
	var got any
	cmds := []*cli.Command{{Name: "probe", Action: func(c *cli.Context) error {
		got = c.Context.Value(key{})
		b := make([]byte, 2)
		n, _ := c.App.Reader.Read(b)
		c.App.Writer.Write(b[:n])
		c.App.ErrWriter.Write([]byte("log"))
		return nil
	}}}
	code := runOne(ctx, cmds, []string{"wstun", "probe"}, stdio{strings.NewReader("in"), &out, &errs})
	if code != 0 || got != "from run" || out.String() != "in" || errs.String() != "log" {
		t.Errorf("exit code %d, context %v, stdout %q, stderr %q", code, got, &out, &errs)
	}
}

func TestInterrupts(t *testing.T) {
	signals := make(chan os.Signal)
	released := make(chan struct{})
	soft, hard, stop := countSignals(t.Context(), signals, func() { close(released) })
	defer stop()

	signals <- syscall.SIGTERM
	<-soft.Done()
	if hard.Err() != nil {
		t.Error("the first signal ended hard")
	}
	signals <- os.Interrupt
	<-hard.Done()
	<-released // a third signal kills
}

func TestInterruptsStop(t *testing.T) {
	soft, hard, stop := interrupts(t.Context())
	stop()
	stop()
	<-soft.Done()
	<-hard.Done()

	ctx, cancel := context.WithCancel(t.Context())
	soft, hard, stop = interrupts(ctx)
	defer stop()
	cancel()
	<-soft.Done()
	<-hard.Done()
}
