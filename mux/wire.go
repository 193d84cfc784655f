package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"wstun/internal/netx"
)

// What a stream begins with; docs/protocol.md, "Streams".
//
//	OPEN:  version u8 | kind u8 | flags u16 | len u16 | body
//	reply: status u8 | len u16 | text
const (
	openVersion = 1
	openHeader  = 6
	maxOpen     = 1 << 10
	maxText     = 256
)

// Kinds of OPEN.
const (
	kindTCP      = 1 // body: host:port
	kindUDP      = 2 // body: host:port
	kindUnix     = 3 // body: path
	kindService  = 4 // body: name
	kindListen   = 5 // body: network and address
	kindAccepted = 6 // body: id of the listen stream, source
	kindControl  = 7 // no body
)

var kinds = map[string]byte{"tcp": kindTCP, "udp": kindUDP, "unix": kindUnix, "service": kindService}

func networkOf(kind byte) string {
	for network, k := range kinds {
		if k == kind {
			return network
		}
	}
	return ""
}

// A Status is the answer to an OPEN. The numbers are the wire's: none is ever
// given another meaning.
type Status byte

// The statuses.
const (
	OK          Status = 0
	Denied      Status = 1
	NoSuchHost  Status = 2
	Refused     Status = 3
	TimedOut    Status = 4
	Unreachable Status = 5
	Limit       Status = 6
	Draining    Status = 7
	Internal    Status = 8
	Bad         Status = 9
)

// statuses maps errors to statuses and both to what a peer is told: never more
// than it may know, so no address and no error text of this host.
var statuses = []struct {
	status Status
	text   string
	errs   []error
}{
	{Denied, "not allowed", []error{netx.ErrDenied}},
	{Limit, "too many connections", []error{netx.ErrLimit, syscall.EMFILE, syscall.ENFILE}},
	{Draining, "the server is about to stop", []error{netx.ErrDraining}},
	{Bad, "no such network there", []error{netx.ErrNetwork}},
	{Refused, "connection refused", []error{syscall.ECONNREFUSED, syscall.ENOENT}},
	{Unreachable, "host or network unreachable", []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EADDRNOTAVAIL}},
	{TimedOut, "timed out", []error{syscall.ETIMEDOUT, os.ErrDeadlineExceeded, context.DeadlineExceeded}},
	{NoSuchHost, "no such host", nil}, // *net.DNSError
	{Internal, "failed", nil},         // anything else
}

// statusOf returns what a peer is told of err.
func statusOf(err error) (Status, string) {
	var dns *net.DNSError
	if errors.As(err, &dns) && !dns.IsTimeout {
		return NoSuchHost, "no such host"
	}
	for _, s := range statuses {
		for _, e := range s.errs {
			if errors.Is(err, e) {
				return s.status, s.text
			}
		}
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return TimedOut, "timed out"
	}
	return Internal, "failed"
}

// Reason returns, in words a user may be shown, why err made a dial fail.
func Reason(err error) string {
	var refusal *RefusedError
	if errors.As(err, &refusal) {
		return refusal.Text
	}
	_, text := statusOf(err)
	return text
}

// A RefusedError is why the far end did not open a stream. It is like the
// error that the far end met, as far as one of package netx or syscall says it.
type RefusedError struct {
	Status Status
	Text   string // the far end's, at most 256 bytes
}

func (e *RefusedError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("refused with status %d", e.Status)
	}
	return e.Text
}

// Is makes errors.Is(err, syscall.ECONNREFUSED) and the like hold across the
// session.
func (e *RefusedError) Is(target error) bool {
	for _, s := range statuses {
		if s.status == e.Status && len(s.errs) > 0 && s.errs[0] == target {
			return true
		}
	}
	return false
}

func appendOpen(b []byte, kind byte, body string) []byte {
	b = append(b, openVersion, kind, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// readOpen reads an OPEN. An error that is a *RefusedError is to be answered.
func readOpen(r io.Reader) (kind byte, body string, err error) {
	var h [openHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, "", err
	}
	n := binary.BigEndian.Uint16(h[4:])
	if h[0] != openVersion || n > maxOpen {
		return 0, "", &RefusedError{Bad, "not an OPEN of this version"}
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	body = string(b)
	if strings.ContainsFunc(body, func(r rune) bool { return r < ' ' || r == 0x7f }) && h[1] != kindListen && h[1] != kindAccepted {
		return 0, "", &RefusedError{Bad, "control characters in an address"}
	}
	return h[1], body, nil
}

func appendReply(b []byte, s Status, text string) []byte {
	text = text[:min(len(text), maxText)]
	b = append(b, byte(s))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// Records, both ways behind OPEN and reply: type u8 | len u24 | body.
const (
	recData = 0
	recFIN  = 1
	recRST  = 2 // code u16
	recNoop = 3

	recHeader = 4
	maxRecord = 1<<16 - 1
)

func putRecord(b []byte, typ byte, n int) {
	binary.BigEndian.PutUint32(b, uint32(typ)<<24|uint32(n))
}

// parseRecord checks a record's header.
func parseRecord(b []byte) (typ byte, n int, err error) {
	v := binary.BigEndian.Uint32(b)
	typ, n = byte(v>>24), int(v&0xffffff)
	ok := false
	switch typ {
	case recData:
		ok = n <= maxRecord
	case recFIN, recNoop:
		ok = n == 0
	case recRST:
		ok = n == 2
	}
	if !ok {
		return 0, 0, fmt.Errorf("%w: a record of type %d with %d bytes", ErrProtocol, typ, n)
	}
	return typ, n, nil
}

// Codes of RST and RESET.
const (
	ResetByPeer   uint16 = 1 // the connection on the other end was reset
	ResetTimeout  uint16 = 2
	ResetShutdown uint16 = 3 // the process there ends
	ResetInternal uint16 = 4
	ResetProtocol uint16 = 5

	// ResetUnread is a RESET's only: the stream was closed there, and what
	// is sent to it is thrown away. What came from there stands, with its FIN.
	ResetUnread uint16 = 6
)

// codeOf returns the code for an abort with this cause.
func codeOf(cause error) uint16 {
	var ne net.Error
	switch {
	case cause == nil, errors.Is(cause, syscall.ECONNRESET), errors.Is(cause, syscall.EPIPE), errors.Is(cause, io.EOF):
		return ResetByPeer
	case errors.Is(cause, netx.ErrDraining):
		return ResetShutdown
	case errors.Is(cause, ErrProtocol):
		return ResetProtocol
	case errors.As(cause, &ne) && ne.Timeout():
		return ResetTimeout
	}
	return ResetInternal
}
