package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// sample is a program with all that arrange has to know.
func sample() *cli.Command {
	var (
		s    string
		list []string
		b    bool
	)
	f := newFlags("open")
	f.lines(&list, "local-forward", "`SPEC` to forward", "L")
	f.text(&s, "tls-cert", "`FILE` with the certificate", "cert")
	f.text(&s, "config", "`FILE` with everything", "c")
	f.toggle(&b, "console", "show the console")
	f.toggle(&b, "verbose", "log all", "v")
	act := func(*cli.Context) error { return nil }
	return &cli.Command{Name: "wstun", Flags: []cli.Flag{&cli.BoolFlag{Name: "version"}}, Subcommands: []*cli.Command{
		{Name: "open", Flags: f.list, Action: act},
		{Name: "config", Subcommands: []*cli.Command{{Name: "check", Action: act}, {Name: "show", Action: act}}},
		{Name: "link", Action: act, Subcommands: []*cli.Command{{Name: "list", Action: act}}},
		{Name: "raw", Action: act, SkipFlagParsing: true},
	}}
}

func TestArrange(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"--version", "--version"},
		{"--version open", "--version"},
		{"open", "open"},
		{"open url", "open -- url"},
		{"open url --config f url2", "open --config=f -- url url2"},
		{"open url -config f", "open --config=f -- url"},
		{"open url -config=f", "open --config=f -- url"},
		{"open --config=f=g", "open --config=f=g"},
		{"open --config=", "open --config="},
		{"open -c f", "open --config=f"},
		{"open --cert f --tls-cert g", "open --tls-cert=f --tls-cert=g"},
		{"open -L 5900:vnc:5900 url", "open --local-forward=5900:vnc:5900 -- url"},
		{"open -L5900:vnc:5900 url", "open --local-forward=5900:vnc:5900 -- url"},
		{"open -L=5900:vnc:5900", "open --local-forward=5900:vnc:5900"},
		{"open -L5900:a=b:1 -L1:b:1", "open --local-forward=5900:a=b:1 --local-forward=1:b:1"},
		{"open -L -1", "open --local-forward=-1"},
		{"open -L -", "open --local-forward=-"},
		{"open --console url -v", "open --console --verbose -- url"},
		{"open --console=false", "open --console=false"},
		{"open - url", "open -- - url"},
		{"open url -- --console -L", "open -- url --console -L"},
		{"open --", "open"},
		{"open --console -h", "help open"},
		{"open url --help", "help open"},
		{"open -- --help", "open -- --help"},
		{"-h", "help"},
		{"config check", "config check"},
		{"config -h", "help config"},
		{"config check --help", "help config check"},
		{"link", "link"},
		{"link list", "link list"},
		{"link other", "link -- other"},
		{"raw --any -x thing", "raw --any -x thing"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got, err := arrange(sample(), append([]string{"wstun"}, strings.Fields(tt.args)...))
			if err != nil {
				t.Fatal(err)
			}
			if want := append([]string{"wstun"}, strings.Fields(tt.want)...); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestArrangeErrors(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"opne", "unknown command \"opne\"\nhint: did you mean wstun open?"},
		{"config chekc", "unknown command \"config chekc\"\nhint: did you mean wstun config check?"},
		{"config frob", "unknown command \"config frob\"\nhint: wstun config --help lists the commands"},
		{"open --consle", "unknown flag --consle\nhint: did you mean --console?"},
		{"open --consle=true", "unknown flag --consle\nhint: did you mean --console?"},
		{"open -conig f", "unknown flag -conig\nhint: did you mean --config?"},
		{"open --forward f", "unknown flag --forward\nhint: did you mean --local-forward?"},
		{"open -X5900", "unknown flag -X5900\nhint: wstun open --help lists the flags"},
		{"open --frobnicate", "unknown flag --frobnicate\nhint: wstun open --help lists the flags"},
		{"open ---config f", "unknown flag ---config\nhint: did you mean --config?"},
		{"open --config", "--config needs a value\nhint: --config FILE: FILE with everything"},
		{"open -L", "-L needs a value\nhint: -L SPEC: SPEC to forward"},
		{"open --config --console", "--config needs a value\nhint: --config FILE: FILE with everything"},
		{"open --config -- url", "--config needs a value\nhint: --config FILE: FILE with everything"},
		{"--console open", "unknown flag --console\nhint: flags follow the command: wstun COMMAND --console"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			_, err := arrange(sample(), append([]string{"wstun"}, strings.Fields(tt.args)...))
			if err == nil || exitCode(err) != exitUsage {
				t.Fatalf("err = %v, exit code %d", err, exitCode(err))
			}
			var b strings.Builder
			printError(&b, err)
			if got, want := b.String(), "wstun: "+tt.want+"\n"; got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// Whatever is typed, arrange leaves nothing that package cli understands otherwise.
func FuzzArrange(f *testing.F) {
	f.Add("open -L5900:vnc:5900 url -- -x")
	f.Add("config check - --")
	f.Fuzz(func(t *testing.T, line string) {
		argv, err := arrange(sample(), append([]string{"wstun"}, strings.Split(line, " ")...))
		if err != nil {
			return
		}
		again, err := arrange(sample(), slices.Clone(argv))
		if err != nil || !slices.Equal(again, argv) {
			t.Errorf("%q becomes %q, and that %q, %v", line, argv, again, err)
		}
	})
}
