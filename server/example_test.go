package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"wstun/internal/access"
	"wstun/internal/netx/netxtest"
	"wstun/server"
)

// A server with one target. In place of this host, its network is in memory.
func Example() {
	var network netxtest.Network
	ctx := context.Background()
	if ln, err := network.Listen(ctx, "tcp", "127.0.0.1:5900"); err == nil {
		defer ln.Close()
	}
	target, err := server.ParseTarget("127.0.0.1:5900")
	if err != nil {
		fmt.Println(err)
		return
	}
	routes := server.Routes{Default: &target}
	s := server.New(server.Config{
		Network: &network,
		Routes:  routes,
		Policy:  &access.Policy{Allow: routes.Rules()},
		Log:     slog.New(slog.DiscardHandler),
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() {
		served <- s.Serve(server.Listener{Listener: ln, Front: access.Front{Loopback: true, Public: true}})
	}()

	resp, err := http.Get("http://" + ln.Addr().String() + "/")
	if err != nil {
		fmt.Println(err)
		return
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	fmt.Printf("%s: %.40q\n", resp.Status, text)

	fmt.Println(s.Shutdown(ctx), <-served)
	// Output:
	// 426 Upgrade Required: "This is a WebSocket endpoint of wstun. A"
	// <nil> <nil>
}
