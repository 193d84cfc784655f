package demo

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"time"
)

// Check has two members of a chat, that came by two paths, see each other: a
// says lines of together size bytes that b must get, complete and in order. It
// returns how long that took. The conns are the caller's, fresh and to be
// closed after.
func Check(a, b net.Conn, size int) (time.Duration, error) {
	deadline := time.Now().Add(30 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	fromA, fromB := bufio.NewReader(a), bufio.NewReader(b)
	for _, r := range []*bufio.Reader{fromA, fromB} {
		if l, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(l, "welcome") {
			return 0, fmt.Errorf("no welcome from the chat but %q: %w", l, err)
		}
	}
	start := time.Now()
	said := make(chan error, 1)
	lines := make([]string, size/512)
	for i := range lines {
		lines[i] = fmt.Sprintf("%06d %s%s", i, rand.Text(), strings.Repeat(".", 478))
	}
	go func() { said <- say(a, fromA, lines) }()
	for i := 0; i < len(lines); {
		l, err := fromB.ReadString('\n')
		if err != nil {
			return 0, fmt.Errorf("after line %d of %d: %w", i, len(lines), err)
		}
		_, text, _ := strings.Cut(strings.TrimSuffix(l, "\n"), ": ")
		if text == "" {
			continue // somebody has come or gone
		}
		if text != lines[i] {
			return 0, fmt.Errorf("line %d arrived as %.40q", i, text)
		}
		i++
	}
	took := time.Since(start)
	return took, <-said
}

// say sends lines and reads the chat's echo of them, or both ends would wait.
func say(c net.Conn, echo *bufio.Reader, lines []string) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte(strings.Join(lines, "\n") + "\n"))
		sent <- err
	}()
	for seen := 0; seen < len(lines); {
		l, err := echo.ReadString('\n')
		if err != nil {
			return fmt.Errorf("echo: %w", err)
		}
		if strings.Contains(l, ": ") {
			seen++
		}
	}
	return <-sent
}
