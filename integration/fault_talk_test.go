package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A flow is one direction of a connection, as both its ends saw it.
type flow struct {
	seed  uint64
	given atomic.Int64  // bytes that the source's kernel took
	got   atomic.Int64  // bytes that came out, and were right
	sent  chan struct{} // closed when the source gives nothing more
	ended chan struct{} // closed when the destination has seen the end
	fault error         // of the source; nil: it ended in order. Valid after sent.
	end   error         // what the destination saw; nil: EOF. Valid after ended.
	hup   bool          // with that EOF its socket was over both ways
}

func newFlow(seed uint64) *flow {
	return &flow{seed: seed, sent: make(chan struct{}), ended: make(chan struct{})}
}

// A script is what is said in a talk: so many bytes each way, then an end; with
// a pace 4 KiB at each tick, until it is over.
type script struct {
	up, down int64
	pace     time.Duration
	over     <-chan struct{}
}

// give sends what the script says to c, and ends it.
func (f *flow) give(c *net.TCPConn, n int64, sc script) {
	defer close(f.sent)
	src := noise(f.seed, 1<<62)
	if sc.pace == 0 {
		_, f.fault = io.Copy(struct{ io.Writer }{&givenTo{c, f}}, io.LimitReader(src, n))
	} else {
		f.fault = f.pace(c, src, sc)
	}
	if f.fault == nil {
		f.fault = c.CloseWrite()
	}
}

func (f *flow) pace(c *net.TCPConn, src io.Reader, sc script) error {
	tick := time.NewTicker(sc.pace)
	defer tick.Stop()
	for buf := make([]byte, 4<<10); ; {
		select {
		case <-tick.C:
		case <-sc.over:
			return nil
		}
		io.ReadFull(src, buf)
		if _, err := (&givenTo{c, f}).Write(buf); err != nil {
			return err
		}
	}
}

// givenTo counts what it writes.
type givenTo struct {
	c *net.TCPConn
	f *flow
}

func (g *givenTo) Write(b []byte) (n int, err error) {
	n, err = g.c.Write(b)
	g.f.given.Add(int64(n))
	return n, err
}

var errWrongByte = errors.New("a byte that was not sent")

// take reads from c to the end, and compares.
func (f *flow) take(c *net.TCPConn) {
	defer close(f.ended)
	src := noise(f.seed, 1<<62)
	buf, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		io.ReadFull(src, want[:n])
		if !bytes.Equal(buf[:n], want[:n]) {
			f.end = fmt.Errorf("%w, between %d and %d", errWrongByte, f.got.Load(), f.got.Load()+int64(n))
			return
		}
		f.got.Add(int64(n))
		if err != nil {
			if f.hup = hungUp(c); err != io.EOF {
				f.end = err
			}
			return
		}
	}
}

// hungUp reports whether a socket is over both ways.
func hungUp(c *net.TCPConn) (yes bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		set := []unix.PollFd{{Fd: int32(fd)}}
		unix.Poll(set, 0)
		yes = set[0].Revents&unix.POLLHUP != 0
	})
	return yes
}

// seen is what the destination saw at the end. The kernel tells of a reset only
// once: if a write was told, on the way back, the read had an EOF.
func (f *flow) seen(back *flow) error {
	if f.end == nil && f.hup && back.fault != nil {
		return back.fault
	}
	return f.end
}

// isReset says how a reset may show: to a read, to a write, to a shutdown.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}

// verdict is what is wrong with a flow that is over at both ends.
func (f *flow) verdict(back *flow) error {
	given, got, end := f.given.Load(), f.got.Load(), f.seen(back)
	switch {
	case errors.Is(end, errWrongByte):
		return end
	case got > given:
		return fmt.Errorf("%d bytes arrived of %d", got, given)
	case end == nil && (f.fault != nil || got != given):
		return fmt.Errorf("an end in order after %d of %d bytes (the source: %v)", got, given, f.fault)
	case end != nil && !isReset(end):
		return fmt.Errorf("it ended with %w, want a reset", end)
	}
	return nil
}

// A far is a target whose connections follow the scripts of the users.
type far struct {
	addr string
	mu   sync.Mutex
	next uint64
	tell map[uint64]*talk
}

// A talk is a connection through the tunnel. Both its ends follow a script and
// check what they get.
type talk struct {
	id       uint64
	script   script
	user     *net.TCPConn
	far      *net.TCPConn  // of the target; valid after met
	met      chan struct{} // closed when the target has it
	up, down *flow
}

func newFar(t testing.TB) *far {
	f := &far{tell: map[uint64]*talk{}}
	f.addr = listen(t, func(c *net.TCPConn) {
		var id [8]byte
		if _, err := io.ReadFull(c, id[:]); err != nil {
			return
		}
		f.mu.Lock()
		tk := f.tell[binary.BigEndian.Uint64(id[:])]
		f.mu.Unlock()
		if tk == nil {
			reset(c)
			return
		}
		tk.far = c
		close(tk.met)
		go tk.down.give(c, tk.script.down, tk.script)
		tk.up.take(c)
		<-tk.down.sent
	})
	return f
}

// talk begins one over p.
func (p *pair) talk(t testing.TB, sc script) *talk {
	t.Helper()
	tk, err := p.far.talk(p.at, sc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tk.user.Close() })
	return tk
}

func (f *far) talk(at string, sc script) (*talk, error) {
	f.mu.Lock()
	f.next++
	tk := &talk{id: f.next, script: sc, met: make(chan struct{}), up: newFlow(2 * f.next), down: newFlow(2*f.next + 1)}
	f.tell[tk.id] = tk
	f.mu.Unlock()
	c, err := net.Dial("tcp", at)
	if err != nil {
		return nil, err
	}
	tk.user = c.(*net.TCPConn)
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, tk.id)); err != nil {
		c.Close()
		return nil, err
	}
	go tk.up.give(tk.user, sc.up, sc)
	go func() {
		tk.down.take(tk.user)
		<-tk.up.sent
		tk.user.Close()
	}()
	return tk, nil
}

// begins waits until the target has it.
func (tk *talk) begins(t testing.TB) {
	t.Helper()
	receive(t, tk.met, fmt.Sprintf("talk %d reaches the target", tk.id))
}

// over waits for the end of both directions. One that the user was told of and
// the target never had is not waited for.
func (tk *talk) over(d time.Duration) bool {
	timeout := time.After(d)
	for _, ch := range []chan struct{}{tk.down.ended, tk.met, tk.up.sent, tk.down.sent, tk.up.ended} {
		if ch == tk.met {
			timeout = time.After(min(d, slack))
		}
		select {
		case <-ch:
		case <-timeout:
			return false
		}
		if ch == tk.met {
			timeout = time.After(d)
		}
	}
	return true
}

func (tk *talk) String() string {
	return fmt.Sprintf("up %d of %d, down %d of %d bytes", tk.up.got.Load(), tk.up.given.Load(), tk.down.got.Load(), tk.down.given.Load())
}

// endsWell waits for the end and checks that nothing is missing.
func (tk *talk) endsWell(t testing.TB) { t.Helper(); tk.endsWellIn(t, patience) }

func (tk *talk) endsWellIn(t testing.TB, d time.Duration) {
	t.Helper()
	if err := tk.complete(d); err != nil {
		t.Fatal(err)
	}
}

// complete waits for the end and says what is missing.
func (tk *talk) complete(d time.Duration) error {
	if !tk.over(d) {
		select {
		case <-tk.down.ended:
			return fmt.Errorf("talk %d is over for the user only, with %v: %v", tk.id, tk.down.end, tk)
		default:
			return fmt.Errorf("talk %d is not over after %v: %v", tk.id, d, tk)
		}
	}
	if err := tk.verdict(); err != nil {
		return err
	}
	if err := errors.Join(tk.up.seen(tk.down), tk.down.seen(tk.up), tk.up.fault, tk.down.fault); err != nil {
		return fmt.Errorf("talk %d broke: %v: %w", tk.id, tk, err)
	}
	return nil
}

// verdict is what is wrong with a talk that is over, in order or not.
func (tk *talk) verdict() error {
	up, down := tk.up.verdict(tk.down), tk.down.verdict(tk.up)
	if up != nil || down != nil {
		return fmt.Errorf("talk %d: up: %v, down: %v", tk.id, up, down)
	}
	return nil
}

// isReset waits until the target and the user, as far as they are asked, have
// seen the end, and checks that it is a reset, and that they got nothing wrong.
func (tk *talk) isReset(t testing.TB, target, user bool, d time.Duration) {
	t.Helper()
	for _, side := range []struct {
		who       string
		asked     bool
		got, said *flow
	}{{"the target", target, tk.up, tk.down}, {"the user", user, tk.down, tk.up}} {
		if !side.asked {
			continue
		}
		select {
		case <-side.got.ended:
		case <-time.After(d):
			t.Errorf("talk %d: %s has seen no end in %v: %v", tk.id, side.who, d, tk)
			continue
		}
		if end := side.got.end; end != nil && !isReset(end) || end == nil && !side.got.hup {
			t.Errorf("talk %d: %s saw %v, want a reset", tk.id, side.who, end)
		}
	}
}
