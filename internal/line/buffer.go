package line

// The send buffer: what was written and is not acknowledged, as segments in
// pooled blocks.

// A segment is a run of bytes inside one block, with room for its header in
// front: one DATA frame.
type segment struct {
	off        uint64
	blk        *block
	start, end int // the header at start, the payload from start+dataHeaderLen
}

func (s *segment) size() int { return s.end - s.start - dataHeaderLen }

// room counts blocks and not bytes against the window: small frames between
// large ones would otherwise pin twice the memory.
func (s *sender) room(k int) bool {
	if n := s.unsent(); n > 0 && n+k > queueMax {
		return false
	}
	if s.fits(dataHeaderLen + k) {
		return true
	}
	return s.blocks == 0 || s.blocks < s.bound()
}

// bound is how many blocks the line may hold now.
func (s *sender) bound() int {
	if s.budget.exceeded() {
		return leastBlocks
	}
	return s.window / sendBlock
}

func (s *sender) fits(n int) bool { return s.cur != nil && len(s.cur.b)-s.used >= n }

// extend makes room for k more bytes at the end, in the last segment if that
// is not on its way yet, and returns it.
func (s *sender) extend(k int) []byte {
	last := len(s.segs) - 1
	if last < s.next || s.segs[last].blk != s.cur || !s.fits(k) {
		if !s.fits(dataHeaderLen + k) {
			s.release()
			s.cur = sendBlocks.Get().(*block)
			s.cur.refs = 1
			s.used = 0
			s.blocks++
			s.budget.take(sendBlock)
		}
		s.segs = append(s.segs, segment{s.end, s.cur, s.used, s.used + dataHeaderLen})
		s.cur.refs++
		s.used += dataHeaderLen
		last = len(s.segs) - 1
	}
	seg := &s.segs[last]
	room := s.cur.b[seg.end : seg.end+k]
	seg.end += k
	s.used = seg.end
	s.end += uint64(k)
	return room
}

// release lets go of the block being filled.
func (s *sender) release() {
	if s.cur != nil {
		s.unref(s.cur)
		s.cur = nil
	}
}

func (s *sender) unref(b *block) {
	if b.unref() {
		s.blocks--
		s.budget.give(sendBlock)
	}
}

// compact drops the freed segments, and with the last of them the block being
// filled: an idle line holds none.
func (s *sender) compact() {
	switch {
	case s.head == len(s.segs):
		s.segs, s.head, s.next = s.segs[:0], 0, 0
		s.release()
	case s.head >= 64:
		n := copy(s.segs, s.segs[s.head:])
		clear(s.segs[n:])
		s.segs = s.segs[:n]
		s.next -= s.head
		s.head = 0
	}
}

// drop gives everything back, when the line has ended.
func (s *sender) drop() {
	for _, g := range s.segs[s.head:] {
		s.unref(g.blk)
	}
	s.segs, s.head, s.next, s.sent = nil, 0, 0, s.end
	s.release()
}
