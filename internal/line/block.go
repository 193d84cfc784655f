package line

import "sync"

// Blocks are the line's memory, pooled and shared by all lines of the process.
// A send block holds segments, each with room for its frame's header; it is
// sized so that the largest read of a relay with all headers fills it exactly.
// A receive block holds one message of any size a peer may send, or several
// small ones.
const (
	sendBlock    = 64 << 10
	receiveBlock = MaxMessage
)

type block struct {
	b    []byte
	refs int // segments in it, pins of a write under way, and being the current one
}

var (
	sendBlocks    = sync.Pool{New: func() any { return &block{b: make([]byte, sendBlock)} }}
	receiveBlocks = sync.Pool{New: func() any { return new([receiveBlock]byte) }}
)

// unref is called with the line's lock held, like all use of refs.
func (b *block) unref() (free bool) {
	b.refs--
	if b.refs == 0 {
		sendBlocks.Put(b)
		return true
	}
	return false
}
