package line

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A world is a server and the network to it, in memory.
type world struct {
	t      testing.TB
	server *Server
	user   string // whom the server takes carriers for

	mu       sync.Mutex
	down     error                           // why dialling fails; nil: it does not
	link     func() (client, server Carrier) // makes a carrier; nil: pipes
	tamper   func(client, server *pipe)      // changes a new one; may be nil
	carriers []*pipe                         // the clients' ends, in order
	dials    []time.Time
	lines    []*Conn // the server's
	resumes  int
	refused  []error
	conns    sync.WaitGroup
}

func newWorld(t testing.TB, l Limits, cfg Config) *world {
	return &world{t: t, server: NewServer("test/1", l, cfg), user: "alice"}
}

// dial is a DialFunc.
func (w *world) dial(ctx context.Context, alive func()) (Carrier, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials = append(w.dials, time.Now())
	if w.down != nil {
		return nil, w.down
	}
	var a, b Carrier
	if w.link != nil {
		a, b = w.link()
	} else {
		c, s := carriers()
		if w.tamper != nil {
			w.tamper(c, s)
		}
		w.carriers = append(w.carriers, c)
		a, b = c, s
	}
	w.conns.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, resumed, err := w.server.Accept(ctx, b, w.user)
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case err != nil:
			w.refused = append(w.refused, err)
		case resumed:
			w.resumes++
		default:
			w.lines = append(w.lines, c)
		}
	})
	return a, nil
}

// connect makes a session that comes back.
func (w *world) connect(cfg Config) (client, server *Conn) {
	w.t.Helper()
	cfg.Redial = w.dial
	car, _ := w.dial(context.Background(), func() {})
	client, err := Dial(context.Background(), car, Hello{Agent: "test/2"}, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.conns.Wait()
	synctest.Wait() // the server has heard of the client
	return client, w.lines[len(w.lines)-1]
}

// last is the newest carrier's client end.
func (w *world) last() *pipe {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.carriers[len(w.carriers)-1]
}

func (w *world) set(down error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// attempts returns how many carriers there were.
func (w *world) attempts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.carriers)
}

// end ends both ends of a line and what it ran on.
func (w *world) end(client, server *Conn) {
	client.Abort(CodeAborted, nil)
	client.Abort(CodeAborted, nil)
	client.Wait()
	server.Abort(CodeAborted, nil)
	server.Wait()
	w.conns.Wait()
	w.server.Wait()
}

// watch collects the events of a line.
func watch(c *Conn) func() []Event {
	var mu sync.Mutex
	var all []Event
	c.OnEvent(func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, e)
	})
	return func() []Event {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		got := all
		all = nil
		return got
	}
}

var always = Limits{ResumeWindow: 15 * time.Minute}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(b)
	return b
}

func TestLineGoesOnAfterItsCarrierIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		c, s := w.connect(Config{})
		told := watch(c)
		want := noise(1, 3<<20)
		go func() {
			c.Write(want)
			c.CloseWrite()
		}()
		var got []byte
		buf := make([]byte, 100_000)
		for {
			n, err := s.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got) > w.attempts()*200_000 {
				w.last().Close()
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d", len(got), len(want))
		}
		transfer(t, s, c, 1<<20)
		if err := c.Drained(t.Context()); err != nil {
			t.Error(err)
		}
		if n := w.attempts(); n < 5 {
			t.Errorf("only %d carriers", n)
		}
		if es := told(); len(es) < 8 || es[0].Kind != Detached || es[len(es)-1].Kind != Resumed {
			t.Errorf("%+v", es)
		}
		w.end(c, s)
	})
}

func TestLineWithoutACarrierIsKeptForTheWindowAndNoLonger(t *testing.T) {
	for _, tt := range []struct {
		name string
		away time.Duration
		ok   bool
	}{{"ten minutes", 10 * time.Minute, true}, {"sixteen", 16 * time.Minute, false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, always, Config{})
				c, s := w.connect(Config{})
				told := watch(c)
				w.set(errors.New("no network"))
				w.last().Close()
				synctest.Wait()
				c.Write([]byte("written meanwhile"))
				time.Sleep(tt.away)
				w.set(nil)
				start := time.Now()
				buf := make([]byte, 100)
				n, err := s.Read(buf)
				if tt.ok {
					if string(buf[:n]) != "written meanwhile" || time.Since(start) > 2*time.Second {
						t.Errorf("after %v: %q, %v", time.Since(start), buf[:n], err)
					}
					es := told()
					if last := es[len(es)-1]; last.Kind != Resumed || last.After < tt.away {
						t.Errorf("%+v", last)
					}
				} else {
					_, cerr := c.Read(buf)
					if !errors.Is(err, ErrLost) || !errors.Is(cerr, ErrLost) {
						t.Errorf("server %v, client %v", err, cerr)
					}
				}
				w.end(c, s)
				if n, _ := w.server.Sessions(); n != 0 {
					t.Errorf("%d sessions left", n)
				}
			})
		})
	}
}
