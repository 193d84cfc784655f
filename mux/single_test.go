package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/line"
	"wstun/internal/netx"
)

// A channels is one end of a carrier in memory.
type channels struct {
	in, out            chan []byte
	closed, peerClosed chan struct{}
	once               sync.Once
}

func carriers() (a, b *channels) {
	ab, ba := make(chan []byte, 8), make(chan []byte, 8)
	a = &channels{in: ba, out: ab, closed: make(chan struct{})}
	b = &channels{in: ab, out: ba, closed: make(chan struct{})}
	a.peerClosed, b.peerClosed = b.closed, a.closed
	return a, b
}

func (c *channels) Next() (io.Reader, error) {
	select {
	case m := <-c.in:
		return bytes.NewReader(m), nil
	case <-c.closed:
		return nil, net.ErrClosed
	case <-c.peerClosed:
	}
	select {
	case m := <-c.in: // what was sent before
		return bytes.NewReader(m), nil
	default:
		return nil, io.ErrUnexpectedEOF
	}
}

func (c *channels) WriteMessages(msgs ...[]byte) error {
	for _, m := range msgs {
		select {
		case c.out <- bytes.Clone(m):
		case <-c.closed:
			return net.ErrClosed
		case <-c.peerClosed: // as with TCP, Next is to find that
		}
	}
	return nil
}

func (c *channels) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *channels) Received() uint32  { return 0 }
func (c *channels) Abort(error) error { return c.Close() }
func (c *channels) Wait()             {}

// A carried is a line whose carrier a test can cut.
type carried struct {
	*line.Conn
	carrier *channels
}

// lines returns both ends of a line. They are gone when the test is over.
func lines(t testing.TB, window int) (client, server *carried) {
	t.Helper()
	a, b := carriers()
	cfg := line.Config{Window: window}
	client, server = &carried{carrier: a}, &carried{carrier: b}
	got := make(chan error, 1)
	acceptor := line.NewServer("test/1", line.Limits{}, cfg)
	go func() {
		var err error
		server.Conn, _, err = acceptor.Accept(context.Background(), b, "alice")
		got <- err
	}()
	var err error
	if client.Conn, err = line.Dial(t.Context(), a, line.Hello{}, cfg); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
		client.Wait()
		server.Wait()
		acceptor.Wait()
	})
	return client, server
}

// singles is sessions with one stream each.
func singles(t testing.TB, cfg Config) (client, server *Session) {
	t.Helper()
	a, b := lines(t, 1<<20)
	return singlesOn(t, cfg, a, b)
}

// narrow is singles with the least windows that there are.
func narrow(t testing.TB) (client, server *Session) {
	t.Helper()
	a, b := lines(t, 128<<10)
	return singlesOn(t, Config{}, a, b)
}

func singlesOn(t testing.TB, cfg Config, a, b Line) (client, server *Session) {
	t.Helper()
	cfg.Single = true
	server, err := Server(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	client, err = Client(a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// rawLine returns a session of a single stream and, as its peer, a line alone.
func rawLine(t testing.TB, cfg Config, client bool) (*Session, *carried) {
	t.Helper()
	a, b := lines(t, 128<<10)
	cfg.Single = true
	open := Server
	if client {
		open, a, b = Client, b, a
	}
	s, err := open(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a.SetDeadline(time.Now().Add(20 * time.Second))
	return s, a
}

// fill writes until a record has to wait for the window, and leaves that one
// incomplete.
func fill(t *testing.T, c *Stream) {
	t.Helper()
	for c.owed == 0 {
		c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	c.SetWriteDeadline(time.Time{})
}

// broken waits until the failure of a stream that nobody reads is known.
func broken(t *testing.T, s *Stream) error {
	t.Helper()
	for deadline := time.After(30 * time.Second); s.Broken() == nil; {
		select {
		case <-deadline:
			t.Fatal("the reset did not come")
		case <-time.After(time.Millisecond):
		}
	}
	return s.Broken()
}

func TestSingleSessionCarriesOneStream(t *testing.T) {
	client, server := singles(t, Config{})
	c, s := streams(t, client, server)
	if _, err := client.Dial(t.Context(), "tcp", "x:1"); !errors.Is(err, errUsed) {
		t.Errorf("a second: %v", err)
	}
	if _, err := server.Dial(t.Context(), "tcp", "x:1"); !errors.Is(err, errUsed) {
		t.Errorf("the server's: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := server.Accept(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second request: %v", err)
	}
	if n, m := client.NumStreams(), server.NumStreams(); n != 1 || m != 1 {
		t.Errorf("%d and %d streams", n, m)
	}
	for _, end := range []*Stream{c, s} {
		end.CloseWrite()
	}
	for _, end := range []*Stream{c, s} {
		if _, err := io.ReadAll(end); err != nil {
			t.Error(err)
		}
		end.Close()
	}
	for _, ses := range []*Session{client, server} { // it ends with its stream
		if _, err := ses.Accept(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("accept: %v", err)
		}
		<-ses.Done()
		if err := ses.line.(*carried).Drained(t.Context()); err != nil {
			t.Errorf("the line: %v", err)
		}
	}
	waitEmpty(t, client, server)
	if _, err := client.Dial(t.Context(), "tcp", "x:1"); !errors.Is(err, ErrLost) {
		t.Errorf("after the end: %v", err)
	}
}

func TestSingleSessionNeedsALineWithEnds(t *testing.T) {
	a, b := tcpPair(t)
	defer a.Close()
	if _, err := Client(tcpLine{b}, Config{Single: true}); err == nil {
		t.Error("no error")
	}
}

// The wire: what a peer that knows no yamux sees.
func TestSingleStreamLiesOnTheLineAsItIs(t *testing.T) {
	c, raw := rawLine(t, Config{}, true)
	st, err := c.DialEarly(t.Context(), "tcp", "db:5432")
	if err != nil {
		t.Fatal(err)
	}
	st.Write([]byte("hello"))
	st.CloseWrite()
	want := string(appendOpen(nil, kindTCP, "db:5432")) + "\x00\x00\x00\x05hello" + "\x01\x00\x00\x00"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(raw, got); err != nil || string(got) != want {
		t.Fatalf("%x, want %x, %v", got, want, err)
	}
	raw.Write(append(appendReply(nil, OK, ""), "\x03\x00\x00\x00\x00\x00\x00\x02ok\x01\x00\x00\x00"...))
	if got, err := io.ReadAll(st); string(got) != "ok" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	st.Close()
	if n, err := raw.Read(got); n != 0 || err != io.EOF {
		t.Errorf("behind the FINs: %d bytes, %v", n, err)
	}
	raw.CloseWrite()
	if err := st.Settled(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSingleStreamWhoseOPENIsNoneIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		open []byte
		want Status
	}{
		{"control characters", appendOpen(nil, kindTCP, "x\n:1"), Bad},
		{"a control stream", appendOpen(nil, kindControl, ""), Bad},
		{"an unknown kind", appendOpen(nil, 99, ""), Bad},
		{"another version", []byte{2, 1, 0, 0, 0, 0}, Bad},
		{"a yamux frame", yf(0, 1, 1, 1, 0), Bad},
		{"half of it", appendOpen(nil, kindTCP, "x:1")[:7], TimedOut},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, raw := rawLine(t, Config{openTimeout: 50 * time.Millisecond}, false)
			raw.Write(tt.open)
			got, err := io.ReadAll(raw)
			if len(got) < 3 || Status(got[0]) != tt.want || len(got) != 3+int(got[2]) || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			raw.CloseWrite()
			<-s.Done()
			waitEmpty(t, s)
		})
	}
}

func TestClientThatEndsBeforeItsOPENLeavesNothing(t *testing.T) {
	for n := range 9 {
		s, raw := rawLine(t, Config{}, false)
		raw.Write(appendOpen(nil, kindTCP, "x:1")[:n])
		raw.CloseWrite()
		<-s.Done()
		waitEmpty(t, s)
	}
}

// What nobody has agreed to stays in the line, whose window bounds it.
func TestAcceptorReadsNoFurtherThanTheOPEN(t *testing.T) {
	s, raw := rawLine(t, Config{}, false)
	raw.Write(appendOpen(nil, kindTCP, "x:1"))
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := raw.Write(make([]byte, 8<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n > 1<<20 {
		t.Errorf("%d bytes were taken before the answer: %v", n, err)
	}
	r.Refuse(netx.ErrDenied)
	if got, err := io.ReadAll(raw); len(got) == 0 || Status(got[0]) != Denied || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	raw.Abort(line.CodeAborted, nil)
	<-s.Done()
}

func TestSingleStreamThatBreaksTheProtocol(t *testing.T) {
	s, raw := rawLine(t, Config{}, false)
	raw.Write(append(appendOpen(nil, kindTCP, "x:1"), 0, 0, 0, 2, 'o', 'k', 4, 0, 0, 0))
	r, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Grant("")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if string(got) != "ok" || !errors.Is(err, ErrProtocol) {
		t.Errorf("%q, %v", got, err)
	}
	c.Abort(err)
	said := make([]byte, 9)
	if _, err := io.ReadFull(raw, said); err != nil || !bytes.Equal(said, []byte{0, 0, 0, 2, 0, 0, 2, 0, 5}) {
		t.Errorf("the peer got %x, %v", said, err)
	}
	raw.CloseWrite()
	waitEmpty(t, s)
}

// The window is full, so the reset is a CLOSE: its code says which it is.
func TestResetOfAFullSingleStreamSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		cause error
		want  uint16
	}{
		{nil, ResetByPeer},
		{os.ErrDeadlineExceeded, ResetByPeer},
		{netx.ErrDraining, ResetShutdown},
		{ErrProtocol, ResetProtocol},
	} {
		client, server := singles(t, Config{})
		c, s := streams(t, client, server)
		fill(t, c)
		c.Abort(tt.cause)
		var reset *ResetError
		if err := broken(t, s); !errors.As(err, &reset) || reset.Code != tt.want || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v: broken: %v", tt.cause, err)
		}
		if _, err := s.Write([]byte("x")); !errors.As(err, &reset) || reset.Code != tt.want {
			t.Errorf("%v: write: %v", tt.cause, err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.As(err, &reset) || reset.Code != tt.want {
			t.Errorf("%v: read: %v", tt.cause, err)
		}
		<-client.Done()
		<-server.Done()
		if err := client.line.(*carried).Err(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v: here it is a failure of the session: %v", tt.cause, err)
		}
		s.Close()
		waitEmpty(t, client, server)
	}
}

// There is room, so the reset is a record, whose code is finer.
func TestResetOfASingleStreamComesBehindItsBytes(t *testing.T) {
	client, server := singles(t, Config{})
	c, s := streams(t, client, server)
	c.Write([]byte("half"))
	c.Abort(os.ErrDeadlineExceeded)
	var reset *ResetError
	if got, err := io.ReadAll(s); string(got) != "half" || !errors.As(err, &reset) || reset.Code != ResetTimeout {
		t.Errorf("%q, %v", got, err)
	}
	s.Abort(reset)
	waitEmpty(t, client, server)
	<-client.Done()
	if err := client.line.(*carried).Drained(t.Context()); err != nil { // no CLOSE with a code
		t.Error(err)
	}
}

// The peer's own end of the line is not an end of the stream, whatever it is.
func TestEndOfTheLineWithoutFINIsAReset(t *testing.T) {
	for _, tt := range []struct {
		name string
		sent string
		end  func(l *carried)
		want error
	}{
		{"clean", "", func(l *carried) { l.CloseWrite() }, syscall.ECONNRESET},
		{"clean, inside a record", "\x00\x00\x00\x09half", func(l *carried) { l.CloseWrite() }, syscall.ECONNRESET},
		{"clean, inside a header", "\x01\x00\x00", func(l *carried) { l.CloseWrite() }, syscall.ECONNRESET},
		{"closed", "", func(l *carried) { l.Close() }, syscall.ECONNRESET},
		{"given up", "\x00\x00\x00\x09half", func(l *carried) { l.Abort(line.CodeAborted, nil) }, syscall.ECONNRESET},
		{"stopped", "", func(l *carried) { l.Abort(line.CodeShutdown, nil) }, syscall.ECONNRESET},
		{"revoked", "", func(l *carried) { l.Abort(line.CodeRevoked, nil) }, syscall.ECONNRESET},
		{"lost", "", func(l *carried) { l.carrier.Close() }, ErrLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, raw := rawLine(t, Config{}, false)
			raw.Write(append(appendOpen(nil, kindTCP, "x:1"), tt.sent...))
			r, err := s.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c, err := r.Grant("")
			if err != nil {
				t.Fatal(err)
			}
			tt.end(raw)
			if got, err := io.ReadAll(c); !errors.Is(err, tt.want) || strings.Trim(string(got), "half") != "" {
				t.Errorf("read: %q, %v", got, err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, tt.want) {
				t.Errorf("write: %v", err)
			}
			if err := c.Broken(); !errors.Is(err, tt.want) {
				t.Errorf("broken: %v", err)
			}
			c.Abort(nil)
			waitEmpty(t, s)
		})
	}
}

// As above with yamux, and nobody reads until all of it has come: the FIN that
// lies there decides.
func TestAnswerOfASingleStreamIsWholeThoughItIsReadLate(t *testing.T) {
	want := bytes.Repeat([]byte("413 "), 10_000)
	for _, early := range []bool{false, true} {
		client, server := singles(t, Config{})
		var c *Stream
		if early { // the answer to the OPEN is not read either
			var err error
			if c, err = client.DialEarly(t.Context(), "tcp", "x:1"); err != nil {
				t.Fatal(err)
			}
			c.Write([]byte("a part")) // no more may come before the answer is read
			r, err := server.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s, err := r.Grant("")
			if err != nil {
				t.Fatal(err)
			}
			s.Write(want)
			s.Close()
		} else {
			var s *Stream
			c, s = streams(t, client, server)
			s.Write(want)
			s.Close()
			c.Write([]byte("too much"))
		}
		<-client.Done() // the reset has come
		if err := c.Broken(); err != nil {
			t.Errorf("broken: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v", err)
		}
		if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
		}
		c.Close()
		waitEmpty(t, client, server)
	}
}

// The peer takes no more of the answer before it is rid of its own bytes.
func TestLongAnswerOfASingleStreamIsWholeBehindAnUploadThatNobodyReads(t *testing.T) {
	client, server := narrow(t)
	c, s := streams(t, client, server)
	want := bytes.Repeat([]byte("413 "), 35_000) // more than c's line takes unread
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(want)
		s.Close()
		wrote <- err
	}()
	for range 1000 {
		if _, err := c.Write(make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	c.Close()
	waitEmpty(t, client, server)
}

// Bytes that were dropped have not arrived, though both sides said FIN.
func TestSingleStreamWhoseBytesWereDroppedIsNotSettled(t *testing.T) {
	client, server := singles(t, Config{})
	c, s := streams(t, client, server)
	c.Write([]byte("in vain"))
	c.CloseWrite()
	s.Close()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := c.Settled(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("settled: %v", err)
	}
}

// Nor is one whose far end has all bytes, and closes the session before it
// says that they were taken.
func TestSessionThatIsClosedSettlesNoSingleStream(t *testing.T) {
	client, server := singles(t, Config{})
	c, s := streams(t, client, server)
	c.CloseWrite()
	s.CloseWrite()
	io.ReadAll(c)
	io.ReadAll(s)
	c.Close()
	server.Close()
	if err := c.Settled(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("settled: %v", err)
	}
}

func TestCloseOfASingleSessionEndsWhateverWaits(t *testing.T) {
	client, server := singles(t, Config{})
	c, s := streams(t, client, server)
	fill(t, c)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if _, err := c.Write(make([]byte, 8<<20)); err == nil {
			t.Error("written")
		}
	})
	waiting.Go(func() {
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read: %v", err)
		}
	})
	waiting.Go(func() {
		if _, err := client.Accept(context.Background()); !errors.Is(err, ErrLost) {
			t.Errorf("accept: %v", err)
		}
	})
	client.Close()
	waiting.Wait()
	<-client.Done()
	if err := broken(t, s); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer: %v", err)
	}
	c.Close()
	s.Close()
	waitEmpty(t, client, server)
}

func TestSingleSessionThatNobodyUsedEndsClean(t *testing.T) {
	client, server := singles(t, Config{})
	client.Close()
	<-server.Done()
	if err := server.line.(*carried).Drained(t.Context()); err != nil {
		t.Error(err)
	}
}

// limited is a line that cannot tell what was acknowledged.
type limited struct {
	singleLine
}

// In virtual time: there is no yamux.
func TestLimitsOfASingleStream(t *testing.T) {
	took := func(t *testing.T, s *Session) time.Duration {
		t.Helper()
		start := time.Now()
		<-s.Done()
		return time.Since(start).Round(time.Second)
	}
	t.Run("an OPEN may come late, and must come whole", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, raw := rawLine(t, Config{}, false)
			raw.SetDeadline(time.Time{})
			time.Sleep(time.Hour)
			raw.Write(appendOpen(nil, kindTCP, "x:1")[:7])
			start := time.Now()
			got, err := io.ReadAll(raw)
			if len(got) < 3 || Status(got[0]) != TimedOut || err != nil || time.Since(start) != openTimeout {
				t.Errorf("%q, %v after %v", got, err, time.Since(start))
			}
			raw.CloseWrite()
			<-s.Done()
		})
	})
	t.Run("an RST that is not read overtakes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := singles(t, Config{})
			c, s := streams(t, client, server)
			c.Write([]byte("nobody reads this"))
			c.Abort(nil)
			synctest.Wait()
			if err := s.Broken(); err != nil {
				t.Errorf("at once: %v", err)
			}
			if d := took(t, server); d != resetGrace {
				t.Errorf("after %v", d)
			}
			if err := s.Broken(); !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		})
	})
	t.Run("an answer that is not taken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := narrow(t)
			c, s := streams(t, client, server)
			s.Write(make([]byte, 140_000)) // more than c's line takes unread
			s.Close()
			c.Write([]byte("too much"))
			if d := took(t, client); d != unreadGrace {
				t.Errorf("after %v", d)
			}
			if got, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	})
	t.Run("a line that cannot tell", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := lines(t, 128<<10)
			client, server := singlesOn(t, Config{}, limited{a}, limited{b})
			c, s := streams(t, client, server)
			s.Write([]byte("answer"))
			s.Close()
			c.Write([]byte("too much"))
			if d := took(t, client); d != resetGrace {
				t.Errorf("after %v", d)
			}
			if got, err := io.ReadAll(c); string(got) != "answer" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	})
}
