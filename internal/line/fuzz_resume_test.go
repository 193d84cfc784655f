package line

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzResume plays a script into a server and a client that comes back: cuts,
// messages that vanish, handshake messages that are changed, and handshakes of
// strangers. Whatever becomes of the session, only a prefix of what was written
// is ever delivered.
//
// Each step is an opcode, two bytes of argument, and what these call for.
func FuzzResume(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 1, 0, 2, 0, 0, 3, 8, 0, 0, 1, 0, 3, 0, 100})
	f.Add([]byte{0, 1, 0, 4, 4, 30, 2, 0, 0, 3, 20, 0, 4, 5, 12, 2, 0, 0, 3, 20, 0})
	f.Add([]byte{5, 0, 2, 0, 40, 0, 6, 0, 0, 3, 20, 0, 7, 0, 9, 8, 0, 0, 9, 0, 0, 3, 40, 0})
	f.Add([]byte{1, 40, 0, 10, 0, 1, 3, 40, 0, 10, 0, 2, 1, 40, 0, 3, 100, 0, 11, 0, 8, 4, 1, 0, 0, 9, 9, 9, 9})
	f.Add([]byte{0, 1, 0, 12, 0, 0, 13, 0, 0, 2, 0, 0, 3, 20, 0, 14, 0, 0, 3, 8, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 600 {
			return
		}
		synctest.Test(t, func(t *testing.T) { playResume(t, script, time.Sleep) })
	})
}

// A fuzzed is the state of one script: what is done to messages.
type fuzzed struct {
	mu    sync.Mutex
	typ   byte // handshake messages of this type are changed
	at    int  // there
	loses int  // counts down to the message that vanishes; 0: none does
}

func (z *fuzzed) alter(_ int, m []byte) []byte {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.loses > 0 {
		if z.loses--; z.loses == 0 {
			return nil
		}
	}
	if m[0] == z.typ && z.typ != 0 {
		m[z.at%len(m)] ^= byte(1 + z.at>>8)
	}
	return m
}

// A reading checks that what a line delivers is what was written.
type reading struct {
	mu    sync.Mutex
	wrote []byte
}

func (r *reading) write(c *Conn, b []byte) {
	r.mu.Lock()
	before := len(r.wrote)
	r.wrote = append(r.wrote, b...) // may be read before Write returns
	r.mu.Unlock()
	c.SetWriteDeadline(time.Now().Add(time.Millisecond))
	n, _ := c.Write(b)
	r.mu.Lock()
	r.wrote = r.wrote[:before+n]
	r.mu.Unlock()
}

func (r *reading) read(t *testing.T, c *Conn) {
	buf := make([]byte, 10_000)
	for at := 0; ; {
		n, err := c.Read(buf)
		r.mu.Lock()
		if at+n > len(r.wrote) || !bytes.Equal(buf[:n], r.wrote[at:at+n]) {
			t.Errorf("other bytes than were written, at %d", at)
		}
		r.mu.Unlock()
		if at += n; err != nil {
			return
		}
	}
}

func playResume(t *testing.T, script []byte, sleep func(time.Duration)) {
	w := newWorld(t, Limits{ResumeWindow: time.Minute}, Config{Window: minWindow})
	z := &fuzzed{}
	last := w.wired(func(l *wire) { l.alter = z.alter })
	c, s := w.connect(Config{Window: minWindow})
	var up, down reading
	var readers sync.WaitGroup
	readers.Go(func() { up.read(t, s) })
	readers.Go(func() { down.read(t, c) })
	for k := byte(0); len(script) >= 3; k++ {
		op, arg := script[0]%15, int(binary.BigEndian.Uint16(script[1:]))
		script = script[3:]
		switch op {
		case 0:
			up.write(c, bytes.Repeat([]byte{k}, arg))
		case 1:
			down.write(s, bytes.Repeat([]byte{k}, arg))
		case 2:
			last().ends[arg%2].Close()
		case 3:
			sleep(time.Duration(arg) * time.Millisecond)
		case 4:
			z.mu.Lock()
			z.typ, z.at = byte(arg>>8)%8, arg
			z.mu.Unlock()
		case 5:
			z.mu.Lock()
			z.loses = arg
			z.mu.Unlock()
		case 6:
			c.Renew()
		case 7:
			s.Detach(CodeClean, time.Duration(arg)*time.Millisecond)
		case 8:
			c.Probe()
		case 9:
			s.GoAway(GoAway{Flags: byte(arg)})
		case 10:
			last().cutNow(arg % cutModes)
		case 11: // a stranger, who knows the session but not its key
			n := min(arg%200, len(script))
			said := script[:n]
			script = script[n:]
			w.conns.Go(func() { stranger(w, c, said) })
		case 12:
			c.CloseWrite()
		case 13:
			s.CloseWrite()
		case 14:
			s.Probe()
		}
		synctest.Wait()
	}
	for _, l := range []*Conn{c, s} {
		if !l.outgoingIsSound() || !l.incomingIsSound() {
			t.Error("the books do not balance")
		}
	}
	w.end(c, s)
	readers.Wait()
}

func stranger(w *world, c *Conn, said []byte) {
	a, b := carriers()
	defer a.Close()
	w.conns.Go(func() {
		if _, resumed, _ := w.server.Accept(w.t.Context(), b, w.user); resumed {
			w.t.Error("a stranger has got the session")
		}
	})
	if _, err := receiveMessage(a); err != nil {
		return
	}
	m := resume{sid: c.hello.ID, epoch: 1 << 30, wnd: minWindow}
	msg := append(m.encode(), make([]byte, macLen)...)
	copy(msg[4+16:], said)
	a.WriteMessages(msg)
	receiveMessage(a)
}
