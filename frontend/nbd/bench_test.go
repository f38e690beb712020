package nbd

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// BenchmarkRead has a client that keeps some reads in flight. Both sides are
// counted, and neither should allocate.
func BenchmarkRead(b *testing.B) {
	data := make([]byte, 16<<20)
	for _, c := range []struct{ size, depth int }{{4 << 10, 1}, {4 << 10, 16}, {256 << 10, 8}} {
		b.Run(fmt.Sprintf("%dKiB-depth%d", c.size>>10, c.depth), func(b *testing.B) {
			addr := start(b, &Server{Log: slog.New(slog.DiscardHandler)},
				Export{Device: blockdev.NewFlat(bytes.NewReader(data), int64(len(data)))})
			nc := rawClient(b, addr, false)
			var request []byte
			reply := make([]byte, wire.SimpleReplySize+c.size)
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for sent, got := 0, 0; got < b.N; got++ {
				for ; sent < b.N && sent < got+c.depth; sent++ {
					request = wire.Request{Length: uint32(c.size), Offset: uint64(sent*c.size) % uint64(len(data))}.Append(request[:0])
					if _, err := nc.Write(request); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := io.ReadFull(nc, reply); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
