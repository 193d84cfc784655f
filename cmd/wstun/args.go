package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange rewrites a command line so that package cli understands it as users
// mean it, and finds unknown commands and flags on the way, which it can name
// better. Of a command's arguments
//
//   - flags may follow positional arguments, and "--" ends the flags
//   - "-" is positional
//   - one dash works for long names, and other names of a flag become its first
//   - a value may be attached to a capital letter, as in ssh: -L5900:vnc:5900
//   - --help anywhere becomes the command help
//
// root is the program, args begins with its name.
func arrange(root *cli.Command, args []string) ([]string, error) {
	if len(args) == 0 {
		args = []string{root.Name}
	}
	path, rest := []string{args[0]}, args[1:]
	for cmd := root; ; {
		at := slices.IndexFunc(rest, func(a string) bool { return !strings.HasPrefix(a, "-") })
		if len(cmd.Subcommands) == 0 || at < 0 {
			return arrangeFlags(cmd, path, rest)
		}
		sub := cmd.Command(rest[at])
		if sub == nil && cmd.Action != nil {
			return arrangeFlags(cmd, path, rest)
		}
		if sub == nil && at == 0 {
			return nil, unknownCommand(cmd, path[1:], rest[at])
		}
		if at > 0 {
			// Of flags before a command only --help and --version make sense, and they end it.
			return arrangeFlags(cmd, path, rest[:at])
		}
		cmd, path, rest = sub, append(path, sub.Name), rest[1:]
	}
}

func unknownCommand(parent *cli.Command, path []string, name string) error {
	var names []string
	for _, c := range parent.Subcommands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	prefix := strings.Join(append([]string{"wstun"}, path...), " ")
	err := usagef("unknown command %q", strings.Join(append(path, name), " "))
	return didYouMean(err, name, names, prefix+" %s", prefix+" --help lists the commands")
}

// arrangeFlags puts the flags among args, the arguments of cmd, before the
// positional ones, in the form --name=value.
func arrangeFlags(cmd *cli.Command, path, args []string) ([]string, error) {
	if cmd.SkipFlagParsing {
		return append(path, args...), nil
	}
	var flags, positional []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			positional = append(positional, args...)
			break
		}
		if arg == "-" || !strings.HasPrefix(arg, "-") {
			positional = append(positional, arg)
			continue
		}
		if isHelp(arg) {
			return slices.Concat(path[:1], []string{"help"}, path[1:]), nil
		}
		f, value, hasValue := findFlag(cmd, arg)
		switch {
		case f == nil:
			return nil, unknownFlag(cmd, arg)
		case !hasValue && !takesValue(f):
			flags = append(flags, "--"+f.Names()[0])
			continue
		case !hasValue && (len(args) == 0 || isFlag(cmd, args[0])):
			return nil, missingValue(f, arg)
		case !hasValue:
			value, args = args[0], args[1:]
		}
		flags = append(flags, "--"+f.Names()[0]+"="+value)
	}
	argv := slices.Concat(path, flags)
	if len(positional) > 0 {
		argv = append(append(argv, "--"), positional...)
	}
	return argv, nil
}

func isHelp(arg string) bool {
	return arg == "-h" || arg == "-help" || arg == "--help"
}

// findFlag returns the flag of cmd that arg names, and the value in arg itself.
func findFlag(cmd *cli.Command, arg string) (f cli.Flag, value string, hasValue bool) {
	name, value, hasValue := strings.Cut(flagName(arg), "=")
	if f := lookup(cmd, name); f != nil {
		return f, value, hasValue
	}
	// Small letters would make a typo in a long name with one dash a value.
	if arg[1] >= 'A' && arg[1] <= 'Z' {
		if f := lookup(cmd, arg[1:2]); f != nil && takesValue(f) {
			return f, arg[2:], true
		}
	}
	return nil, "", false
}

// flagName returns arg without its one or two dashes.
func flagName(arg string) string {
	return strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
}

func lookup(cmd *cli.Command, name string) cli.Flag {
	for _, f := range cmd.Flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// isFlag reports whether arg, which stands where a value is expected, is a flag
// instead. Values with a dash in front do exist; they are not named like flags.
func isFlag(cmd *cli.Command, arg string) bool {
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	name, _, _ := strings.Cut(flagName(arg), "=")
	return arg == "--" || lookup(cmd, name) != nil
}

func unknownFlag(cmd *cli.Command, arg string) error {
	name, _, _ := strings.Cut(flagName(arg), "=")
	written := arg[:len(arg)-len(flagName(arg))] + name
	if len(cmd.Subcommands) > 0 {
		return withHints(usagef("unknown flag %s", written), "flags follow the command: wstun COMMAND "+written)
	}
	var names []string
	for _, f := range cmd.Flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				names = append(names, n)
			}
		}
	}
	return didYouMean(usagef("unknown flag %s", written), name, names, "--%s", "wstun "+cmd.Name+" --help lists the flags")
}

func missingValue(f cli.Flag, arg string) error {
	placeholder, usage := describe(f)
	return withHints(usagef("%s needs a value", arg), arg+" "+placeholder+": "+usage)
}
