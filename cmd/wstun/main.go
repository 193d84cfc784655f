// Command wstun carries TCP over WebSocket; the binary is both ends.
//
// This package alone reads flags, files, the environment and signals, prints
// and exits. What the commands do is in packages server and client.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
)

// version is set by the linker (-X main.version=v1.2.3) for releases.
var version string

func main() {
	log.SetOutput(io.Discard) // net/http writes there of what it meets; errors come back as such
	os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio is what a command reads and prints. Commands find it in their context,
// as c.App.Reader, Writer and ErrWriter.
type stdio struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// run runs the command that args, the program's name first, ask for, and
// returns the exit code. ctx ends the command at once.
func run(ctx context.Context, args []string, std stdio) (code int) {
	return runOne(ctx, commands(), args, std)
}

func commands() []*cli.Command {
	return []*cli.Command{
		serverCommand(),
		clientCommand(),
		demoCommand(),
		hashPasswordCommand(),
		tokenCommand(),
		versionCommand(),
		helpCommand(),
	}
}

// runOne is run with other commands than the program's.
func runOne(ctx context.Context, cmds []*cli.Command, args []string, std stdio) int {
	app := &cli.App{
		Name:                      "wstun",
		Commands:                  cmds,
		Flags:                     []cli.Flag{&cli.BoolFlag{Name: "version"}},
		Action:                    bare,
		OnUsageError:              usageError,
		HideHelp:                  true, // ours: see arrange and help.go
		HideVersion:               true,
		DisableSliceFlagSeparator: true,
		Reader:                    std.in,
		Writer:                    std.out,
		ErrWriter:                 std.err,
		ExitErrHandler:            func(*cli.Context, error) {}, // or it would exit
	}
	adopt(cmds)

	root := &cli.Command{Name: app.Name, Flags: app.Flags, Subcommands: cmds}
	argv, err := arrange(root, args)
	if err == nil {
		err = app.RunContext(ctx, argv)
	}
	if err != nil {
		printError(std.err, err)
	}
	return exitCode(err)
}

// adopt turns off in cmds what this program does its own way.
func adopt(cmds []*cli.Command) {
	for _, c := range cmds {
		c.HideHelp = true
		c.OnUsageError = usageError
		adopt(c.Subcommands)
	}
}

// bare is `wstun` without a command.
func bare(c *cli.Context) error {
	if c.Bool("version") {
		return printVersion(c)
	}
	io.WriteString(c.App.ErrWriter, appHelp(c.App))
	return silent(exitUsage)
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "print the version",
		Action: atMost(0, printVersion),
	}
}

func printVersion(c *cli.Context) error {
	_, err := fmt.Fprintf(c.App.Writer, "wstun %s %s %s/%s\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// programVersion is the linker's word, or else what the build recorded.
func programVersion() string {
	if version != "" {
		return version
	}
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" {
		return build.Main.Version
	}
	return "(devel)"
}

// interrupts returns contexts that end when the user asks to stop: soft at the
// first SIGINT or SIGTERM, hard at the second or when ctx ends. A third kills
// the process. The caller calls stop, which gives the signals back and ends
// both contexts.
func interrupts(ctx context.Context) (soft, hard context.Context, stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	return countSignals(ctx, signals, func() { signal.Stop(signals) })
}

// countSignals is interrupts for signals from anywhere. It calls release when
// no more of them are wanted.
func countSignals(ctx context.Context, signals <-chan os.Signal, release func()) (soft, hard context.Context, stop func()) {
	hard, endHard := context.WithCancel(ctx)
	soft, endSoft := context.WithCancel(hard)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer release()
		for _, end := range []func(){endSoft, endHard} {
			select {
			case <-signals:
				end()
			case <-hard.Done():
				return
			}
		}
	}()
	return soft, hard, func() {
		endHard()
		<-done
		endSoft()
	}
}

// hangupGrace is what is left to end in order once there is nobody to serve.
const hangupGrace = 2 * time.Second

// hangups returns a context that ends a while after SIGHUP, with which ssh ends
// its ProxyCommand and a terminal its programs; the signal does not kill the
// process, or the server would keep the session of a client that cannot come
// back. The caller calls stop, which gives the signal back and ends the context.
func hangups(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 1)
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer signal.Stop(signals)
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
		grace := time.NewTimer(hangupGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel()
		<-done
	}
}
