package netx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
)

const connect = "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n"

// A step of a fake proxy: what it must be sent and what it then says.
type step struct{ expect, say string }

// fakeProxy takes its steps with the one conn it gets, and then echoes, or ends as told.
type fakeProxy struct {
	steps []step
	then  func(net.Conn) // nil: echo
}

func (f *fakeProxy) run(t *testing.T, c net.Conn) {
	defer c.Close()
	for _, s := range f.steps {
		got := make([]byte, len(s.expect))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != s.expect {
			t.Errorf("the proxy was sent %q, %v, want %q", got, err, s.expect)
			return
		}
		if _, err := io.WriteString(c, s.say); err != nil {
			return // the dialer has given up, as some tests want
		}
	}
	if f.then != nil {
		f.then(c)
		return
	}
	io.Copy(c, c)
}

func silent(c net.Conn)  { io.Copy(io.Discard, c) }
func resets(c net.Conn)  { netx.Abort(c, nil) }
func nothing(c net.Conn) {}

// through dials db:5432 through f at proxy:3128 in a bubble. The fake's
// goroutine ends with the conn; done waits for that.
func through(t *testing.T, proxy string, f fakeProxy) (c net.Conn, done func(), err error) {
	t.Helper()
	var n netxtest.Network
	ln := listen(t, &n, "proxy:3128")
	served := make(chan error)
	go func() {
		served <- netx.Serve(t.Context(), ln, func(_ context.Context, c net.Conn) { f.run(t, c) })
	}()
	dial := mustVia(t, proxy, n.Dial)
	ctx, cancel := context.WithCancel(t.Context())
	c, err = dial(ctx, "tcp", "db:5432")
	cancel() // must not affect the conn
	return c, func() {
		if c != nil {
			c.Close()
		}
		ln.Close()
		<-served
	}, err
}

func mustVia(t *testing.T, proxy string, next netx.DialFunc) netx.DialFunc {
	t.Helper()
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	dial, err := netx.Via(u, next)
	if err != nil {
		t.Fatal(err)
	}
	return dial
}

func TestViaReaches(t *testing.T) {
	const greeting, none = "\x05\x01\x00", "\x05\x00"
	const request, granted = "\x05\x01\x00\x03\x02db\x15\x38", "\x05\x00\x00\x01\x7f\x00\x00\x01\x15\x38"
	for _, test := range []struct {
		name, proxy string
		steps       []step
		first       string // bytes of the target that come with the answer
	}{
		{"connect", "http://proxy:3128", []step{{connect, "HTTP/1.1 200 OK\r\n\r\n"}}, ""},
		{"HTTP/1.0", "http://proxy:3128", []step{{connect, "HTTP/1.0 200 Connection established\r\n\r\n"}}, ""},
		{"no reason", "http://proxy:3128", []step{{connect, "HTTP/1.1 200\r\n\r\n"}}, ""},
		{"bare line feeds", "http://proxy:3128", []step{{connect, "HTTP/1.1 200 OK\nVia: x\n\n"}}, ""},
		{"204", "http://proxy:3128", []step{{connect, "HTTP/1.1 204 Fine\r\n\r\n"}}, ""},
		{"length of nothing", "http://proxy:3128", []step{{connect, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"}}, ""},
		{"target speaks first", "http://proxy:3128", []step{{connect, "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n"}}, "SSH-2.0-x\r\n"},
		{"password", "http://me:s3cret@proxy:3128", []step{{strings.TrimSuffix(connect, "\r\n") +
			"Proxy-Authorization: Basic bWU6czNjcmV0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"}}, ""},
		{"socks", "socks5://proxy:3128", []step{{greeting, none}, {request, granted}}, ""},
		{"socks, target speaks first", "socks5h://proxy:3128", []step{{greeting, none}, {request, granted + "RFB 003.008\n"}}, "RFB 003.008\n"},
		{"socks password", "socks5://me:s3cret@proxy:3128", []step{{"\x05\x02\x00\x02", "\x05\x02"},
			{"\x01\x02me\x06s3cret", "\x01\x00"}, {request, granted}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, done, err := through(t, test.proxy, fakeProxy{steps: test.steps})
				defer done()
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Hour) // no deadline is left
				io.WriteString(c, "question")
				if !netx.CanCloseWrite(c) {
					t.Fatal("the conn has lost its CloseWrite")
				}
				netx.CloseWrite(c)
				got, err := io.ReadAll(c)
				if want := test.first + "question"; string(got) != want || err != nil {
					t.Errorf("read %q, %v, want %q", got, err, want)
				}
			})
		})
	}
}

func TestViaFails(t *testing.T) {
	long := strings.Repeat("x", 20<<10)
	const greeting = "\x05\x01\x00"
	const authHint = "the proxy wants a user name and password: --proxy http://user:pass@host:port (or HTTPS_PROXY)"
	answers := func(s string) fakeProxy { return fakeProxy{[]step{{connect, s}}, silent} }
	socks := func(s ...step) fakeProxy { return fakeProxy{s, silent} }
	for _, test := range []struct {
		name, proxy string
		fake        fakeProxy
		text, hint  string
		is          error
		after       time.Duration
	}{
		{"407", "http://proxy:3128", answers("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n"),
			`proxy proxy:3128 answered CONNECT db:5432 with "407 Proxy Authentication Required"`, authHint, nil, 0},
		{"407 to a password", "http://me:s3cret@proxy:3128", fakeProxy{[]step{{"CONNECT", "HTTP/1.1 407 No\r\n\r\n"}}, silent},
			`proxy proxy:3128 answered CONNECT db:5432 with "407 No"`, "the proxy does not accept this user name and password", nil, 0},
		{"407 of another kind", "http://proxy:3128", answers("HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\n\r\n"),
			`proxy proxy:3128 answered CONNECT db:5432 with "407 No"`, "the proxy wants Negotiate or NTLM and wstun answers with Basic only", nil, 0},
		{"403", "http://proxy:3128", answers("HTTP/1.1 403 Forbidden\r\n\r\n<html>"),
			`proxy proxy:3128 answered CONNECT db:5432 with "403 Forbidden"`, "the proxy does not allow db:5432", nil, 0},
		{"502 in two lines", "http://proxy:3128", answers("HTTP/1.1 502 Bad\rGateway\x1b[2J\r\n\r\n"),
			`proxy proxy:3128 answered CONNECT db:5432 with "502 Bad\rGateway\x1b[2J"`, "the proxy could not reach db:5432", nil, 0},
		{"302", "http://proxy:3128", answers("HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n"),
			`proxy proxy:3128 answered CONNECT db:5432 with "302 Found"`, "", nil, 0},
		{"an SSH server", "http://proxy:3128", answers("SSH-2.0-OpenSSH_9.2\r\n"),
			`proxy proxy:3128: not an HTTP proxy: it said "SSH-2.0-OpenSSH_9.2"`, "", nil, 0},
		{"junk without end", "http://proxy:3128", answers("HTTP/\x00" + long),
			`proxy proxy:3128: not an HTTP proxy: it said "HTTP/\x00` + long[:74] + `"…`, "", nil, 0},
		{"no status", "http://proxy:3128", answers("HTTP/1.1 OK\r\n\r\n"),
			`proxy proxy:3128: not an HTTP proxy: it said "HTTP/1.1 OK"`, "", nil, 0},
		{"long status line", "http://proxy:3128", answers("HTTP/1.1 200 " + long + "\r\n\r\n"),
			`proxy proxy:3128: its answer is too long`, "", nil, 0},
		{"long header", "http://proxy:3128", answers("HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 3<<10) + "\r\n"),
			`proxy proxy:3128: its answer is too long`, "", nil, 0},
		{"silence", "http://proxy:3128", answers(""),
			`proxy proxy:3128 did not answer the CONNECT within 10 s`, "", os.ErrDeadlineExceeded, 10 * time.Second},
		{"half an answer", "http://proxy:3128", answers("HTTP/1.1 200 OK\r\n"),
			`proxy proxy:3128 did not answer the CONNECT within 10 s`, "", os.ErrDeadlineExceeded, 10 * time.Second},
		{"an answer in drops", "http://proxy:3128", fakeProxy{[]step{{connect, ""}}, func(c net.Conn) {
			for _, drop := range []byte("HTTP/1.1 200 OK\r\n\r\n") {
				if _, err := c.Write([]byte{drop}); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		}}, `proxy proxy:3128 did not answer the CONNECT within 10 s`, "", os.ErrDeadlineExceeded, 10 * time.Second},
		{"closes", "http://proxy:3128", fakeProxy{[]step{{connect, ""}}, nothing},
			`proxy proxy:3128 closed the connection before it answered`, "", io.ErrUnexpectedEOF, 0},
		{"closes in mid-answer", "http://proxy:3128", fakeProxy{[]step{{connect, "HTTP/1.1 200 OK\r\n"}}, nothing},
			`proxy proxy:3128 closed the connection before it answered`, "", io.ErrUnexpectedEOF, 0},
		{"resets", "http://proxy:3128", fakeProxy{[]step{{connect, ""}}, resets},
			"", "", syscall.ECONNRESET, 0},
		{"plain instead of TLS", "https://proxy:3128", fakeProxy{nil, func(c net.Conn) {
			c.Read(make([]byte, 1))
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		}}, `proxy proxy:3128 does not speak TLS`, "", nil, 0},
		{"socks wants a password", "socks5://proxy:3128", socks(step{greeting, "\x05\xff"}),
			`proxy proxy:3128 refused db:5432: no acceptable authentication methods`, strings.ReplaceAll(authHint, "http:", "socks5:"), nil, 0},
		{"socks wrong password", "socks5://me:x@proxy:3128", socks(step{"\x05\x02\x00\x02", "\x05\x02"}, step{"\x01\x02me\x01x", "\x01\x01"}),
			`proxy proxy:3128 refused db:5432: username/password authentication failed`, "the proxy does not accept this user name and password", nil, 0},
		{"socks denies", "socks5://proxy:3128", socks(step{greeting, "\x05\x00"}, step{"\x05\x01\x00\x03", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"}),
			`proxy proxy:3128 refused db:5432: connection not allowed by ruleset`, "the proxy does not allow db:5432", nil, 0},
		{"socks target refuses", "socks5://proxy:3128", socks(step{greeting, "\x05\x00"}, step{"\x05\x01\x00\x03", "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"}),
			`proxy proxy:3128 refused db:5432: connection refused`, "", nil, 0},
		{"no socks", "socks5://proxy:3128", socks(step{greeting, "HTTP/1.1 400 Bad Request\r\n\r\n"}),
			`proxy proxy:3128: not a SOCKS5 proxy: it said "HTTP/1.1 400 Bad Request"`, "", nil, 0},
		{"socks silence", "socks5://proxy:3128", socks(step{greeting, ""}),
			`proxy proxy:3128 did not answer within 10 s`, "", os.ErrDeadlineExceeded, 10 * time.Second},
		{"socks closes", "socks5://proxy:3128", fakeProxy{[]step{{greeting, "\x05"}}, nothing},
			`proxy proxy:3128 closed the connection before it answered`, "", io.ErrUnexpectedEOF, 0},
		{"refused", "http://proxy:1", fakeProxy{},
			`proxy proxy:1: dial tcp proxy:1: connect: connection refused`, "", syscall.ECONNREFUSED, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				c, done, err := through(t, test.proxy, test.fake)
				defer done() // hangs if the conn to the proxy is left open
				perr, ok := errors.AsType[*netx.ProxyError](err)
				if c != nil || !ok {
					t.Fatalf("got conn %v, error %v", c, err)
				}
				if test.text != "" && err.Error() != test.text {
					t.Errorf("got  %s\nwant %s", err, test.text)
				}
				want := test.hint
				if perr.Status == 0 { // it never answered as a proxy does
					want = "check that " + perr.Proxy + " is a proxy of this kind: --proxy (or HTTPS_PROXY) takes http://, https:// and socks5://"
				}
				if perr.Hint() != want {
					t.Errorf("hint %q, want %q", perr.Hint(), want)
				}
				if test.is != nil && !errors.Is(err, test.is) {
					t.Errorf("%v is no %v", err, test.is)
				}
				if strings.Contains(err.Error(), "s3cret") || strings.ContainsAny(err.Error(), "\r\n") {
					t.Errorf("got %q", err)
				}
				if took := time.Since(start); took != test.after {
					t.Errorf("took %v, want %v", took, test.after)
				}
			})
		})
	}
}

// ctx ends the call wherever it is.
func TestViaIsInterrupted(t *testing.T) {
	for _, test := range []struct {
		name, proxy string
		fake        fakeProxy
	}{
		{"connect", "http://proxy:3128", fakeProxy{[]step{{connect, ""}}, silent}},
		{"TLS", "https://proxy:3128", fakeProxy{nil, silent}},
		{"socks", "socks5://proxy:3128", fakeProxy{nil, silent}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := netxtest.Pipe()
				go test.fake.run(t, b)
				next := func(context.Context, string, string) (net.Conn, error) { return a, nil }
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				start := time.Now()
				_, err := mustVia(t, test.proxy, next)(ctx, "tcp", "db:5432")
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
					t.Errorf("got %v after %v", err, time.Since(start))
				}
			})
		})
	}
}

func TestViaAChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outer := fakeProxy{steps: []step{
			{"CONNECT inner:1080 HTTP/1.1\r\nHost: inner:1080\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
			{connect, "HTTP/1.1 403 Forbidden\r\n\r\n"},
		}, then: silent}
		dial := func(next netx.DialFunc) netx.DialFunc { return mustVia(t, "http://inner:1080", next) }
		a, b := netxtest.Pipe()
		go outer.run(t, b)
		first := mustVia(t, "http://proxy:3128", func(context.Context, string, string) (net.Conn, error) { return a, nil })
		_, err := dial(first)(t.Context(), "tcp", "db:5432")
		if want := `proxy inner:1080 answered CONNECT db:5432 with "403 Forbidden"`; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// The first hop's words are not buried under the second's name.
func TestViaAChainThatBreaksEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := netxtest.Pipe()
		outer := fakeProxy{[]step{{"CONNECT inner:1080 HTTP/1.1\r\nHost: inner:1080\r\n\r\n", "HTTP/1.1 407 No\r\n\r\n"}}, silent}
		go outer.run(t, b)
		first := mustVia(t, "http://proxy:3128", func(context.Context, string, string) (net.Conn, error) { return a, nil })
		_, err := mustVia(t, "socks5://inner:1080", first)(t.Context(), "tcp", "db:5432")
		if perr, ok := errors.AsType[*netx.ProxyError](err); !ok || perr.Proxy != "proxy:3128" || perr.Hint() == "" {
			t.Errorf("got %v", err)
		}
	})
}

func TestViaOverTLS(t *testing.T) {
	cert, roots := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		a, b := netxtest.Pipe()
		fake := fakeProxy{steps: []step{{connect, "HTTP/1.1 200 OK\r\n\r\nhello"}}}
		go fake.run(t, tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}}))
		next := func(context.Context, string, string) (net.Conn, error) { return a, nil }
		dial, err := netx.ViaTLS(&url.URL{Scheme: "https", Host: "proxy.test"}, next, &tls.Config{RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		c, err := dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, ", world")
		netx.CloseWrite(c)
		if got, err := io.ReadAll(c); string(got) != "hello, world" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		netx.Abort(c, nil)
	})
}

func TestViaRefusesAddresses(t *testing.T) {
	next := func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed")
		return nil, io.EOF
	}
	for _, test := range []struct{ name, network, address string }{
		{"header", "tcp", "db\r\nX: y:80"},
		{"space", "tcp", "db x:80"},
		{"no port", "tcp", "db"},
		{"no host", "tcp", ":80"},
		{"not ASCII", "tcp", "dß:80"},
		{"udp", "udp", "db:53"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := mustVia(t, "http://proxy:3128", next)(t.Context(), test.network, test.address)
			if err == nil || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestViaRefusesProxies(t *testing.T) {
	for _, proxy := range []string{"ftp://me:s3cret@proxy:21", "http://me:s3cret@", "socks4://proxy", "proxy:3128"} {
		u, err := url.Parse(proxy)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := netx.Via(u, nil); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v", proxy, err)
		}
	}
}

// A conn of which the first bytes came with the answer is a conn like any other.
func TestViaConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := netxtest.Pipe()
		fake := fakeProxy{steps: []step{{connect, "HTTP/1.1 200 OK\r\n\r\n!"}}, then: func(net.Conn) {}}
		served := make(chan struct{})
		go func() { defer close(served); fake.run(t, keepOpen{b}) }()
		next := func(context.Context, string, string) (net.Conn, error) { return a, nil }
		c, err := mustVia(t, "http://proxy:3128", next)(t.Context(), "tcp", "db:5432")
		if err != nil {
			return nil, nil, nil, err
		}
		<-served
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return nil, nil, nil, err
		}
		return c, b, func() { c.Close(); b.Close() }, nil
	})
}

type keepOpen struct{ net.Conn }

func (keepOpen) Close() error { return nil }
