package line

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Frames of an attached line, one per carrier message; docs/protocol.md,
// "Line frames". Every frame carries what its sender has received and how much
// more it takes.
const (
	frameData     = 0x10 // off u64, payload 1..MaxPayload
	frameAck      = 0x11
	framePing     = 0x12 // opaque u64
	framePong     = 0x13 // opaque u64 of the PING
	frameClose    = 0x14 // final_off u64, code u16, reason
	frameCloseAck = 0x15
	frameGoAway   = 0x16 // code u16, deadline_ms u32, flags u8, TLV
	frameDetach   = 0x17 // code u16, retry_ms u32

	flagAckNow = 1

	headerLen     = 16 // type u8, flags u8, reserved u16, wnd u32, ack u64
	dataHeaderLen = headerLen + 8
	maxReason     = 120
)

// MaxPayload is the most that a DATA frame may carry. MaxMessage bounds any
// message of a carrier: a carrier may refuse larger ones.
const (
	MaxPayload = 66_560
	MaxMessage = 68 << 10
)

// ErrProtocol is wrapped by the error of a line whose peer broke the protocol.
var ErrProtocol = errors.New("protocol violation")

func violation(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, a...)...)
}

// A frame is the decoded form. Its body points into the message.
type frame struct {
	typ    byte
	ackNow bool
	wnd    uint32
	ack    uint64

	arg  uint64 // off, opaque or final_off
	code uint16
	body []byte // payload or reason
	goAway
}

// goAway is the body of a GOAWAY and, less its flags, of a DETACH.
type goAway struct {
	millis uint32
	flags  byte
}

func putHeader(b []byte, typ, flags byte, wnd uint32, ack uint64) {
	b[0], b[1], b[2], b[3] = typ, flags, 0, 0
	binary.BigEndian.PutUint32(b[4:], wnd)
	binary.BigEndian.PutUint64(b[8:], ack)
}

// append encodes f behind b. DATA frames are built in place by the sender and
// take this way only in tests.
func (f *frame) append(b []byte) []byte {
	var flags byte
	if f.ackNow {
		flags = flagAckNow
	}
	b = append(b, make([]byte, headerLen)...)
	putHeader(b[len(b)-headerLen:], f.typ, flags, f.wnd, f.ack)
	switch f.typ {
	case frameData, framePing, framePong:
		b = binary.BigEndian.AppendUint64(b, f.arg)
		b = append(b, f.body...)
	case frameClose:
		b = binary.BigEndian.AppendUint64(b, f.arg)
		b = binary.BigEndian.AppendUint16(b, f.code)
		b = append(b, f.body...)
	case frameGoAway:
		b = binary.BigEndian.AppendUint16(b, f.code)
		b = binary.BigEndian.AppendUint32(b, f.millis)
		b = append(b, f.flags)
	case frameDetach:
		b = binary.BigEndian.AppendUint16(b, f.code)
		b = binary.BigEndian.AppendUint32(b, f.millis)
	}
	return b
}

// parseFrame decodes one message. Frames 0x40–0x7F are for later versions and
// come back with only their header read; every other unknown one is an error.
func parseFrame(m []byte) (f frame, err error) {
	if len(m) < headerLen {
		return f, violation("a message of %d bytes is no frame", len(m))
	}
	f.typ = m[0]
	f.ackNow = m[1]&flagAckNow != 0
	f.wnd = binary.BigEndian.Uint32(m[4:])
	f.ack = binary.BigEndian.Uint64(m[8:])
	b := m[headerLen:]
	short := func(want int) error {
		if len(b) < want {
			return violation("frame 0x%02x with a body of %d bytes", f.typ, len(b))
		}
		return nil
	}
	switch f.typ {
	case frameAck, frameCloseAck:
	case frameData:
		if len(b) <= 8 || len(b) > 8+MaxPayload {
			return f, violation("a DATA frame with a body of %d bytes", len(b))
		}
		f.arg, f.body = binary.BigEndian.Uint64(b), b[8:]
	case framePing, framePong:
		if err := short(8); err != nil {
			return f, err
		}
		f.arg = binary.BigEndian.Uint64(b)
	case frameClose:
		if err := short(10); err != nil {
			return f, err
		}
		f.arg, f.code = binary.BigEndian.Uint64(b), binary.BigEndian.Uint16(b[8:])
		f.body = b[10:min(len(b), 10+maxReason)]
	case frameGoAway:
		if err := short(7); err != nil {
			return f, err
		}
		f.code, f.millis, f.flags = binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:]), b[6]
	case frameDetach:
		if err := short(6); err != nil {
			return f, err
		}
		f.code, f.millis = binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])
	default:
		if f.typ < 0x40 || f.typ > 0x7f {
			return f, violation("unknown frame 0x%02x", f.typ)
		}
	}
	return f, nil
}
