package integration

import (
	"fmt"
	"io"
	"sync"
	"testing"
)

// TestManyConnections: a hundred at once, all of them open before the first
// sends, every byte of each direction checked; and when they have gone nothing
// of them is left in the server or in the client.
func TestManyConnections(t *testing.T) {
	const (
		connections = 100
		size        = 512 << 10
	)
	target := echoTarget(t)
	s, c, local := startPair(t, target)
	for _, tt := range []struct {
		name string
		open func() (io.ReadWriteCloser, error)
	}{
		{"client", func() (io.ReadWriteCloser, error) { return dialTCP(local) }},
		{"browser", func() (io.ReadWriteCloser, error) { return openWS(s.ws()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := [2]int{s.descriptors(t), c.descriptors(t)}
			for _, err := range together(connections, size, tt.open) {
				t.Error(err)
			}
			// A session may have opened a second carrier under the load; that
			// is one descriptor and not one for each connection.
			const slack = 4
			eventually(t, fmt.Sprintf("the descriptors of server and client are %v again", before), func() bool {
				return s.descriptors(t) <= before[0]+slack && c.descriptors(t) <= before[1]+slack
			})
		})
	}
	s.serves(t)

	// Their goroutines can be counted only once. So a second pair, that has
	// served one connection of each kind, says how many there should be.
	s2, c2, _ := startPair(t, target)
	for _, pair := range []struct{ after, fresh *process }{{s.process, s2.process}, {c.process, c2.process}} {
		after, fresh := pair.after.goroutines(t), pair.fresh.goroutines(t)
		if after == 0 || fresh == 0 || after > fresh+30 {
			t.Errorf("%s: %d goroutines after a hundred connections, %d after one", pair.after.name, after, fresh)
		}
	}
}

// startPair starts a server and a client with a forward to an echo, and uses
// each kind of connection once: the first may open what stays open.
func startPair(t testing.TB, target string) (s *server, c *client, local string) {
	t.Helper()
	s = startServer(t, "--target", target, "--allow", target)
	c = startClient(t, "-L", "0:"+target, s.ws())
	local = c.local(t, target)
	conn := dial(t, local)
	if err := exchange(conn, 1, 1000); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	s.serves(t)
	return s, c, local
}

// together opens n conns to an echo and uses them all at once.
func together(n int, size int64, open func() (io.ReadWriteCloser, error)) (errs []error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []io.ReadWriteCloser
	)
	failed := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, fmt.Errorf("%s: %w", what, err))
	}
	for range n {
		wg.Go(func() {
			c, err := open()
			if err != nil {
				failed("open", err)
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		})
	}
	wg.Wait()
	for i, c := range conns {
		wg.Go(func() {
			if err := exchange(c, uint64(i), size); err != nil {
				failed(fmt.Sprintf("connection %d", i), err)
			}
		})
	}
	wg.Wait()
	for _, c := range conns {
		c.Close()
	}
	return errs
}
