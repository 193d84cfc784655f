//go:build !unix

package relay

const rawReads = false

func (s *source) rawNext(int) ([]byte, int, error) { panic("unreachable: rawReads is false") }
func (s *source) tryRead(uintptr) bool             { panic("unreachable: rawReads is false") }
