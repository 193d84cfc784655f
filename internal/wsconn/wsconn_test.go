package wsconn

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a WebSocket, over TLS if secure.
func pair(t testing.TB, secure bool) (client, server *Conn) {
	t.Helper()
	got := make(chan *Conn, 1)
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, "")
		if err != nil {
			t.Error(err)
		}
		got <- c
	}))
	ts.Listener = Listener(ts.Listener)
	var o DialOptions
	if secure {
		ts.StartTLS()
		o.TLS = ts.Client().Transport.(*http.Transport).TLSClientConfig
	} else {
		ts.Start()
	}
	client, err := Dial(t.Context(), ts.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	server = <-got
	t.Cleanup(func() {
		client.Abort(nil)
		server.Abort(nil)
		client.Wait()
		server.Wait()
		ts.Close()
	})
	return client, server
}

func both(t *testing.T, f func(t *testing.T, client, server *Conn)) {
	for name, secure := range map[string]bool{"ws": false, "wss": true} {
		t.Run(name, func(t *testing.T) {
			c, s := pair(t, secure)
			f(t, c, s)
		})
	}
}

func TestBytesBothWays(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		for _, dir := range []struct{ from, to *Conn }{{c, s}, {s, c}} {
			want := make([]byte, 5<<20)
			rand.Read(want)
			var wg sync.WaitGroup
			wg.Go(func() {
				for p := want; len(p) > 0; {
					k := min(len(p), 1+int(p[0])*300)
					if _, err := dir.from.Write(p[:k]); err != nil {
						t.Error(err)
						return
					}
					p = p[k:]
				}
			})
			got := make([]byte, len(want))
			if _, err := io.ReadFull(dir.to, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("differs: %v", err)
			}
			wg.Wait()
		}
	})
}

// A relay asks Ready before each Read; a short message must not cost two writes.
func TestReadAfterReadyReturnsTheWholeMessage(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		buf := make([]byte, 100)
		for range 3 {
			c.Write([]byte("hello"))
			if err := s.Ready(); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Read(buf); n != 5 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
	})
}

func TestMessagesKeepTheirBorders(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		msgs := [][]byte{[]byte("a"), bytes.Repeat([]byte("b"), 70_000), {}, []byte("c")}
		go c.WriteMessages(msgs...)
		for _, want := range msgs {
			r, err := s.Next()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, want %d, %v", len(got), len(want), err)
			}
		}
	})
}

func TestFinishFlushesThenSaysWhy(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		go func() {
			s.Write(make([]byte, 3<<20))
			s.Finish(NormalClosure, "the target closed the connection")
		}()
		n, err := io.Copy(io.Discard, struct{ io.Reader }{c})
		if n != 3<<20 || err != nil || !c.PeerClosed() {
			t.Errorf("%d bytes, %v", n, err)
		}
		s.Wait()
	})
}

func TestDataBehindOurCloseIsDiscarded(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		s.Finish(NormalClosure, "")
		go func() {
			for {
				if _, err := c.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		}()
		var wg sync.WaitGroup
		for _, end := range []*Conn{c, s} {
			wg.Go(func() {
				if _, err := io.Copy(io.Discard, struct{ io.Reader }{end}); err != nil {
					t.Errorf("read: %v", err)
				}
			})
		}
		wg.Wait()
		s.Wait()
	})
}

func TestEndOfTCPIsNoClose(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		c.Write([]byte("half a sen"))
		c.Close()
		got, err := io.ReadAll(s)
		if string(got) != "half a sen" || err == nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// A ping that comes while our write waits for a peer that does not read: a
// library that answers it under the lock of that write gives the reader up.
func TestPingWhileAWriteIsBlockedDoesNotKillTheReader(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		wrote := make(chan error, 1)
		go func() {
			_, err := s.Write(make([]byte, 24<<20))
			wrote <- err
		}()
		ctx, cancel := context.WithCancel(t.Context())
		ping := make(chan struct{})
		go func() { c.ws.Ping(ctx); close(ping) }()
		c.Write([]byte("still there?"))
		if _, err := io.ReadFull(s, make([]byte, 12)); err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, struct{ io.Reader }{s}) // takes the ping, if it comes behind
		if n, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, 24<<20); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		go io.Copy(io.Discard, struct{ io.Reader }{c}) // takes the pong
		<-ping
		cancel()
	})
}

func TestServersPingIsAnswered(t *testing.T) {
	both(t, func(t *testing.T, c, s *Conn) {
		go io.Copy(io.Discard, struct{ io.Reader }{c})
		before, _ := s.Traffic()
		s.Ping()
		go s.Read(make([]byte, 1))
		for {
			if rx, _ := s.Traffic(); rx != before {
				return
			}
		}
	})
}

func TestFirstFrameRightBehindTheRequestIsNotLost(t *testing.T) {
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, "")
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		c.Abort(nil)
		c.Wait()
	}))
	defer ts.Close()
	conn, err := net.Dial("tcp", ts.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	frame := append([]byte{0x82, 0x80 | 5, 0, 0, 0, 0}, "hello"...)
	conn.Write(append([]byte("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"), frame...))
	var got []byte
	buf := make([]byte, 1024)
	for !bytes.Contains(got, []byte("\x82\x05hello")) {
		n, err := conn.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestDialSaysWhatTheServerAnswered(t *testing.T) {
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
			return
		}
		http.Error(w, "nothing here", http.StatusNotFound)
	}))
	defer ts.Close()
	for path, code := range map[string]int{"/": 404, "/redirect": 302} {
		_, err := Dial(t.Context(), ts.URL+path, DialOptions{Header: http.Header{"Authorization": {"Bearer x"}}})
		var se *StatusError
		if !errors.As(err, &se) || se.Code != code {
			t.Errorf("%s: %v", path, err)
		} else if code == 404 && strings.TrimSpace(se.Body) != "nothing here" || code == 302 && se.Redirect == "" {
			t.Errorf("%s: %+v", path, se)
		}
	}
}

func TestServerThatDoesNotSpeakTheSubprotocolIsRefused(t *testing.T) {
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, "")
		if err == nil {
			c.Read(make([]byte, 1))
			c.Abort(nil)
			c.Wait()
		}
	}))
	defer ts.Close()
	if _, err := Dial(t.Context(), ts.URL, DialOptions{Subprotocol: "wstun.v1"}); err == nil || !strings.Contains(err.Error(), "wstun.v1") {
		t.Errorf("got %v", err)
	}
}

func TestUntrustedCertificateIsRefused(t *testing.T) {
	ts := httptest.NewTLSServer(http.NotFoundHandler())
	defer ts.Close()
	ts.Config.ErrorLog = nil
	_, err := Dial(t.Context(), ts.URL, DialOptions{TLS: &tls.Config{}})
	var ve *tls.CertificateVerificationError
	if !errors.As(err, &ve) {
		t.Errorf("got %v", err)
	}
}
