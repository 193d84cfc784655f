package wsconn_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"wstun/internal/wsconn"
)

// A server that answers what it is told, and says why it ends.
func Example() {
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := wsconn.Accept(w, r, "")
		if err != nil {
			return
		}
		defer c.Wait()
		m, err := c.Next()
		if err != nil {
			c.Abort(err)
			return
		}
		text, _ := io.ReadAll(m)
		fmt.Fprintf(c, "you said %q", text)
		c.Finish(wsconn.NormalClosure, "that was all")
	}))
	defer ts.Close()

	c, err := wsconn.Dial(context.Background(), ts.URL, wsconn.DialOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	io.WriteString(c, "hello")
	got, err := io.ReadAll(c) // no error: a Close frame came
	fmt.Println(string(got), err)
	c.Close()
	c.Wait()
	// Output: you said "hello" <nil>
}
