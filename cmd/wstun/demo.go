package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"wstun/client"
	"wstun/internal/access"
	"wstun/internal/demo"
	"wstun/internal/wsconn"
	"wstun/server"
)

type demoFlags struct {
	listen string
	once   bool
	shared
}

func demoCommand() *cli.Command {
	s := demoFlags{listen: "127.0.0.1:8080"}
	f := newFlags("demo")
	f.text(&s.listen, "listen", "`ADDR` of the demo's server; a free port if this one is taken")
	f.toggle(&s.once, "once", "check both paths and end: exit code 0 if they work")
	f.shared(&s.shared)
	return &cli.Command{
		Name:  "demo",
		Usage: "show both paths at work on this machine",
		Description: `  wstun demo
      a chat on TCP, a page that joins it, and a port for nc`,
		Flags:  f.list,
		Action: atMost(0, func(c *cli.Context) error { return s.run(c) }),
	}
}

// demoSize is how much the check pushes through each path.
const demoSize = 1 << 20

func (s *demoFlags) run(c *cli.Context) error {
	if !c.IsSet("log-level") {
		s.LogLevel = slog.LevelError
	}
	soft, _, stop := interrupts(c.Context)
	defer stop()
	d := &demonstration{log: s.logger(c.App.ErrWriter), out: c.App.Writer}
	defer d.end()
	if err := d.start(soft, s.listen); err != nil {
		return err
	}
	if err := d.check(soft); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if s.once {
		return nil
	}
	fmt.Fprintf(d.out, `
  open   http://%s/#%s   in a browser
  type   nc 127.0.0.1 %s   in another terminal

Both join the same chat. Ctrl-C ends it.
`, d.server, d.port, d.port)
	select {
	case <-soft.Done():
		return nil
	case err := <-d.failed:
		return err
	}
}

// A demonstration is a chat, a server and a client in one process.
type demonstration struct {
	log    *slog.Logger
	out    io.Writer
	server net.Addr // of the server
	port   string   // of the client
	failed chan error

	running sync.WaitGroup
	ends    []func()
}

// end stops everything, in the opposite order.
func (d *demonstration) end() {
	for i := len(d.ends) - 1; i >= 0; i-- {
		d.ends[i]()
	}
	d.running.Wait()
}

func (d *demonstration) start(ctx context.Context, addr string) error {
	d.failed = make(chan error, 3)
	chat, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	chatting, endChat := context.WithCancel(context.WithoutCancel(ctx))
	d.ends = append(d.ends, endChat)
	d.running.Go(func() { d.failed <- new(demo.Chat).Serve(chatting, chat) })
	fmt.Fprintf(d.out, "a line chat runs on %s; it speaks TCP and nothing else\n\n", chat.Addr())
	if err := d.startServer(chat.Addr().String(), addr); err != nil {
		return err
	}
	return d.startClient(chat.Addr().String())
}

func (d *demonstration) startServer(chat, addr string) error {
	dir, err := os.MkdirTemp("", "wstun-demo-")
	if err != nil {
		return err
	}
	d.ends = append(d.ends, func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "index.html"), demo.Page, 0o600); err != nil {
		return err
	}
	web, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	d.ends = append(d.ends, func() { web.Close() })
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		ln, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return fmt.Errorf("--listen %s: %w", addr, err)
	}
	if !isLoopback(ln.Addr()) {
		ln.Close()
		return usagef("--listen %s: the demo is for this machine alone; write 127.0.0.1:8080", addr)
	}
	var routes server.Routes
	if err := routes.Add("/chat=" + chat); err != nil {
		return err
	}
	srv := server.New(server.Config{
		Policy: &access.Policy{Allow: routes.Rules()}, Routes: routes, Web: web,
		PingInterval: 25 * time.Second, Agent: "wstun/" + programVersion(), Log: d.log,
	})
	d.server = ln.Addr()
	d.running.Go(func() {
		d.failed <- srv.Serve(server.Listener{Listener: ln, Front: access.Front{Loopback: isLoopback(ln.Addr()), Public: true}})
	})
	d.ends = append(d.ends, func() { srv.Shutdown(ended()) })
	return nil
}

func (d *demonstration) startClient(chat string) error {
	forwards, err := client.ParseForward("127.0.0.1:0:" + chat)
	if err != nil {
		return err
	}
	ready := make(chan net.Addr, 1)
	c := client.New(client.Config{
		URL: &url.URL{Scheme: "ws", Host: d.server.String()}, Forwards: forwards,
		Listening: func(_ client.Forward, a net.Addr) { ready <- a },
		Agent:     "wstun/" + programVersion(), Log: d.log,
	})
	d.running.Go(func() { d.failed <- c.Run() })
	d.ends = append(d.ends, func() { c.Shutdown(ended()) })
	select {
	case a := <-ready:
		_, d.port, err = net.SplitHostPort(a.String())
		return err
	case err := <-d.failed:
		return errors.Join(errors.New("the client ended"), err)
	}
}

// ended is a context that leaves no time.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// check pushes bytes through both paths, each way.
func (d *demonstration) check(ctx context.Context) error {
	browser := func() (net.Conn, error) {
		return wsconn.Dial(ctx, "ws://"+d.server.String()+"/chat", wsconn.DialOptions{})
	}
	tcp := func() (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+d.port)
	}
	for _, path := range []struct {
		name     string
		from, to func() (net.Conn, error)
	}{
		{"browser    ws://" + d.server.String() + "/chat", browser, tcp},
		{"TCP client 127.0.0.1:" + d.port + ", through wstun client", tcp, browser},
	} {
		took, err := checkPath(path.from, path.to)
		if err != nil {
			return fmt.Errorf("%s: %w", path.name, err)
		}
		fmt.Fprintf(d.out, "  ok  %-52s %d KiB arrived in %v\n", path.name, demoSize>>10, took.Round(100*time.Microsecond))
	}
	return nil
}

func checkPath(from, to func() (net.Conn, error)) (time.Duration, error) {
	a, err := from()
	if err != nil {
		return 0, err
	}
	defer closeConn(a)
	b, err := to()
	if err != nil {
		return 0, err
	}
	defer closeConn(b)
	return demo.Check(a, b, demoSize)
}

func closeConn(c net.Conn) {
	if ws, ok := c.(*wsconn.Conn); ok {
		ws.Finish(wsconn.NormalClosure, "")
		ws.Wait()
		return
	}
	c.Close()
}
