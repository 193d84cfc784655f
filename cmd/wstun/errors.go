package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"wstun/internal/nearest"
)

// Exit codes. An error chooses its own with a method ExitCode() int, in
// whatever package; every other error is exitFailed.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3 // by the server
)

func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	var e interface{ ExitCode() int }
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return exitFailed
}

// hinted is an error with advice, one line each.
type hinted struct {
	error
	hints []string
}

func (e *hinted) Unwrap() error   { return e.error }
func (e *hinted) Hints() []string { return e.hints }

// withHints adds hints to err, which is not nil. Each is one lower-case line.
func withHints(err error, hints ...string) error { return &hinted{err, hints} }

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

func (e *coded) Unwrap() error { return e.error }
func (e *coded) ExitCode() int { return e.code }

// usagef is a wrong command line or configuration.
func usagef(format string, args ...any) error {
	return &coded{fmt.Errorf(format, args...), exitUsage}
}

// silent is an error of which everything has been said.
type silent int

func (e silent) Error() string { return "" }
func (e silent) ExitCode() int { return int(e) }

// printError prints err as one line, and its hints, outermost first. Both may
// quote what a peer sent: nothing in them moves the cursor.
func printError(w io.Writer, err error) {
	if err.Error() == "" {
		return
	}
	fmt.Fprintf(w, "wstun: %s\n", visible(err.Error()))
	for {
		var h interface {
			error
			Hints() []string
		}
		if !errors.As(err, &h) {
			return
		}
		for _, hint := range h.Hints() {
			fmt.Fprintf(w, "hint: %s\n", visible(hint))
		}
		if err = errors.Unwrap(h); err == nil {
			return
		}
	}
}

// usageError is the OnUsageError of every command: what the option has to say,
// in place of what package flag made of it.
func usageError(c *cli.Context, err error, _ bool) error {
	for _, f := range c.Command.Flags {
		if o, ok := f.(*option); ok && o.err != nil {
			return o.err
		}
	}
	return usagef("%w", err)
}

// atMost is an Action that takes no more than n arguments.
func atMost(n int, action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() <= n {
			return action(c)
		}
		surplus := c.Args().Get(n)
		err := usagef("wstun %s: %q is one argument too many", c.Command.Name, surplus)
		if surplus == "true" || surplus == "false" {
			return withHints(err, fmt.Sprintf("a flag without a value is switched off like this: --flag=%s", surplus))
		}
		return withHints(err, "usage: "+synopsis(c.Command.Name, c.Command))
	}
}

// didYouMean adds to err the one of names, written in form, that name was
// meant to be, or else the fallback.
func didYouMean(err error, name string, names []string, form, fallback string) error {
	if near := nearest.Word(name, names); near != "" {
		return withHints(err, "did you mean "+fmt.Sprintf(form, near)+"?")
	}
	return withHints(err, fallback)
}
