package vhostuser

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/vhostuserclient"
)

// BenchmarkRead has a front end that keeps some reads in flight. Both sides are
// counted, and neither should allocate.
func BenchmarkRead(b *testing.B) {
	data := make([]byte, 16<<20)
	for _, c := range []struct{ size, depth int }{{4 << 10, 1}, {4 << 10, 32}, {256 << 10, 8}} {
		b.Run(fmt.Sprintf("%dKiB-depth%d", c.size>>10, c.depth), func(b *testing.B) {
			path := start(b, &Server{Export: Export{Device: blockdev.NewFlat(bytes.NewReader(data), int64(len(data)))}})
			q := dial(b, vhostuserclient.Dialer{Depth: c.depth, Buffer: c.size}, path).Queue(0)
			submit := func(slot, i int) {
				q.Read(slot, uint64(i*c.size%len(data))/512, c.size)
				q.Submit(slot)
			}
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			sent := 0
			for ; sent < min(b.N, c.depth); sent++ {
				submit(sent, sent)
			}
			for got := 0; got < b.N; {
				slot, err, ok := q.Reap()
				if err != nil {
					b.Fatal(err)
				}
				if !ok {
					q.Kick()
					if err := q.Wait(); err != nil {
						b.Fatal(err)
					}
					continue
				}
				if got++; sent < b.N {
					submit(slot, sent)
					sent++
				}
			}
		})
	}
}
