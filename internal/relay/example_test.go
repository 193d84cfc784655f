package relay_test

import (
	"context"
	"fmt"
	"io"

	"wstun/internal/netx/netxtest"
	"wstun/internal/relay"
)

// A client and a target that know nothing of each other.
func Example() {
	client, a := netxtest.Pipe()
	b, target := netxtest.Pipe()

	go func() {
		request, _ := io.ReadAll(target) // until the client's end has come through
		fmt.Fprintf(target, "you said %q", request)
		target.Close()
	}()
	go func() {
		io.WriteString(client, "hello")
		client.CloseWrite()
	}()

	var r relay.Relay
	if err := r.Run(context.Background(), a, b); err != nil {
		fmt.Println(err)
	}
	answer, _ := io.ReadAll(client)
	fmt.Printf("%s (%d bytes there, %d back)\n", answer, r.Sent.Load(), r.Received.Load())
	// Output: you said "hello" (5 bytes there, 16 back)
}
