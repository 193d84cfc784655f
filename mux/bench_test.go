package mux

import (
	"io"
	"testing"
)

// BenchmarkThroughput is one stream over loopback, by Write and by what a
// relay uses.
func BenchmarkThroughput(b *testing.B) {
	for _, by := range []string{"Write", "WriteBlock"} {
		b.Run(by, func(b *testing.B) {
			client, server := sessions(b, Config{})
			c, s := streams(b, client, server)
			block := make([]byte, 64<<10-40)
			room := make([]byte, c.Room()+len(block))
			b.SetBytes(int64(len(block)))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for range b.N {
					if by == "Write" {
						c.Write(block)
					} else {
						c.WriteBlock(room)
					}
				}
			}()
			if _, err := io.CopyN(io.Discard, struct{ io.Reader }{s}, int64(b.N)*int64(len(block))); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
		})
	}
}

func BenchmarkPingPong(b *testing.B) {
	client, server := sessions(b, Config{})
	c, s := streams(b, client, server)
	go func() {
		buf := make([]byte, 1)
		for {
			if _, err := s.Read(buf); err != nil {
				return
			}
			s.Write(buf)
		}
	}()
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(buf)
		c.Read(buf)
	}
}

// BenchmarkOpen is the life of a stream that carries nothing.
func BenchmarkOpen(b *testing.B) {
	client, server := sessions(b, Config{})
	go func() {
		for {
			r, err := server.Accept(b.Context())
			if err != nil {
				return
			}
			if st, err := r.Grant(""); err == nil {
				st.Close()
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		c, err := client.Dial(b.Context(), "tcp", "x:1")
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
