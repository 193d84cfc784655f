package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is the one deadline of everything that a test waits for. It is not
// a figure that wstun must meet: whoever waits that long waits for ever.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	// Debian puts daemons where the PATH of a plain user does not look.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	waitTogether()
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	if len(skipped.tests) > 0 {
		fmt.Fprintf(os.Stderr, "\nNOT TESTED, because a program is missing (run integration/setup.sh):\n    %s\n\n",
			strings.Join(skipped.tests, "\n    "))
	}
	os.Exit(code)
}

// waitTogether lets as many parallel tests run as there are, unless the tester
// says how many: what they do is wait, whatever the number of cores.
func waitTogether() {
	flag.Parse()
	told := false
	flag.Visit(func(f *flag.Flag) { told = told || f.Name == "test.parallel" })
	if !told {
		flag.Set("test.parallel", "100")
	}
}

var built struct {
	once sync.Once
	dir  string // to remove at the end
	path string
	err  error
}

// program gives the path of the program under test; the first test that asks
// builds it.
func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.path = os.Getenv("WSTUN_BINARY"); built.path != "" {
			_, built.err = os.Stat(built.path)
			return
		}
		if built.dir, built.err = os.MkdirTemp("", "wstun-integration-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "wstun")
		args := []string{"build", "-buildvcs=false", "-o", built.path}
		if os.Getenv("WSTUN_TEST_RACE") != "" {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "wstun/cmd/wstun")...).CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

var skipped struct {
	sync.Mutex
	tests []string
}

// needs ends the test if a program is not installed: it is skipped, and said
// again at the end of the run, or failed where CI=true promises everything.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, program)
		}
	}
}

// lookPath gives the full path of a program that is installed.
func lookPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// needsModule is needs for a module of Debian's python3, or for a package of
// npm if it is given as a folder under node_modules.
func needsModule(t testing.TB, name string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("node_modules", name)); err == nil {
		return
	}
	if exec.Command("/usr/bin/python3", "-c", "import "+name).Run() != nil {
		missing(t, name)
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and CI=true allows nothing to be skipped; run integration/setup.sh", what)
	}
	skipped.Lock()
	skipped.tests = append(skipped.tests, t.Name()+": "+what)
	skipped.Unlock()
	t.Skipf("%s is not installed; run integration/setup.sh", what)
}

// eventually waits until a condition holds that nobody announces, such as a
// number of open descriptors.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("still not so after %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

// contains reports whether line has all of the words.
func contains(line string, words ...string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
}
