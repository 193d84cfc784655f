package line

import "sync/atomic"

// A Budget bounds the memory that lines hold together. Where it is full each
// line still gets the least that lets it go on, so nothing stops for good: its
// writers wait longer, its peer is granted less. A nil Budget bounds nothing.
type Budget struct {
	limit int64
	held  atomic.Int64
	full  func() // called when the limit is crossed; must not block
}

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{limit: bytes} }

// sessionCost is what a session is reckoned to take besides its blocks: its
// goroutines, timers, buffers.
const sessionCost = 64 << 10

// leastBlocks is how many send blocks a line may always have, and what it
// grants its peer at least: minWindow.
const leastBlocks = minWindow / sendBlock

func (b *Budget) take(n int64) {
	if b == nil {
		return
	}
	if held := b.held.Add(n); held > b.limit && held-n <= b.limit && b.full != nil {
		b.full()
	}
}

func (b *Budget) give(n int64) {
	if b != nil {
		b.held.Add(-n)
	}
}

func (b *Budget) exceeded() bool { return b != nil && b.held.Load() > b.limit }

// Held returns how many bytes are held now.
func (b *Budget) Held() int64 {
	if b == nil {
		return 0
	}
	return b.held.Load()
}
