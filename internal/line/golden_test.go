package line

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// seq returns n bytes that count up from first.
func seq(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// goldens are the vectors of docs/protocol.md: each message with fixed inputs.
func goldens(t *testing.T) (names []string, vectors map[string][]byte) {
	vectors = map[string][]byte{}
	add := func(name string, b []byte) {
		names = append(names, name)
		vectors[name] = b
	}
	frames := []struct {
		name string
		f    frame
	}{
		{"DATA off=65536 \"hello\" ACK_NOW ack=1000 wnd=4194304", frame{typ: frameData, arg: 65536, body: []byte("hello"), ackNow: true, ack: 1000, wnd: 4 << 20}},
		{"ACK ack=1000 wnd=4194304", frame{typ: frameAck, ack: 1000, wnd: 4 << 20}},
		{"PING 0x0102030405060708", frame{typ: framePing, arg: 0x0102030405060708, wnd: 4 << 20}},
		{"PONG 0x0102030405060708", frame{typ: framePong, arg: 0x0102030405060708, wnd: 4 << 20}},
		{"CLOSE final_off=65541 clean", frame{typ: frameClose, arg: 65541, ack: 1000, wnd: 4 << 20}},
		{"CLOSE final_off=65541 code=2 \"about to stop\"", frame{typ: frameClose, arg: 65541, code: CodeShutdown, body: []byte("about to stop"), ack: 1000, wnd: 4 << 20}},
		{"CLOSE_ACK", frame{typ: frameCloseAck, ack: 1000, wnd: 4 << 20}},
		{"GOAWAY code=2 deadline=30s NEW_SESSION", frame{typ: frameGoAway, code: CodeShutdown, goAway: goAway{30_000, NewSession}, wnd: 4 << 20}},
		{"DETACH code=0 retry=1s", frame{typ: frameDetach, goAway: goAway{millis: 1000}, wnd: 4 << 20}},
	}
	for _, f := range frames {
		add(f.name, f.f.append(nil))
	}

	// The handshake of one session; the private keys are 32 bytes of 0x01… and 0x41….
	x := ecdh.X25519()
	serverKey, err := x.NewPrivateKey(seq(0x01, 32))
	if err != nil {
		t.Fatal(err)
	}
	clientKey, err := x.NewPrivateKey(seq(0x41, 32))
	if err != nil {
		t.Fatal(err)
	}
	ch := challenge{min: version, max: version}
	copy(ch.instance[:], seq(0xa0, 8))
	copy(ch.nonce[:], seq(0x10, 32))
	copy(ch.pub[:], serverKey.PublicKey().Bytes())
	he := hello{wnd: 4 << 20, tlvs: tlvs{tlvAgent: []byte("wstun/1.0"), tlvLabel: []byte("lab"), tlvClientID: seq(0xc0, 16)}}
	copy(he.nonce[:], seq(0x30, 32))
	copy(he.pub[:], clientKey.PublicKey().Bytes())
	we := welcome{wnd: 4 << 20, resumeWindow: 300, ping: 12, maxStreams: 16384, streamWindow: 1 << 20, tlvs: tlvs{tlvAgent: []byte("wstun/1.0"), tlvPrincipal: []byte("alice")}}
	copy(we.sid[:], seq(0x50, 16))
	chal, hel, wel := ch.encode(), he.encode(), we.encode()
	key, err := sessionKey(serverKey, he.pub[:], ch.nonce, he.nonce, we.sid, ch.instance, "alice")
	if err != nil {
		t.Fatal(err)
	}
	other, err := sessionKey(clientKey, ch.pub[:], ch.nonce, he.nonce, we.sid, ch.instance, "alice")
	if err != nil || !bytes.Equal(key, other) {
		t.Fatalf("the two sides have two keys: %x, %x, %v", key, other, err)
	}
	add("server private key", serverKey.Bytes())
	add("client private key", clientKey.Bytes())
	add("CHALLENGE", chal)
	add("HELLO agent label client-id", hel)
	add("K", key)
	add("confirm", confirmation(key, chal, hel, wel))
	add("WELCOME principal=alice", append(wel, confirmation(key, chal, hel, wel)...))

	// A second carrier, whose CHALLENGE differs in its nonce.
	copy(ch.nonce[:], seq(0x70, 32))
	second := ch.encode()
	re := resume{sid: we.sid, epoch: 1, rcv: 70_000, wnd: 4 << 20}
	copy(re.nonce[:], seq(0x90, 32))
	ask := re.encode()
	ask = append(ask, resumption(key, byClient, second, ask)...)
	add("RESUME epoch=1 rcv=70000", ask)
	grant := (&resumed{epoch: 1, rcv: 500, wnd: 4 << 20}).encode()
	add("RESUMED epoch=1 rcv=500", append(grant, resumption(key, byServer, second, ask, grant)...))
	over := RejectError{Code: RejectClosed, Reason: "closed", final: 500, mac: make([]byte, macLen)}
	over.mac = resumption(key, byGrave, second, ask, over.encode()[:6+8])
	add("REJECT code=6 final_rcv=500 \"closed\"", over.encode())
	add("REJECT code=5 retry=5s \"about to stop\"", (&RejectError{Code: RejectDraining, After: 5 * time.Second, Reason: "about to stop"}).encode())
	return names, vectors
}

// The wire must not change by accident: another program may be the other end.
func TestWireIsAsTheProtocolSays(t *testing.T) {
	const file = "testdata/golden.txt"
	names, vectors := goldens(t)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s = %s\n", name, hex.EncodeToString(vectors[name]))
	}
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(b.String(), "\n")
	for i, line := range strings.Split(string(want), "\n") {
		if i >= len(got) || got[i] != line {
			t.Errorf("line %d of %s\nwant %s\n got %s", i+1, file, line, append(got, "")[min(i, len(got))])
		}
	}
}

func TestWireVectorsParse(t *testing.T) {
	names, vectors := goldens(t)
	for _, name := range names {
		var err error
		switch b := vectors[name]; {
		case name == "CHALLENGE":
			_, err = parseChallenge(b)
		case strings.HasPrefix(name, "HELLO"):
			var m hello
			m, err = parseHello(b)
			if m.tlvs.text(tlvLabel) != "lab" || m.wnd != 4<<20 {
				t.Errorf("%+v", m)
			}
		case strings.HasPrefix(name, "WELCOME"):
			var m welcome
			m, err = parseWelcome(b)
			if m.ping != 12 || m.resumeWindow != 300 || m.maxStreams != 16384 || m.streamWindow != 1<<20 || m.tlvs.text(tlvPrincipal) != "alice" {
				t.Errorf("%+v", m)
			}
		case strings.HasPrefix(name, "RESUME "):
			var m resume
			if m, _, err = parseResume(b); m.epoch != 1 || m.rcv != 70_000 || m.wnd != 4<<20 || m.nonce[0] != 0x90 || m.sid[0] != 0x50 {
				t.Errorf("%+v", m)
			}
		case strings.HasPrefix(name, "RESUMED"):
			var m resumed
			if m, _, err = parseResumed(b); m.epoch != 1 || m.rcv != 500 || m.wnd != 4<<20 {
				t.Errorf("%+v", m)
			}
		case strings.HasPrefix(name, "REJECT code=6"):
			var e *RejectError
			if !errors.As(parseReject(b), &e) || e.final != 500 || e.Reason != "closed" || len(e.mac) != macLen {
				t.Errorf("%+v", e)
			}
		case b[0] >= frameData && b[0] <= frameDetach:
			var f frame
			if f, err = parseFrame(b); err == nil && !bytes.Equal(f.append(nil), b) {
				t.Errorf("%s: parsed and encoded again it is %x", name, f.append(nil))
			}
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
