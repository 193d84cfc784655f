package line_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"wstun/internal/line"
)

// A carrier is anything that keeps the borders of messages: here, two channels.
type carrier struct {
	in, out chan []byte
	once    *sync.Once
	closed  chan struct{}
}

func (c *carrier) Next() (io.Reader, error) {
	select {
	case m := <-c.in:
		return bytes.NewReader(m), nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *carrier) WriteMessages(msgs ...[]byte) error {
	for _, m := range msgs {
		select {
		case c.out <- bytes.Clone(m):
		case <-c.closed:
			return net.ErrClosed
		}
	}
	return nil
}

func (c *carrier) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *carrier) Received() uint32  { return 0 }
func (c *carrier) Abort(error) error { return c.Close() }
func (c *carrier) Wait()             {}

// Both ends of a line over one carrier.
func Example() {
	there, back, once, closed := make(chan []byte), make(chan []byte), new(sync.Once), make(chan struct{})
	clientEnd, serverEnd := &carrier{back, there, once, closed}, &carrier{there, back, once, closed}

	ctx := context.Background()
	var wg sync.WaitGroup
	wg.Go(func() {
		s, _, err := line.NewServer("server/1", line.Limits{}, line.Config{}).Accept(ctx, serverEnd, "alice")
		if err != nil {
			fmt.Println(err)
			return
		}
		defer s.Wait()
		defer s.Close()
		question, _ := io.ReadAll(s) // until the end that the client says
		fmt.Fprintf(s, "%s? I am %s.", question, s.Session().Principal)
		s.CloseWrite()
		s.Drained(ctx)
	})
	c, err := line.Dial(ctx, clientEnd, line.Hello{Agent: "client/1"}, line.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	io.WriteString(c, "who")
	c.CloseWrite()
	answer, _ := io.ReadAll(c)
	fmt.Println(string(answer), c.Drained(ctx)) // nil: nothing was lost, either way
	c.Close()
	c.Wait()
	wg.Wait()
	// Output: who? I am alice. <nil>
}
