package line

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Messages of the handshake, each one carrier message; docs/protocol.md,
// "Handshake".
const (
	msgChallenge = 0x01
	msgHello     = 0x02
	msgWelcome   = 0x03
	msgResume    = 0x04
	msgResumed   = 0x05
	msgReject    = 0x06

	version      = 1
	maxHandshake = 2 << 10
)

// Codes of REJECT.
const (
	RejectUnknown    = 1 // no such session, or not yours
	RejectStaleEpoch = 2
	RejectVersion    = 3
	RejectBusy       = 4
	RejectDraining   = 5
	RejectClosed     = 6
	RejectPolicy     = 7
	RejectCorrupt    = 8
)

// A RejectError is what a client's handshake fails with when the server says
// REJECT.
type RejectError struct {
	Code   byte
	After  time.Duration // when to come back; 0: not said
	Reason string

	final  uint64 // of CLOSED: how much the server had accepted
	mac    []byte // of CLOSED
	signed []byte // what mac is over, of this message
	cause  error  // of UNKNOWN: what the client knows better
}

// Unwrap returns what the client makes of it; nil: nothing in particular.
func (e *RejectError) Unwrap() error { return e.cause }

// RetryAfter is when to come back; 0: not said.
func (e *RejectError) RetryAfter() time.Duration { return e.After }

func (e *RejectError) Error() string {
	if e.cause != nil {
		return e.cause.Error()
	}
	return fmt.Sprintf("the server refuses the session (code %d) %q", e.Code, e.Reason)
}

// Types of TLVs. Bit 15 marks one that a receiver must know or refuse.
const (
	tlvSingle    = 0x0001 // HELLO: 1 = one stream, records directly on the line
	tlvClientID  = 0x0002 // HELLO: 16 bytes
	tlvAgent     = 0x0003 // HELLO, WELCOME: program and version, text
	tlvLabel     = 0x0004 // HELLO: what the client calls itself, text
	tlvPrincipal = 0x0005 // WELCOME: who the server takes the client for, text

	tlvCritical = 0x8000
)

type tlvs map[uint16][]byte

// append encodes in order of type, so that a message has one form.
func (t tlvs) append(b []byte) []byte {
	for typ := uint16(0); typ <= tlvPrincipal; typ++ {
		if v, ok := t[typ]; ok {
			b = binary.BigEndian.AppendUint16(b, typ)
			b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
			b = append(b, v...)
		}
	}
	return b
}

func parseTLVs(b []byte) (tlvs, error) {
	t := tlvs{}
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, violation("a TLV of %d bytes", len(b))
		}
		typ, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; len(b) < n {
			return nil, violation("a TLV of %d bytes with %d left", n, len(b))
		}
		if typ&tlvCritical != 0 {
			return nil, &RejectError{Code: RejectVersion, Reason: fmt.Sprintf("unknown critical TLV 0x%04x", typ)}
		}
		t[typ] = b[:n]
		b = b[n:]
	}
	return t, nil
}

// text is the value of a TLV that is shown to people, of at most 256 bytes.
func (t tlvs) text(typ uint16) string {
	v := t[typ]
	return string(v[:min(len(v), 256)])
}

type challenge struct {
	min, max byte
	instance [8]byte
	nonce    [32]byte
	pub      [32]byte // X25519
}

type hello struct {
	nonce [32]byte
	pub   [32]byte
	wnd   uint32
	tlvs  tlvs
}

type welcome struct {
	sid          [16]byte
	wnd          uint32
	resumeWindow uint32 // s; 0: sessions cannot be resumed
	ping         uint16 // s
	maxStreams   uint32
	streamWindow uint32
	tlvs         tlvs
	confirm      [32]byte
}

// resume asks for a session; its MAC is kept apart.
type resume struct {
	sid   [16]byte
	epoch uint64
	nonce [32]byte
	rcv   uint64
	wnd   uint32
}

// resumed grants it; its MAC is kept apart.
type resumed struct {
	epoch uint64
	rcv   uint64
	wnd   uint32
}

const macLen = 32

func (m *challenge) encode() []byte {
	b := []byte{msgChallenge, m.min, m.max, 0}
	b = append(b, m.instance[:]...)
	b = append(b, m.nonce[:]...)
	return append(b, m.pub[:]...)
}

func (m *hello) encode() []byte {
	b := []byte{msgHello, version, 0, 0}
	b = append(b, m.nonce[:]...)
	b = append(b, m.pub[:]...)
	b = binary.BigEndian.AppendUint32(b, m.wnd)
	return m.tlvs.append(b)
}

// encode leaves out confirm, which is computed over the rest.
func (m *welcome) encode() []byte {
	b := []byte{msgWelcome, version, 0, 0}
	b = append(b, m.sid[:]...)
	b = binary.BigEndian.AppendUint32(b, m.wnd)
	b = binary.BigEndian.AppendUint32(b, m.resumeWindow)
	b = binary.BigEndian.AppendUint16(b, m.ping)
	b = binary.BigEndian.AppendUint32(b, m.maxStreams)
	b = binary.BigEndian.AppendUint32(b, m.streamWindow)
	return m.tlvs.append(b)
}

// encode leaves out the mac, as resumed's does.
func (m *resume) encode() []byte {
	b := []byte{msgResume, version, 0, 0}
	b = append(b, m.sid[:]...)
	b = binary.BigEndian.AppendUint64(b, m.epoch)
	b = append(b, m.nonce[:]...)
	b = binary.BigEndian.AppendUint64(b, m.rcv)
	return binary.BigEndian.AppendUint32(b, m.wnd)
}

func (m *resumed) encode() []byte {
	b := []byte{msgResumed, 0, 0, 0}
	b = binary.BigEndian.AppendUint64(b, m.epoch)
	b = binary.BigEndian.AppendUint64(b, m.rcv)
	return binary.BigEndian.AppendUint32(b, m.wnd)
}

func (e *RejectError) encode() []byte {
	b := []byte{msgReject, e.Code}
	b = binary.BigEndian.AppendUint32(b, uint32(e.After.Milliseconds()))
	if e.Code == RejectClosed {
		b = binary.BigEndian.AppendUint64(b, e.final)
		b = append(b, e.mac...)
	}
	return append(b, e.Reason[:min(len(e.Reason), maxReason)]...)
}

// fixed checks the type of m and splits off its n bytes after the type.
func fixed(m []byte, typ byte, n int) (head, rest []byte, err error) {
	if len(m) > 0 && m[0] == msgReject && typ != msgReject {
		return nil, nil, parseReject(m)
	}
	if len(m) < 1+n || m[0] != typ {
		return nil, nil, violation("expected handshake message 0x%02x of at least %d bytes, got %d bytes %.16x", typ, 1+n, len(m), m[:min(len(m), 16)])
	}
	return m[1 : 1+n], m[1+n:], nil
}

// parseReject returns the refusal that m is, or what is wrong with m.
func parseReject(m []byte) error {
	head, rest, err := fixed(m, msgReject, 5)
	if err != nil {
		return err
	}
	e := &RejectError{Code: head[0], After: time.Duration(binary.BigEndian.Uint32(head[1:])) * time.Millisecond}
	if e.Code == RejectClosed {
		if len(rest) < 8+macLen {
			return violation("REJECT CLOSED ends early")
		}
		e.final, e.mac, e.signed = binary.BigEndian.Uint64(rest), rest[8:8+macLen], m[:6+8]
		rest = rest[8+macLen:]
	}
	e.Reason = string(rest[:min(len(rest), maxReason)])
	return e
}

func parseChallenge(b []byte) (m challenge, err error) {
	head, rest, err := fixed(b, msgChallenge, 3+8+32+32)
	if err != nil {
		return m, err
	}
	m.min, m.max = head[0], head[1]
	copy(m.instance[:], head[3:])
	copy(m.nonce[:], head[11:])
	copy(m.pub[:], head[43:])
	_, err = parseTLVs(rest)
	return m, err
}

func parseHello(b []byte) (m hello, err error) {
	head, rest, err := fixed(b, msgHello, 3+32+32+4)
	if err != nil {
		return m, err
	}
	if head[0] != version {
		return m, &RejectError{Code: RejectVersion, Reason: fmt.Sprintf("version %d is not spoken here, %d is", head[0], version)}
	}
	copy(m.nonce[:], head[3:])
	copy(m.pub[:], head[35:])
	m.wnd = binary.BigEndian.Uint32(head[67:])
	m.tlvs, err = parseTLVs(rest)
	return m, err
}

func parseWelcome(b []byte) (m welcome, err error) {
	head, rest, err := fixed(b, msgWelcome, 3+16+4+4+2+4+4)
	if err != nil {
		return m, err
	}
	if len(rest) < len(m.confirm) {
		return m, violation("WELCOME ends early")
	}
	copy(m.sid[:], head[3:])
	m.wnd = binary.BigEndian.Uint32(head[19:])
	m.resumeWindow = binary.BigEndian.Uint32(head[23:])
	m.ping = binary.BigEndian.Uint16(head[27:])
	m.maxStreams = binary.BigEndian.Uint32(head[29:])
	m.streamWindow = binary.BigEndian.Uint32(head[33:])
	split := len(rest) - len(m.confirm)
	copy(m.confirm[:], rest[split:])
	m.tlvs, err = parseTLVs(rest[:split])
	return m, err
}

// parseResume splits off the mac, which is of what stands before it.
func parseResume(b []byte) (m resume, mac []byte, err error) {
	const size = 3 + 16 + 8 + 32 + 8 + 4
	head, rest, err := fixed(b, msgResume, size+macLen)
	if err != nil {
		return m, nil, err
	}
	if head[0] != version {
		return m, nil, &RejectError{Code: RejectVersion, Reason: fmt.Sprintf("version %d is not spoken here, %d is", head[0], version)}
	}
	if len(rest) > 0 {
		return m, nil, violation("RESUME with %d bytes behind it", len(rest))
	}
	copy(m.sid[:], head[3:])
	m.epoch = binary.BigEndian.Uint64(head[19:])
	copy(m.nonce[:], head[27:])
	m.rcv = binary.BigEndian.Uint64(head[59:])
	m.wnd = binary.BigEndian.Uint32(head[67:])
	return m, head[size:], nil
}

// parseResumed does the same.
func parseResumed(b []byte) (m resumed, mac []byte, err error) {
	const size = 3 + 8 + 8 + 4
	head, rest, err := fixed(b, msgResumed, size+macLen)
	if err != nil {
		return m, nil, err
	}
	if len(rest) > 0 {
		return m, nil, violation("RESUMED with %d bytes behind it", len(rest))
	}
	m.epoch = binary.BigEndian.Uint64(head[3:])
	m.rcv = binary.BigEndian.Uint64(head[11:])
	m.wnd = binary.BigEndian.Uint32(head[19:])
	return m, head[size:], nil
}
