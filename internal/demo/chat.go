// Package demo has the small service that `wstun demo` tunnels to: a chat of
// lines, whose members see each other whatever path they came by, and the page
// and the check that go with it. How they are reached is the program's part.
package demo

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"wstun/internal/netx"
)

// Page is a page that joins the chat at the path chat, beside its own.
//
//go:embed page.html
var Page []byte

const (
	maxLine     = 4 << 10
	slowTimeout = 10 * time.Second // after which a member that does not read is dropped
)

// A Chat is a service of lines over TCP: what one member says, all see. The
// zero value is ready to use.
type Chat struct {
	mu      sync.Mutex
	members []*member
	named   int
}

type member struct {
	name string
	conn net.Conn
	mu   sync.Mutex // one line at a time
}

// Serve serves the chat on ln, which it closes, until ctx is done.
func (c *Chat) Serve(ctx context.Context, ln net.Listener) error {
	return netx.Serve(ctx, ln, c.join)
}

// join is the life of one member. It closes conn.
func (c *Chat) join(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	c.mu.Lock()
	c.named++
	m := &member{name: fmt.Sprintf("guest-%d", c.named), conn: conn}
	c.members = append(c.members, m)
	here := len(c.members)
	c.mu.Unlock()
	m.tell(fmt.Sprintf("welcome to the wstun demo chat: you are %s, %d here; say something", m.name, here))
	c.say(m, m.name+" has come")
	in := bufio.NewScanner(conn)
	in.Buffer(make([]byte, 1024), maxLine)
	for in.Scan() {
		if text := printable(in.Text()); text != "" {
			line := m.name + ": " + text
			c.say(m, line)
			m.tell(line)
		}
	}
	c.mu.Lock()
	c.members = slices.DeleteFunc(c.members, func(o *member) bool { return o == m })
	c.mu.Unlock()
	c.say(m, m.name+" has gone")
}

// printable keeps what one member may show on the terminals of the others.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
}

// say tells line to everybody but from.
func (c *Chat) say(from *member, line string) {
	c.mu.Lock()
	others := slices.Clone(c.members)
	c.mu.Unlock()
	for _, m := range others {
		if m != from {
			m.tell(line)
		}
	}
}

// tell sends line, or drops a member that does not take it.
func (m *member) tell(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn.SetWriteDeadline(time.Now().Add(slowTimeout))
	if _, err := m.conn.Write([]byte(line + "\n")); err != nil {
		m.conn.Close()
	}
}
