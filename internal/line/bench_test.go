package line

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"
)

// A ring is one end of a carrier that allocates nothing, so that what is
// measured is the line.
type ring struct {
	in, inFree   chan []byte
	out, outFree chan []byte
	closed, gone chan struct{}
	last         []byte
	r            bytes.Reader
	pipe         *pipe // for Close's once
}

func rings() (a, b *ring) {
	free := func() chan []byte {
		c := make(chan []byte, 8)
		for range cap(c) {
			c <- make([]byte, 0, MaxMessage)
		}
		return c
	}
	ab, ba, abFree, baFree := make(chan []byte, 8), make(chan []byte, 8), free(), free()
	p, q := carriers()
	a = &ring{in: ba, inFree: baFree, out: ab, outFree: abFree, closed: p.closed, gone: q.closed, pipe: p}
	b = &ring{in: ab, inFree: abFree, out: ba, outFree: baFree, closed: q.closed, gone: p.closed, pipe: q}
	return a, b
}

func (r *ring) Next() (io.Reader, error) {
	if r.last != nil {
		r.inFree <- r.last[:0]
		r.last = nil
	}
	select {
	case r.last = <-r.in:
		r.r.Reset(r.last)
		return &r.r, nil
	case <-r.closed:
	case <-r.gone:
	}
	return nil, errCut
}

func (r *ring) WriteMessages(msgs ...[]byte) error {
	for _, m := range msgs {
		select {
		case b := <-r.outFree:
			r.out <- append(b, m...)
		case <-r.closed:
			return errCut
		case <-r.gone:
			return errCut
		}
	}
	return nil
}

func (r *ring) Close() error      { return r.pipe.Close() }
func (r *ring) Received() uint32  { return 0 }
func (r *ring) Abort(error) error { return r.Close() }
func (r *ring) Wait()             {}

func ringLines(t testing.TB) (client, server *Conn) {
	t.Helper()
	a, b := rings()
	got := make(chan *Conn, 1)
	go func() {
		c, _, err := NewServer("", Limits{}, Config{}).Accept(context.Background(), b, "")
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	client, err := Dial(context.Background(), a, Hello{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return client, <-got
}

func BenchmarkThroughput(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"64KiB", 64<<10 - dataHeaderLen}, {"1KiB", 1 << 10}, {"64B", 64}} {
		b.Run(size.name, func(b *testing.B) {
			c, s := ringLines(b)
			defer closeBoth(c, s)
			block := make([]byte, size.n)
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for range b.N {
					c.Write(block)
				}
			}()
			buf := make([]byte, 64<<10)
			for left := b.N * size.n; left > 0; {
				n, err := s.Read(buf)
				if err != nil {
					b.Fatal(err)
				}
				left -= n
			}
			b.StopTimer()
		})
	}
}

func BenchmarkPingPong(b *testing.B) {
	c, s := ringLines(b)
	defer closeBoth(c, s)
	echoOneByte(s)
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(buf)
		c.Read(buf)
	}
}

// echoOneByte answers until the line ends.
func echoOneByte(s *Conn) {
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := s.Read(buf)
			if err != nil {
				return
			}
			s.Write(buf[:n])
		}
	}()
}

func TestWarmLineAllocatesNothingPerFrame(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	c, s := ringLines(t)
	defer closeBoth(c, s)
	echoOneByte(s)
	buf := make([]byte, 20_000)
	round := func() {
		c.Write(buf)
		io.ReadFull(c, buf)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
		round()
	}
	// A round is two frames of DATA and now and then an ACK.
	if n := testing.AllocsPerRun(500, round); n >= 1 {
		t.Errorf("%v allocations for a frame each way", n)
	}
}
