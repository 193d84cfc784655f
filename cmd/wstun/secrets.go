package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"wstun/internal/access"
	"wstun/internal/secret"
)

// maxSecret bounds what is read in search of a secret: no credential is longer.
const maxSecret = 64 << 10

func hashPasswordCommand() *cli.Command {
	return &cli.Command{
		Name:  "hash-password",
		Usage: "print what the server's users file keeps of a password",
		Description: `  wstun hash-password                           asks for the password, twice
  pass show lab7 | wstun hash-password          reads it from a pipe

Write the line that is printed behind the user's name:

  - name: lab7
    password: $2a$…`,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 { // probably a password, so it is not repeated
				return withHints(usagef("wstun hash-password takes no arguments"), "others can read a command line: type the password, or pipe it in")
			}
			pw, err := newPassword(c)
			if err != nil {
				return err
			}
			hash, err := access.HashPassword(pw)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.App.Writer, hash)
			return err
		},
	}
}

// newPassword asks for a password at the terminal, or else reads all of stdin.
func newPassword(c *cli.Context) ([]byte, error) {
	if f, ok := c.App.Reader.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return askTwice(c.Context, f, c.App.ErrWriter)
	}
	pw, err := io.ReadAll(io.LimitReader(c.App.Reader, maxSecret))
	if err != nil {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	pw = bytes.TrimSuffix(bytes.TrimSuffix(pw, []byte("\n")), []byte("\r"))
	if bytes.ContainsAny(pw, "\r\n") {
		return nil, errors.New("the password has more than one line")
	}
	return pw, nil
}

func askTwice(ctx context.Context, tty *os.File, w io.Writer) ([]byte, error) {
	first, err := ask(ctx, tty, w, "password: ")
	if err != nil {
		return nil, err
	}
	again, err := ask(ctx, tty, w, "once more: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, again) {
		return nil, errors.New("the passwords differ")
	}
	return first, nil
}

// ask reads a line from tty without showing it. A signal ends it with the
// terminal as it was; else the user's shell would not show what is typed.
func ask(ctx context.Context, tty *os.File, w io.Writer, prompt string) ([]byte, error) {
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	soft, _, stop := interrupts(ctx)
	defer stop()

	fmt.Fprint(w, prompt)
	defer fmt.Fprintln(w)
	type line struct {
		text []byte
		err  error
	}
	lines := make(chan line, 1)
	// A read of a terminal cannot be called off: after a signal this goroutine
	// stays behind, and the process ends.
	go func() {
		text, err := term.ReadPassword(fd)
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		return l.text, l.err
	case <-soft.Done():
		term.Restore(fd, before)
		return nil, errors.New("interrupted")
	}
}

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:      "token",
		Usage:     "make a token for a client",
		ArgsUsage: "[NAME]",
		Description: `  wstun token lab7                              for the user lab7

The token is printed once and kept nowhere: the server's users file holds its
SHA-256 alone.`,
		Action: atMost(1, func(c *cli.Context) error {
			name := c.Args().First()
			if name == "" {
				name = "NAME"
			}
			token, sum := access.NewToken()
			entry := fmt.Sprintf("- name: %q\n  tokens:\n    - name: %q\n      sha256: %s\n", name, name, sum)
			if _, err := access.ParseUsers("users file", []byte(entry)); err != nil {
				return usagef("%w", err)
			}
			// The token alone goes to standard output: wstun token lab7 > lab7.token
			fmt.Fprintf(c.App.ErrWriter, "for the server, in the file of --users:\n\n%s\nfor the client, in the file of --token-file:\n\n", entry)
			_, err := fmt.Fprintln(c.App.Writer, token)
			return err
		}),
	}
}

// readSecret returns the first line of the file at path. It refuses a file that
// others may write; that others may read one is only worth the warning, which
// is "" otherwise.
func readSecret(path string) (text, warning string, err error) {
	if path == "-" {
		return "", "", withHints(errors.New("a secret is not read from stdin"), "name a file, or set the variable of the flag")
	}
	data, warning, err := secret.Read(path)
	if err != nil {
		return "", "", err
	}
	first, _, _ := strings.Cut(string(data), "\n")
	if first = strings.TrimRight(first, "\r"); first == "" {
		return "", "", fmt.Errorf("%s: the first line is empty", path)
	}
	return first, warning, nil
}
