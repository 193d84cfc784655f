//go:build unix

package relay

import (
	"io"
	"net"
	"os"
	"syscall"
)

const rawReads = true

// rawNext takes a block only once the kernel says that there is something.
func (s *source) rawNext(room int) (block []byte, n int, err error) {
	s.room, s.n, s.err = room, 0, nil
	if err := s.raw.Read(s.try); err != nil {
		return nil, 0, err // closed, or a deadline
	}
	block, s.block = s.block, nil
	return block, s.n, s.err
}

func (s *source) tryRead(fd uintptr) (done bool) {
	b := getBlock()
	for {
		n, err := syscall.Read(int(fd), b[s.room:s.room+BlockSize])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			putBlock(b)
			return false
		case err != nil, n == 0 && s.wasReset(int(fd)):
			putBlock(b)
			if err == nil {
				err = syscall.ECONNRESET
			}
			s.err = &net.OpError{Op: "read", Net: s.conn.LocalAddr().Network(), Source: s.conn.LocalAddr(), Addr: s.conn.RemoteAddr(), Err: os.NewSyscallError("read", err)}
			return true
		case n == 0:
			putBlock(b)
			s.err = io.EOF
			return true
		}
		s.block, s.n = b, n
		return true
	}
}

// wasReset tells what an end of 0 bytes hides: the kernel reports a reset once,
// and if a write to conn met it, a read sees an end. A peer that ended in order
// before it was gone leaves an end, too, and no reset.
func (s *source) wasReset(fd int) bool {
	_, err := syscall.Getpeername(fd)
	return err != nil && s.reset()
}
