package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestFaultResumeStorm (F27): strangers who say garbage, or that they come back
// to a session. None gets in, and who is there does not notice.
func TestFaultResumeStorm(t *testing.T) {
	t.Parallel()
	p := startBadPair(t, nil, nil)
	over := make(chan struct{})
	tk := p.talk(t, script{pace: 2 * time.Millisecond, over: over})
	tk.flows(t)
	start := time.Now()
	for range full(50, 1) {
		p.storm(t, 200)
	}
	took := time.Since(start)
	tk.goesOn(t, goesOn)
	close(over)
	tk.endsWell(t)
	if n := p.c.count("connection lost") + p.s.count("session detached") + p.s.count("session resumed"); n > 0 {
		t.Errorf("the session was disturbed %d times", n)
	}
	t.Logf("storms took %v; meanwhile %v", took.Round(time.Millisecond), tk)
	p.atRest(t)
}

// storm is n strangers at once, all of whom must be refused.
func (p *pair) storm(t *testing.T, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			attack := resumeAtRandom
			if i%4 == 0 {
				attack = garbageAtRandom
			}
			if err := attack(p.s, uint64(i)); err != nil {
				t.Errorf("attack %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// garbageAtRandom sends noise, as HTTP or as messages, and is sent away.
func garbageAtRandom(s *server, seed uint64) error {
	junk := noiseBytes(seed, rand.Int64N(5000)+4)
	if seed%8 == 0 {
		c, err := dialTCP(s.addr)
		if err != nil {
			return err
		}
		defer c.Close()
		c.Write(junk)
		c.CloseWrite()
		return overSoon(c)
	}
	c, err := openTunnel(s)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Write(junk)
	return overSoon(struct{ io.Reader }{c})
}

// overSoon reads to an end that is not the reader's own deadline.
func overSoon(r io.Reader) error {
	if got := drain(r); isTimeout(got.err) {
		return errors.New("it was not ended")
	}
	return nil
}

func openTunnel(s *server) (*wsConn, error) {
	return openWS(s.ws(), withHeader("Sec-WebSocket-Protocol", "wstun.v1"))
}

// Messages of docs/protocol.md, "Handshake".
const (
	msgChallenge = 0x01
	msgResume    = 0x04
	msgReject    = 0x06

	resumeLength  = 104
	rejectUnknown = 1
)

// resumeAtRandom asks for a session that does not exist, with a proof that is
// none, and must read that it is unknown; or it says something longer or
// shorter, and must read that it is refused or nothing.
func resumeAtRandom(s *server, seed uint64) error {
	c, err := openTunnel(s)
	if err != nil {
		return err
	}
	defer c.Close()
	challenge, err := c.message()
	if err != nil || challenge[0] != msgChallenge {
		return fmt.Errorf("in place of CHALLENGE: %x, %w", challenge, err)
	}
	exact := seed%2 == 0
	length := int64(resumeLength)
	if !exact {
		length = 1 + rand.Int64N(2000)
	}
	resume := noiseBytes(seed, length)
	resume[0] = msgResume
	if exact {
		resume[1] = 1 // the version
	}
	c.Write(resume)
	answer, err := c.message()
	switch {
	case err != nil && exact:
		return fmt.Errorf("no answer to RESUME: %w", err)
	case err != nil && isTimeout(err):
		return errors.New("it was not ended")
	case err == nil && (answer[0] != msgReject || exact && answer[1] != rejectUnknown):
		return fmt.Errorf("the answer to RESUME is %x, want REJECT", answer)
	}
	return overSoon(struct{ io.Reader }{c})
}

// message reads one message of a server that does not split them.
func (c *wsConn) message() ([]byte, error) {
	op, n, err := c.readHeader()
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return nil, noEOF(err)
	}
	if op != opBinary || n == 0 {
		code := 0
		if op == opClose && n >= 2 {
			code = int(binary.BigEndian.Uint16(b))
		}
		return nil, fmt.Errorf("a frame with opcode %d, code %d, %d bytes", op, code, n)
	}
	return b, nil
}
