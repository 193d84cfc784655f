package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"wstun/internal/nearest"
)

// flags builds the flags of one command. Each method adds one that fills a
// variable, whose value is the default, and that can also be set by the
// environment: --tls-cert of the server by WSTUN_SERVER_TLS_CERT. A flag on the
// command line counts more than its variable; an empty variable does not count.
//
// In a usage text, `NAME` in back quotes is what the value is called.
type flags struct {
	prefix string // of the variables
	group  string // of those added next, a title in the help
	list   []cli.Flag
}

func newFlags(command string) *flags {
	return &flags{prefix: "WSTUN_" + strings.ToUpper(command) + "_"}
}

// add adds a flag that is parsed by v.
func (f *flags) add(v cli.Generic, name, usage string, aliases []string) *option {
	o := &option{GenericFlag: cli.GenericFlag{
		Name:     name,
		Aliases:  aliases,
		Category: f.group,
		Usage:    usage,
		EnvVars:  []string{f.prefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))},
		Value:    v,
	}}
	f.list = append(f.list, o)
	return o
}

func (f *flags) text(p *string, name, usage string, aliases ...string) {
	custom(f, p, name, usage, func(s string) (string, error) { return s, nil }, aliases...)
}

// lines adds a flag that may be given several times; its variable holds one
// value per line. Any of them replaces the default.
func (f *flags) lines(p *[]string, name, usage string, aliases ...string) {
	f.add((*lines)(p), name, usage, aliases)
}

func (f *flags) toggle(p *bool, name, usage string, aliases ...string) {
	o := f.add(&value[bool]{p, parseBool}, name, usage, aliases)
	o.toggle = true
}

func (f *flags) number(p *int, name, usage string, aliases ...string) {
	custom(f, p, name, usage, parseNumber, aliases...)
}

func (f *flags) duration(p *time.Duration, name, usage string, aliases ...string) {
	custom(f, p, name, usage, parseDuration, aliases...)
}

// choice adds a flag that is one of several words.
func (f *flags) choice(p *string, choices []string, name, usage string, aliases ...string) {
	custom(f, p, name, usage, func(s string) (string, error) {
		if !slices.Contains(choices, s) {
			return "", fmt.Errorf("no such choice; write %s", strings.Join(choices, " or "))
		}
		return s, nil
	}, aliases...)
}

// custom adds a flag of any type. What parse says is wrong is printed behind
// the flag and the value. The option is returned for what is rarely set: Hidden,
// or a DefaultText in place of what fmt makes of the default.
func custom[T any](f *flags, p *T, name, usage string, parse func(string) (T, error), aliases ...string) *option {
	return f.add(&value[T]{p, parse}, name, usage, aliases)
}

// An option is a flag with its variable. It remembers where its value came
// from and why it is wrong, which package flag makes a string of.
type option struct {
	cli.GenericFlag
	toggle bool
	source string // the flag or the variable that set it last
	err    error
}

// Apply reads the variable and adds o to set, under its first name: arrange
// has replaced the others.
func (o *option) Apply(set *flag.FlagSet) error {
	variable := o.EnvVars[0]
	if v := os.Getenv(variable); v != "" {
		values := []string{v}
		if _, ok := o.Value.(*lines); ok {
			values = nonEmptyLines(v)
		}
		for _, v := range values {
			if err := o.set(variable, v); err != nil {
				return err
			}
		}
	}
	set.Var(argument{o}, o.Name, o.Usage)
	return nil
}

func nonEmptyLines(s string) []string {
	var list []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			list = append(list, l)
		}
	}
	return list
}

func (o *option) set(source, v string) error {
	if l, ok := o.Value.(*lines); ok && source != o.source {
		*l = nil
	}
	o.source, o.HasBeenSet = source, true
	if err := o.Value.Set(v); err != nil {
		o.err = o.wrong(v, err)
	}
	return o.err
}

// wrong says that o's value v is wrong because of err, and where it stands.
func (o *option) wrong(v string, err error) error {
	if slices.Contains(o.EnvVars, o.source) {
		return usagef("%s=%q: %w", o.source, v, err)
	}
	return usagef("%s %q: %w", o.source, v, err)
}

// TakesValue is false for toggles; these may be written --name=false.
func (o *option) TakesValue() bool { return !o.toggle }

// An argument is an option as package flag sets it from the command line.
type argument struct{ *option }

// Set refuses an empty value: --users "$USERS" with the variable unset must not
// mean that nobody is asked who they are.
func (a argument) Set(v string) error {
	if v == "" {
		a.source = dashed(a.Name)
		a.err = usagef("%s is empty; leave the flag out, or give it a value", dashed(a.Name))
		return a.err
	}
	return a.set(dashed(a.Name), v)
}
func (a argument) IsBoolFlag() bool { return a.option != nil && a.toggle }

// String is also called on the zero argument, by package flag.
func (a argument) String() string {
	if a.option == nil {
		return ""
	}
	return a.Value.String()
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// strangers returns the variables of the environment that look like ours and
// set nothing: a misspelt WSTUN_SERVER_USERS would leave a server open.
func (f *flags) strangers(environ []string, known ...string) (warnings []string) {
	for _, o := range f.list {
		if o, ok := o.(*option); ok {
			known = append(known, o.EnvVars...)
		}
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, f.prefix) || value == "" || slices.Contains(known, name) {
			continue
		}
		w := name + " in the environment sets nothing"
		if near := nearest.Word(name, known); near != "" {
			w += "; did you mean " + near + "?"
		}
		warnings = append(warnings, w)
	}
	return warnings
}

// wrongFlag is a usage error about v, a value of c's flag name, that was found
// after the command line was parsed. It names the variable if v came from there.
func wrongFlag(c *cli.Context, name, v string, err error) error {
	if o, ok := lookup(c.Command, name).(*option); ok {
		return o.wrong(v, err)
	}
	return usagef("%s %q: %w", dashed(name), v, err)
}

// onCommandLine reports whether c's flag name was given there, where others
// can see it, and not in the environment.
func onCommandLine(c *cli.Context, name string) bool {
	o, ok := lookup(c.Command, name).(*option)
	return ok && o.source == dashed(o.Name)
}

// A value is a variable of a flag, and how its text is read.
type value[T any] struct {
	p     *T
	parse func(string) (T, error)
}

func (v *value[T]) Set(s string) error {
	x, err := v.parse(s)
	if err == nil {
		*v.p = x
	}
	return err
}

func (v *value[T]) String() string { return fmt.Sprint(*v.p) }

// lines is a list of which each Set adds one.
type lines []string

func (l *lines) Set(s string) error {
	*l = append(*l, s)
	return nil
}

func (l *lines) String() string { return strings.Join(*l, ", ") }

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		err = errors.New("neither yes nor no; write true or false")
	}
	return b, err
}

func parseNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, errors.New("not a number; write 0, 1, 2 …")
	}
	return n, nil
}

func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("not a duration; write 30s, 5m or 1h30m")
	}
	return d, nil
}

// shared holds the flags that the long-running commands have in common.
type shared struct {
	LogLevel     slog.Level
	LogFormat    string // "text" or "json"
	Verbose      bool   // the same as LogLevel debug
	DrainTimeout time.Duration
}

// shared adds the shared flags, and sets their defaults.
func (f *flags) shared(s *shared) {
	*s = shared{LogFormat: "text", DrainTimeout: 30 * time.Second}
	f.group = "Running"
	f.duration(&s.DrainTimeout, "drain-timeout", "how long connections may go on after a first signal to stop, in `TIME`; a second one ends them")
	level := custom(f, &s.LogLevel, "log-level", "`LEVEL` from which on lines are logged: debug, info, warn, error", parseLevel)
	level.DefaultText = "info"
	f.choice(&s.LogFormat, []string{"text", "json"}, "log-format", "`FORMAT` of the log on stderr: text for people, json for machines")
	f.toggle(&s.Verbose, "verbose", "log everything, as --log-level debug", "v")
}

func parseLevel(s string) (l slog.Level, err error) {
	if l.UnmarshalText([]byte(s)) != nil {
		return 0, errors.New("no such level; write debug, info, warn or error")
	}
	return l, nil
}
