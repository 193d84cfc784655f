package integration

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process is a program that a test started. What it prints is kept, can be
// waited for, and is shown if the test fails.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its output is complete
	code int           // its exit code, or -1 if a signal ended it; valid after done
	shot bool          // ended by goroutines, which is not in order

	mu      sync.Mutex
	lines   []string
	partial string        // a line that has no end yet
	grown   chan struct{} // closed and replaced at each new line
}

// start runs a program with nothing of the tester's environment that could
// change what it does, in a process group of its own: whatever it starts ends
// with it. When the test ends the group is killed if it still runs.
func start(t testing.TB, program string, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(program, args...))
}

// startCommand is start for a command that is set up further. An Stdout that
// is set is left alone; otherwise it joins the lines.
func startCommand(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{
		name:  cmd.Args[0],
		cmd:   cmd,
		done:  make(chan struct{}),
		grown: make(chan struct{}),
	}
	if i := strings.LastIndexByte(p.name, '/'); i >= 0 {
		p.name = p.name[i+1:]
	}
	cmd.Env = append(environment(t), cmd.Env...)
	cmd.Stderr = p
	if cmd.Stdout == nil {
		cmd.Stdout = p
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A child of the program may hold its output open after it ended.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := cmd.Wait()
		p.code = cmd.ProcessState.ExitCode()
		if err != nil && p.code == 0 && !errors.Is(err, exec.ErrWaitDelay) {
			p.Write([]byte("[" + err.Error() + "]\n"))
		}
		close(p.done)
	}()
	t.Cleanup(func() {
		// The group's leader may be gone and its children not.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		if t.Failed() {
			t.Logf("%s (exit code %d) said:\n%s", p.name, p.code, indent(lastLines(p.output(), 60)))
		}
	})
	return p
}

// environment is that of a user who configured nothing, with a home of its own.
func environment(t testing.TB) []string {
	home := t.TempDir()
	return []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "TMPDIR=" + os.TempDir()}
}

// Write takes what the process prints.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	parts := strings.Split(p.partial+string(b), "\n")
	p.partial = parts[len(parts)-1]
	if len(parts) > 1 {
		p.lines = append(p.lines, parts[:len(parts)-1]...)
		close(p.grown)
		p.grown = make(chan struct{})
	}
	return len(b), nil
}

// output is everything printed so far.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n") + "\n" + p.partial
}

// await gives the first line that has all of the words, and waits for it.
func (p *process) await(t testing.TB, words ...string) string {
	t.Helper()
	return p.awaitN(t, 1, words...)[0]
}

// awaitN waits for n lines that each have all of the words.
func (p *process) awaitN(t testing.TB, n int, words ...string) []string {
	t.Helper()
	deadline := time.After(patience)
	for ended := false; ; {
		p.mu.Lock()
		grown := p.grown
		var found []string
		for _, line := range p.lines {
			if contains(line, words...) {
				found = append(found, line)
			}
		}
		p.mu.Unlock()
		if len(found) >= n {
			return found
		}
		if ended {
			t.Fatalf("%s ended with code %d after %d of %d lines with %q", p.name, p.code, len(found), n, words)
		}
		select {
		case <-grown:
		case <-p.done:
			ended = true // one more look: its last lines came before
		case <-deadline:
			t.Fatalf("%s printed %d of %d lines with %q in %v", p.name, len(found), n, words, patience)
		}
	}
}

// exit waits for the end of the process and gives its exit code.
func (p *process) exit(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s still runs after %v", p.name, patience)
	}
	return p.code
}

// stop asks the process to end, as a service manager does.
func (p *process) stop(t testing.TB) (code int) {
	t.Helper()
	select {
	case <-p.done: // its id may be somebody else's by now
	default:
		p.cmd.Process.Signal(syscall.SIGTERM)
	}
	return p.exit(t)
}

// run runs a program to its end and gives its exit code and what it printed.
func run(t testing.TB, program string, args ...string) (code int, output string) {
	t.Helper()
	p := start(t, program, args...)
	return p.exit(t), p.output()
}

// pipeline runs a program with input and gives what it wrote to stdout.
func pipeline(t testing.TB, input io.Reader, output io.Writer, program string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = input
	cmd.Stdout = output
	return startCommand(t, cmd)
}

// goroutines ends a Go program and counts the goroutines that it had: SIGQUIT
// makes it print them all.
func (p *process) goroutines(t testing.TB) int {
	t.Helper()
	p.shot = true
	p.cmd.Process.Signal(syscall.SIGQUIT)
	p.exit(t)
	n := 0
	for line := range strings.Lines(p.output()) {
		if strings.HasPrefix(line, "goroutine ") && strings.HasSuffix(line, "]:\n") {
			n++
		}
	}
	return n
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if cut := len(lines) - n; cut > 0 {
		return "…\n" + strings.Join(lines[cut:], "\n")
	}
	return strings.Join(lines, "\n")
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
