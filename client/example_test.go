package client_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"

	"wstun/client"
	"wstun/internal/line"
	"wstun/internal/wsconn"
	"wstun/mux"
)

// A program that dials through a tunnel, as it would with net.Dial. The server
// of this example answers whatever is dialled itself.
func ExampleClient() {
	ts := httptest.NewServer(http.HandlerFunc(answer))
	defer ts.Close()
	u, _ := url.Parse(ts.URL)

	c := client.New(client.Config{URL: u, Log: slog.New(slog.DiscardHandler)})
	done := make(chan error)
	go func() { done <- c.Run() }()

	ctx := context.Background()
	conn, err := c.Dial(ctx, "tcp", "db:5432")
	if err != nil {
		fmt.Println(err)
		return
	}
	got, err := io.ReadAll(conn)
	fmt.Println(string(got), err)
	conn.Close()
	c.Shutdown(ctx)
	fmt.Println(<-done)
	// Output:
	// this is db:5432 <nil>
	// <nil>
}

func answer(w http.ResponseWriter, r *http.Request) {
	ws, err := wsconn.Accept(w, r, "wstun.v1")
	if err != nil {
		return
	}
	defer ws.Wait()
	l, _, err := line.NewServer("example", line.Limits{}, line.Config{}).Accept(context.Background(), ws, "anonymous")
	if err != nil {
		return
	}
	defer l.Wait()
	s, err := mux.Server(l, mux.Config{})
	if err != nil {
		return
	}
	defer s.Close()
	for {
		req, err := s.Accept(context.Background())
		if err != nil {
			return
		}
		if st, err := req.Grant(""); err == nil {
			fmt.Fprintf(st, "this is %s", req.Address)
			st.Close()
		}
	}
}
