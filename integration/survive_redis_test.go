package integration

import (
	"strconv"
	"testing"

	"wstun/internal/impair"
)

// startRedis runs a redis-server and gives its address.
func startRedis(t testing.TB) (addr string) {
	t.Helper()
	needs(t, "redis-server", "redis-cli")
	port := freePort(t)
	p := start(t, "redis-server", "--port", strconv.Itoa(port), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", t.TempDir())
	p.await(t, "Ready to accept connections")
	return loopback(port)
}

func redisCLI(t testing.TB, addr string, args ...string) *console {
	t.Helper()
	return startConsole(t, "redis-cli", append([]string{"-p", portOf(t, addr)}, args...)...)
}

// TestSurviveRedis: a transaction is begun on one WebSocket, goes on on others
// and is committed on another. redis-cli connects anew by itself when it must,
// but then it is another client to the server, and one without a transaction.
func TestSurviveRedis(t *testing.T) {
	t.Parallel()
	target := startRedis(t)
	s := startServer(t, "--allow", target)
	r := impair.Listen(t, s.addr)
	c := startClient(t, "-L", "0:"+target, "ws://"+r.Addr())
	cli := redisCLI(t, c.local(t, target))
	cuts := 0
	cut := func() {
		cuts++
		r.Cut(impair.Reset)
	}
	ask := func(n int, line, want string) {
		t.Helper()
		if got := cli.answers(t, n, line); got != want {
			t.Fatalf("after %d cuts %s: %q, want %q", cuts, line, got, want)
		}
	}
	id := cli.answers(t, 1, "CLIENT ID")
	ask(1, "INCR n", "1")
	cut() // and what is typed next may go into a connection that is lost
	ask(1, "INCR n", "2")
	resumed(t, c.process, cuts)
	ask(1, "MULTI", "OK")
	for range 3 {
		cut()
		ask(1, "INCR n", "QUEUED")
		resumed(t, c.process, cuts)
	}
	cut()
	ask(3, "EXEC", "3\n4\n5")
	resumed(t, c.process, cuts)
	ask(1, "CLIENT ID", id)
	ask(1, "INCR n", "6")
	cli.in.Close()
	if code := cli.exit(t); code != 0 {
		t.Errorf("redis-cli: exit code %d", code)
	}
	neverEnds(t, c.process)
}

// TestSurviveRedisSubscription: what is published while there is no connection
// to the server is not missed by who has subscribed through it.
func TestSurviveRedisSubscription(t *testing.T) {
	t.Parallel()
	target := startRedis(t)
	s := startServer(t, "--allow", target)
	r := impair.Listen(t, s.addr)
	c := startClient(t, "-L", "0:"+target, "ws://"+r.Addr())
	subscriber := redisCLI(t, c.local(t, target), "SUBSCRIBE", "news")
	subscriber.awaitN(t, 3, "") // subscribe, news, 1
	publisher := redisCLI(t, target)
	for i := range 3 {
		r.Refuse(true)
		r.Cut(impair.Reset)
		c.awaitN(t, i+1, "connection lost, resuming")
		word := "word-" + strconv.Itoa(i)
		if got := publisher.answers(t, 1, "PUBLISH news "+word); got != "1" {
			t.Fatalf("published to %s subscribers, want 1", got)
		}
		r.Refuse(false)
		subscriber.await(t, word)
		resumed(t, c.process, i+1)
	}
	neverEnds(t, c.process)
}
