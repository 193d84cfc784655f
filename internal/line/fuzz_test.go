package line

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzFrame: what is no frame is a violation, and what is one means one thing.
func FuzzFrame(f *testing.F) {
	for _, fr := range []frame{
		{typ: frameData, arg: 7, body: []byte("x"), ack: 1, wnd: 2, ackNow: true},
		{typ: frameAck}, {typ: framePing, arg: 9}, {typ: framePong, arg: 9},
		{typ: frameClose, arg: 1, code: 2, body: []byte("why")}, {typ: frameCloseAck},
		{typ: frameGoAway, code: 1, goAway: goAway{5, 1}}, {typ: frameDetach, code: 1, goAway: goAway{millis: 5}},
		{typ: 0x40}, {typ: 0x7f}, {typ: 0x30}, {typ: 0x80},
	} {
		f.Add(fr.append(nil))
	}
	f.Add([]byte{})
	f.Add(make([]byte, MaxMessage))
	f.Fuzz(func(t *testing.T, m []byte) {
		before := bytes.Clone(m)
		got, err := parseFrame(m)
		if !bytes.Equal(m, before) {
			t.Fatal("parsing changed the message")
		}
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("%v", err)
			}
			return
		}
		if got.typ >= 0x40 {
			return // of a later version: only its header is read
		}
		if len(got.body) > MaxPayload {
			t.Fatalf("a body of %d bytes", len(got.body))
		}
		again := got.append(nil)
		if len(again) > len(m) {
			t.Fatalf("%d bytes became %d", len(m), len(again))
		}
		// Equal but for the reserved bits and for what a later version may add behind.
		m = bytes.Clone(m[:len(again)])
		m[1], m[2], m[3] = m[1]&flagAckNow, 0, 0
		if !bytes.Equal(again, m) {
			t.Fatalf("\n%x parsed and encoded is\n%x", m, again)
		}
	})
}

// FuzzHandshake: no message of a stranger's does more than fail.
func FuzzHandshake(f *testing.F) {
	c, h, w := challenge{min: 1, max: 1}, hello{wnd: 5, tlvs: tlvs{tlvAgent: []byte("a"), tlvClientID: make([]byte, 16)}}, welcome{tlvs: tlvs{tlvPrincipal: []byte("p")}}
	f.Add(c.encode())
	f.Add(h.encode())
	f.Add(append(w.encode(), make([]byte, 32)...))
	f.Add((&RejectError{Code: 5, Reason: "r"}).encode())
	f.Add((&RejectError{Code: RejectClosed, Reason: "r", final: 7, mac: make([]byte, macLen)}).encode())
	f.Add(append((&resume{epoch: 3, rcv: 9, wnd: 5}).encode(), make([]byte, macLen)...))
	f.Add(append((&resumed{epoch: 3, rcv: 9, wnd: 5}).encode(), make([]byte, macLen)...))
	f.Add(append(h.encode(), 0x80, 1, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(err error) bool {
			var reject *RejectError
			if err != nil && !errors.Is(err, ErrProtocol) && !errors.As(err, &reject) {
				t.Fatalf("%v", err)
			}
			if reject != nil && len(reject.Reason) > maxReason {
				t.Fatalf("a reason of %d bytes", len(reject.Reason))
			}
			return err == nil
		}
		if m, err := parseChallenge(b); check(err) && !bytes.HasPrefix(b[4:], m.encode()[4:]) {
			t.Fatal("CHALLENGE differs")
		}
		if m, err := parseHello(b); check(err) {
			if again, err := parseHello(m.encode()); err != nil || again.nonce != m.nonce || again.wnd != m.wnd {
				t.Fatalf("HELLO differs: %v", err)
			}
			if len(m.tlvs.text(tlvLabel)) > 256 {
				t.Fatal("a long label")
			}
		}
		if m, err := parseWelcome(b); check(err) {
			if again, err := parseWelcome(append(m.encode(), m.confirm[:]...)); err != nil || again.sid != m.sid || again.confirm != m.confirm {
				t.Fatalf("WELCOME differs: %v", err)
			}
		}
		if m, mac, err := parseResume(b); check(err) && (len(mac) != macLen || !bytes.Equal(append(m.encode(), mac...)[4:], b[4:])) {
			t.Fatal("RESUME differs")
		}
		if m, mac, err := parseResumed(b); check(err) && (len(mac) != macLen || !bytes.Equal(append(m.encode(), mac...)[4:], b[4:])) {
			t.Fatal("RESUMED differs")
		}
		check(parseReject(b))
	})
}

// FuzzLine plays a script into one line. It may end the line or not; it must
// neither panic nor leave anything behind, which the bubble would notice.
//
// Each step is an opcode, two bytes of argument, and what these call for.
func FuzzLine(f *testing.F) {
	f.Add([]byte{0, 0, 10, 0, 1, 0, 1, 0, 5, 2, 0, 8, 3, 0, 0, 4, 0, 0, 5, 0, 0, 6, 1, 0})
	f.Add([]byte{1, 255, 255, 2, 255, 255, 7, 0, 1, 8, 0, 0, 9, 0, 0, 10, 0, 0})
	f.Add([]byte{11, 0, 20, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 1, 4, 0, 0, 5, 0, 0, 12, 0, 0, 12, 0, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 4<<10 {
			return
		}
		synctest.Test(t, func(t *testing.T) { play(t, script, time.Sleep) })
	})
}

func play(t *testing.T, script []byte, sleep func(time.Duration)) {
	a, far := carriers()
	c := newLine(Config{Window: 128 << 10}, a, Session{}, 100_000)
	var local sync.WaitGroup
	local.Go(func() { // takes what comes, and nothing of it matters
		for {
			if _, err := far.Next(); err != nil {
				return
			}
		}
	})
	var off uint64
	for len(script) >= 3 && c.Err() == nil {
		op, arg := script[0]%13, int(binary.BigEndian.Uint16(script[1:]))
		script = script[3:]
		ack := uint64(arg)
		say := func(fr frame) {
			fr.wnd = 1 << 20
			far.WriteMessages(fr.append(nil))
		}
		switch op {
		case 0: // DATA where it belongs
			say(frame{typ: frameData, arg: off, body: make([]byte, arg), ackNow: arg%2 == 1})
			off += uint64(arg)
		case 1: // DATA anywhere
			say(frame{typ: frameData, arg: uint64(arg), body: make([]byte, 100)})
		case 2:
			say(frame{typ: frameAck, ack: ack})
		case 3:
			say(frame{typ: framePing, arg: uint64(arg)})
		case 4:
			say(frame{typ: frameClose, arg: off, code: uint16(arg)})
		case 5:
			say(frame{typ: frameCloseAck, ack: c.sentSoFar()})
		case 6: // everything acknowledged
			say(frame{typ: frameAck, ack: c.sentSoFar()})
		case 7:
			local.Go(func() { c.Write(make([]byte, arg)) })
		case 8:
			local.Go(func() {
				c.SetReadDeadline(time.Now().Add(time.Second))
				c.Read(make([]byte, arg))
			})
		case 9:
			c.CloseWrite()
		case 10:
			c.GoAway(GoAway{Code: uint16(arg)})
		case 11: // raw bytes
			n := min(arg%200, len(script))
			far.WriteMessages(script[:n])
			script = script[n:]
		case 12:
			sleep(time.Duration(arg) * time.Millisecond)
		}
		synctest.Wait()
	}
	for _, b := range []bool{c.outgoingIsSound(), c.incomingIsSound()} {
		if !b {
			t.Error("the line's books do not balance")
		}
	}
	c.Close() // ends within closeTimeout, whatever the peer does
	c.Wait()
	far.Close()
	local.Wait()
	if _, err := c.Write([]byte{1}); err == nil {
		t.Error("a write behind the end succeeded")
	}
}

func (c *Conn) sentSoFar() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.maxSent
}

func (c *Conn) outgoingIsSound() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.out
	return c.err != nil || s.una <= s.maxSent && s.maxSent <= s.end && s.maxSent <= s.limit && s.blocks <= s.window/sendBlock && s.una <= s.sent && s.sent <= s.maxSent
}

func (c *Conn) incomingIsSound() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.in
	held := 0
	for _, q := range r.queue {
		held += q.end - q.start
	}
	return r.held == held && r.held <= r.window && r.rcv <= r.limit
}
