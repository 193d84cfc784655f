package mux_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"

	"wstun/internal/netx/netxtest"
	"wstun/mux"
)

// A conn is a line, as far as it goes: a real one survives its carrier.
type conn struct{ net.Conn }

func (c conn) WriteJoined(head, body []byte) (int, error) {
	return c.Write(append(slices.Clone(head), body...))
}

// One end dials on the other as on a network; the other answers as it likes.
func Example() {
	a, b := netxtest.Pipe()
	client, _ := mux.Client(conn{a}, mux.Config{})
	server, _ := mux.Server(conn{b}, mux.Config{})
	defer client.Close()
	defer server.Close()

	ctx := context.Background()
	go func() {
		r, err := server.Accept(ctx)
		if err != nil {
			return
		}
		st, err := r.Grant("")
		if err != nil {
			return
		}
		fmt.Fprintf(st, "this is %s", r.Address)
		st.Close() // FIN: that was all
	}()

	c, err := client.Dial(ctx, "tcp", "db:5432")
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := io.ReadAll(c) // no error: complete
	fmt.Println(string(answer), err)
	c.Close()
	// Output: this is db:5432 <nil>
}
