package mux

import (
	"net"
	"time"
)

// LocalAddr and RemoteAddr name what was asked for.
func (s *Stream) LocalAddr() net.Addr  { return target{"wstun", ""} }
func (s *Stream) RemoteAddr() net.Addr { return s.remote }

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (s *Stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline makes reads fail with os.ErrDeadlineExceeded from t on.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy = t
	if s.err == nil && !s.closed {
		s.raw.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline is the same for writes that wait for the peer's window;
// how long the line holds one up is not counted.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy = t
	if s.err == nil && !s.closed && !s.unread {
		s.raw.SetWriteDeadline(t)
	}
	return nil
}
