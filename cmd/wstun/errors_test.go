package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// refusal is an error of another package that knows its exit code and a hint.
type refusal struct{ error }

func (refusal) ExitCode() int   { return exitRefused }
func (refusal) Hints() []string { return []string{"ask for an account"} }

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"none", nil, 0, ""},
		{"any", errors.New("dial db:5432: refused"), 1, "wstun: dial db:5432: refused\n"},
		{"usage", usagef("no %s", "URL"), 2, "wstun: no URL\n"},
		{"refused below", fmt.Errorf("wss://host: %w", refusal{errors.New("401")}), 3, "wstun: wss://host: 401\nhint: ask for an account\n"},
		{"hints", withHints(usagef("no URL"), "one", "two"), 2, "wstun: no URL\nhint: one\nhint: two\n"},
		{"hints of both", fmt.Errorf("a: %w", withHints(refusal{errors.New("b")}, "mine")), 3, "wstun: a: b\nhint: mine\nhint: ask for an account\n"},
		{"silent", silent(2), 2, ""},
		{"from a peer", withHints(errors.New("reason: \r\x1b[2Jall is well\n"), "x\ny"), 1, "wstun: reason: \\r\\x1b[2Jall is well\\n\nhint: x\\ny\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmds := []*cli.Command{{Name: "fail", Action: func(*cli.Context) error { return tt.err }}}
			r := runWith(t, cmds, "", "fail")
			if r.code != tt.code || r.err != tt.want || r.out != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
			}
		})
	}
}

func TestAtMost(t *testing.T) {
	cmds := []*cli.Command{{Name: "one", ArgsUsage: "[NAME]", Action: atMost(1, func(*cli.Context) error { return nil })}}
	for args, want := range map[string]string{
		"one":         "",
		"one a":       "",
		"one a b":     "wstun: wstun one: \"b\" is one argument too many\nhint: usage: wstun one [NAME]\n",
		"one a false": "wstun: wstun one: \"false\" is one argument too many\nhint: a flag without a value is switched off like this: --flag=false\n",
	} {
		if r := runWith(t, cmds, "", strings.Fields(args)...); r.err != want {
			t.Errorf("%s: %q", args, r.err)
		}
	}
}
