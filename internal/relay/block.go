package relay

import (
	"net"
	"sync"
	"syscall"
)

// BlockSize is the most that one read takes: with the headers of a record (4),
// of a yamux frame (12) and of a line frame (24) it fills one 64 KiB block of
// the session's line exactly.
const BlockSize = 64<<10 - 40

const maxRoom = 16

var blocks = sync.Pool{New: func() any { return new([maxRoom + BlockSize]byte) }}

func getBlock() []byte { return blocks.Get().(*[maxRoom + BlockSize]byte)[:] }

func putBlock(b []byte) {
	if b != nil {
		blocks.Put((*[maxRoom + BlockSize]byte)(b[:maxRoom+BlockSize]))
	}
}

// A sink takes blocks with room in front of the payload, for a header that the
// conn puts there: so a record leaves in one piece without a copy.
type sink struct {
	room  int
	write func(p []byte) (int, error)
}

// roomy is a conn that wants room before what it writes. WriteBlock writes
// p[Room():] and may use what is before; Room is at most 16.
type roomy interface {
	Room() int
	WriteBlock(p []byte) (n int, err error)
}

func newSink(c net.Conn) sink {
	if r, ok := c.(roomy); ok {
		return sink{r.Room(), r.WriteBlock}
	}
	return sink{0, c.Write}
}

// A source reads into pooled blocks, and holds none while it waits: an idle
// connection costs no buffer.
type source struct {
	conn  net.Conn
	reset func() bool                // a write to conn, which is dead, met a reset
	ready interface{ Ready() error } // nil if conn has no such method
	raw   syscall.RawConn            // nil if conn is no socket

	// of the read under way through raw
	room  int
	block []byte
	n     int
	err   error
	try   func(fd uintptr) (done bool)
}

// newSource prefers, in this order, a conn's own Ready, which blocks until a
// Read would have something, and readiness as the kernel tells it.
func newSource(c net.Conn, reset func() bool) *source {
	s := &source{conn: c, reset: reset}
	if r, ok := c.(interface{ Ready() error }); ok {
		s.ready = r
		return s
	}
	switch c := c.(type) {
	case *net.TCPConn:
		s.raw, _ = c.SyscallConn()
	case *net.UnixConn:
		s.raw, _ = c.SyscallConn()
	}
	s.try = s.tryRead
	return s
}

// next waits for bytes and reads them to block[room:room+n]. The caller puts
// the block back, which is nil if nothing was read.
func (s *source) next(room int) (block []byte, n int, err error) {
	if s.raw != nil && rawReads {
		return s.rawNext(room)
	}
	if s.ready != nil {
		if err := s.ready.Ready(); err != nil {
			return nil, 0, err
		}
	}
	block = getBlock()
	n, err = s.conn.Read(block[room : room+BlockSize])
	return block, n, err
}
