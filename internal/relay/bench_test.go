package relay

import (
	"io"
	"net"
	"testing"
)

func pipe(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }

var benchPairs = []struct {
	name string
	pair func(testing.TB) (net.Conn, net.Conn)
}{{"tcp", tcp}, {"unix", unix}, {"pipe", pipe}}

// BenchmarkThroughput is one direction, in blocks of 64 KiB.
func BenchmarkThroughput(b *testing.B) {
	for _, p := range benchPairs {
		b.Run(p.name, func(b *testing.B) {
			c := join(b, p.pair, 0, nil)
			block := make([]byte, 64<<10)
			b.SetBytes(int64(len(block)))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for range b.N {
					c.client.Write(block)
				}
			}()
			io.CopyN(io.Discard, struct{ io.Reader }{c.target}, int64(b.N)*int64(len(block)))
			b.StopTimer()
			c.close()
			<-c.ended
		})
	}
}

// BenchmarkPingPong is the way there and back of one byte.
func BenchmarkPingPong(b *testing.B) {
	for _, p := range benchPairs {
		b.Run(p.name, func(b *testing.B) {
			c := join(b, p.pair, 0, nil)
			buf := make([]byte, 1)
			b.ReportAllocs()
			for b.Loop() {
				c.client.Write(buf)
				c.target.Read(buf)
				c.target.Write(buf)
				c.client.Read(buf)
			}
			c.close()
			<-c.ended
		})
	}
}
