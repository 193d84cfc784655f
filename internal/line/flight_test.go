package line

import (
	"testing"
	"testing/synctest"
	"time"
)

// A slow link that is full both ways, with buffers that could hold minutes of
// it: acknowledgements wait behind bytes, and still nobody is given up.
func TestSlowLinkThatIsFullBothWaysIsNotGivenUp(t *testing.T) {
	const rate = 8000
	for _, room := range []int{64 << 10, 4 << 20} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, always, Config{})
			w.wired(func(l *wire) {
				for i := range l.ways {
					l.ways[i].rate, l.ways[i].room, l.ways[i].latency = rate, room, 5*time.Millisecond
				}
			})
			c, s := w.connect(Config{})
			told := watch(c)
			var came [2]int
			for i, l := range []*Conn{c, s} {
				go l.Write(make([]byte, 30*60*rate)) // more than there is time for
				go func() {
					buf := make([]byte, 1<<20)
					for {
						n, err := l.Read(buf)
						if err != nil {
							return
						}
						came[i] += n
					}
				}()
			}
			const length = 5 * time.Minute
			time.Sleep(length)
			synctest.Wait()
			for i, n := range came {
				if share := float64(n) / length.Seconds() / rate; share < 0.9 {
					t.Errorf("way %d with buffers of %d: %.0f %% of the rate", i, room, 100*share)
				}
			}
			if es := told(); len(es) > 0 {
				t.Errorf("with buffers of %d: %+v", room, es)
			}
			w.end(c, s)
		})
	}
}

// On a line that is fast all of the window is soon in use.
func TestFastLineFillsItsWindowSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, always, Config{})
		w.wired(func(l *wire) {
			for i := range l.ways {
				l.ways[i].room, l.ways[i].latency = 64<<20, 25*time.Millisecond
			}
		})
		c, s := w.connect(Config{Window: 8 << 20})
		go c.Write(make([]byte, 64<<20))
		go func() {
			buf := make([]byte, 1<<20)
			for {
				if _, err := s.Read(buf); err != nil {
					return
				}
			}
		}()
		time.Sleep(20 * 50 * time.Millisecond) // twenty round trips
		c.mu.Lock()
		if c.out.flight.limit != c.out.window || c.out.chunk != sendBlock {
			t.Errorf("%d bytes under way of %d, frames of %d", c.out.flight.limit, c.out.window, c.out.chunk)
		}
		c.mu.Unlock()
		w.end(c, s)
	})
}
