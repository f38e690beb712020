package zone_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/store/zone/zonetest"
)

// BenchmarkHit reads full chunks that do not compress from five Redis servers over
// the loopback interface, 4 of 5, and decrypts them: the whole way from the zone to
// plaintext. In the same round it measures what the parts of it take by themselves:
//
//	network  five commands at once on five connections, and the first four answers
//	crypto   SHA-256 of the object, AES of its frames
//	copy     of the stripes into the object, and of that to the caller
//
// Medians are reported, in microseconds; other is what the parts leave of the
// whole.
func BenchmarkHit(b *testing.B) {
	var urls []string
	var wires []net.Conn
	for range 5 {
		p := zonetest.Start(b, zonetest.Redis)
		urls = append(urls, p.URL())
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		wires = append(wires, c)
	}
	z := open(b, zone.Config{Nodes: urls})
	o := sealed(b)
	put(b, z, chunktest.Object{ID: o.ID, Bytes: o.Object})
	opener, err := seal.NewOpener()
	if err != nil {
		b.Fatal(err)
	}
	defer opener.Close()
	object, plain := make([]byte, len(o.Object)), make([]byte, chunk.Size)
	stripe := bytes.Repeat([]byte{1}, (len(o.Object)+3)/4)
	swarm := newSwarm(b, wires, stripe)
	defer swarm.close()

	parts := map[string][]time.Duration{}
	timed := func(name string, f func()) {
		begun := time.Now()
		f()
		parts[name] = append(parts[name], time.Since(begun))
	}
	read := func() {
		if n, err := z.ReadChunk(context.Background(), o.ID, object, 0); err != nil || n != len(object) {
			b.Fatal(n, err)
		}
	}
	decrypt := func() {
		for i := range o.Header.Frames {
			at := o.Header.FrameOffset(i)
			end := at + int64(o.Header.Frames[i].Len)
			if _, err := opener.OpenFrame(plain[i<<o.Header.FrameLog2:], &o.Header, o.Key, i, object[at:end]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.SetBytes(int64(len(object)))
	b.ReportAllocs()
	for b.Loop() {
		timed("whole", func() { read(); decrypt() })
		b.StopTimer()
		timed("network", swarm.run)
		copy(object, o.Object) // as decryption has changed it
		timed("crypto", func() {
			if _, err := chunk.Verify(o.ID, object); err != nil {
				b.Fatal(err)
			}
			decrypt()
		})
		timed("copy", func() {
			for i := range 4 {
				copy(object[i*len(stripe):], stripe[:min(len(stripe), len(object)-i*len(stripe))])
			}
			copy(object, o.Object)
		})
		b.StartTimer()
	}
	median := func(name string) float64 {
		slices.Sort(parts[name])
		return float64(parts[name][len(parts[name])/2].Nanoseconds()) / 1000
	}
	other := median("whole")
	for name := range parts {
		b.ReportMetric(median(name), name+"-µs")
		if name != "whole" {
			other -= median(name)
		}
	}
	b.ReportMetric(other, "other-µs")
}

// A sealedChunk is a full chunk that does not compress.
type sealedChunk struct {
	seal.Sealed
	Header chunk.Header
}

func sealed(b *testing.B) sealedChunk {
	salt, err := seal.NewSalt(seal.DefaultDomain, 0)
	if err != nil {
		b.Fatal(err)
	}
	s, err := seal.NewSealer(seal.Options{Salt: salt})
	if err != nil {
		b.Fatal(err)
	}
	noise := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	c, err := s.Seal(noise.Bytes[noise.Header.Len():])
	if err != nil {
		b.Fatal(err)
	}
	h, err := chunk.ParseHeader(c.Object)
	if err != nil {
		b.Fatal(err)
	}
	return sealedChunk{c, h}
}

// A swarm asks five servers for one value each, by nothing but the network: as
// many goroutines as connections, and no look at what comes.
type swarm struct {
	turns []chan struct{}
	done  chan struct{}
	late  int // answers of earlier rounds that are still to come
}

func newSwarm(b *testing.B, wires []net.Conn, value []byte) *swarm {
	s := &swarm{done: make(chan struct{}, 1<<20)}
	for _, c := range wires {
		if _, err := fmt.Fprintf(c, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n", len(value), value); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len("+OK\r\n"))); err != nil {
			b.Fatal(err)
		}
		turn := make(chan struct{}, 8)
		s.turns = append(s.turns, turn)
		answer := make([]byte, len(fmt.Sprintf("$%d\r\n%s\r\n", len(value), value)))
		go func() {
			for range turn {
				_, _ = io.WriteString(c, "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
				_, _ = io.ReadFull(c, answer)
				s.done <- struct{}{}
			}
		}()
	}
	return s
}

// run asks all and returns when four have answered.
func (s *swarm) run() {
	for ; s.late > 0; s.late-- {
		<-s.done
	}
	for _, t := range s.turns {
		t <- struct{}{}
	}
	for range 4 {
		<-s.done
	}
	s.late = 1
}

func (s *swarm) close() {
	for _, t := range s.turns {
		close(t)
	}
}
