package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// Columns of the help.
const (
	helpWidth     = 80
	commandIndent = 18 // of what a command is for
	flagIndent    = 28 // of what a flag is for
)

func helpCommand() *cli.Command {
	return &cli.Command{
		Name:      "help",
		Usage:     "explain a command and list its flags",
		ArgsUsage: "[COMMAND]",
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				_, err := io.WriteString(c.App.Writer, appHelp(c.App))
				return err
			}
			cmd := &cli.Command{Subcommands: c.App.Commands}
			for i, name := range c.Args().Slice() {
				parent := cmd
				if cmd = parent.Command(name); cmd == nil {
					return unknownCommand(parent, c.Args().Slice()[:i], name)
				}
			}
			_, err := io.WriteString(c.App.Writer, commandHelp(strings.Join(c.Args().Slice(), " "), cmd))
			return err
		},
	}
}

func appHelp(app *cli.App) string {
	var b strings.Builder
	b.WriteString(`wstun carries TCP over WebSocket: browsers and TCP-only programs reach a service
through whatever lets ws:// or wss:// pass.

  wstun demo
      shows it on this machine; there is nothing to set up
  wstun server --listen :8080 --target vnc:5900
      a page that opens new WebSocket("ws://host:8080/") is connected to vnc:5900
  wstun client -L 5900:vnc:5900 ws://host:8080
      a program that connects to localhost:5900 is connected to vnc:5900

Commands:
`)
	writeCommands(&b, app.Commands)
	b.WriteString("\nwstun help COMMAND explains one of them.\n")
	return b.String()
}

func writeCommands(b *strings.Builder, cmds []*cli.Command) {
	for _, c := range cmds {
		if !c.Hidden {
			writeEntry(b, commandIndent, c.Name, c.Usage)
		}
	}
}

// commandHelp explains cmd, which is called as name. The command's Description
// is printed as it is; it begins with the most common examples.
func commandHelp(name string, cmd *cli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "wstun %s: %s\n", name, cmd.Usage)
	if d := strings.Trim(cmd.Description, "\n"); d != "" {
		fmt.Fprintf(&b, "\n%s\n", d)
	}
	fmt.Fprintf(&b, "\nUsage: %s\n", synopsis(name, cmd))
	if len(cmd.Subcommands) > 0 {
		b.WriteString("\nCommands:\n")
		writeCommands(&b, cmd.Subcommands)
	}
	if variables := writeFlags(&b, cmd.Flags); variables != "" {
		fmt.Fprintf(&b, "\n%s\n", variables)
	}
	return b.String()
}

// synopsis is a line of how cmd, which is called as name, is used.
func synopsis(name string, cmd *cli.Command) string {
	s := "wstun " + name
	if len(cmd.Flags) > 0 {
		s += " [flags]"
	}
	if len(cmd.Subcommands) > 0 {
		s += " COMMAND"
	}
	return strings.TrimSpace(s + " " + cmd.ArgsUsage)
}

// writeFlags writes the flags by group, in the order in which the groups first
// come. It returns a sentence about their variables, if they have any.
func writeFlags(b *strings.Builder, list []cli.Flag) (variables string) {
	var groups []string
	byGroup := make(map[string][]*option)
	for _, f := range list {
		o, ok := f.(*option)
		if !ok || o.Hidden {
			continue
		}
		if !slices.Contains(groups, o.Category) {
			groups = append(groups, o.Category)
		}
		byGroup[o.Category] = append(byGroup[o.Category], o)
		if variables == "" {
			variables = fmt.Sprintf("Every flag has a variable: %s is %s. One that may be\nrepeated (…) takes one value per line there.",
				dashed(o.Name), o.EnvVars[0])
		}
	}
	for _, g := range groups {
		title := g
		if title == "" {
			title = "Flags"
		}
		fmt.Fprintf(b, "\n%s:\n", title)
		for _, o := range byGroup[g] {
			writeOption(b, o)
		}
	}
	return variables
}

func writeOption(b *strings.Builder, o *option) {
	// One-letter names first, as people look for these.
	names := o.Names()
	slices.SortStableFunc(names, func(a, b string) int { return min(len(a), 2) - min(len(b), 2) })
	for i := range names {
		names[i] = dashed(names[i])
	}
	placeholder, usage := describe(o)
	left := strings.TrimSpace(strings.Join(names, ", ") + " " + placeholder)
	if _, ok := o.Value.(*lines); ok {
		left += "…"
	}
	if d := shortDuration(o.GetDefaultText()); d != "" && d != "0" && d != "0s" && !o.toggle {
		usage += " (default " + d + ")"
	}
	writeEntry(b, flagIndent, left, usage)
}

// shortDuration makes 5m of 5m0s and 1h of 1h0m0s.
func shortDuration(s string) string {
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// describe returns what the value of f is called, "" if it takes none, and
// what f is for.
func describe(f cli.Flag) (placeholder, usage string) {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return "VALUE", ""
	}
	placeholder, usage = flag.UnquoteUsage(&flag.Flag{Usage: d.GetUsage()})
	switch {
	case !d.TakesValue():
		placeholder = ""
	case placeholder == "value":
		placeholder = "VALUE"
	}
	return placeholder, usage
}

// writeEntry writes one row of two columns, the right one wrapped.
func writeEntry(b *strings.Builder, indent int, left, right string) {
	margin := strings.Repeat(" ", indent)
	row := "  " + left
	if n := utf8.RuneCountInString(row); n > indent-2 {
		row += "\n" + margin
	} else {
		row += margin[n:]
	}
	column := indent
	for i, word := range strings.Fields(right) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
			column += n
		case column+1+n > helpWidth:
			row += "\n" + margin
			column = indent + n
		default:
			row += " "
			column += 1 + n
		}
		row += word
	}
	b.WriteString(strings.TrimRight(row, " ") + "\n")
}
