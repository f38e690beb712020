package cachedclient

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// quantiles reports the median and the 99th percentile of times.
func quantiles(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "µs-median")
	b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1e3, "µs-p99")
}

// chunks returns n full raw chunks.
func chunks(n int) (list []chunktest.Object) {
	for i := range n {
		list = append(list, chunktest.Random(uint64(i), chunk.Size, chunk.FrameSize))
	}
	return list
}

// BenchmarkHit reads from chunks that the cache has: from descriptors, after the
// first touch and at the first touch.
func BenchmarkHit(b *testing.B) {
	const n = 64
	list := chunks(n)
	d, o := cachedtest.Start(b, nil), cachedtest.NewOrigin(b, list...)
	c := client(b, d.Socket, nil)
	r := c.Reader(chunk.NewDoor(o), o)
	for i := range list {
		readWholly(b, r, &list[i])
	}
	size := len(list[0].Bytes)
	for _, k := range []struct {
		name string
		n    int
		pick func(rng *rand.Rand, o *chunktest.Object) int64
	}{
		{"4KiB", 4096, func(rng *rand.Rand, o *chunktest.Object) int64 {
			return o.Header.FrameOffset(0) + rng.Int64N(chunk.Size/4096)*4096
		}},
		{"64KiBFrame", chunk.FrameSize, func(rng *rand.Rand, o *chunktest.Object) int64 { return o.Header.FrameOffset(rng.IntN(8)) }},
		{"Chunk", size, func(*rand.Rand, *chunktest.Object) int64 { return 0 }},
	} {
		for _, first := range []bool{false, true} {
			name := k.name
			if first {
				name += "FirstTouch"
			}
			b.Run(name, func(b *testing.B) {
				rng, dst := rand.New(rand.NewPCG(1, 2)), make([]byte, k.n)
				var times []time.Duration
				b.SetBytes(int64(k.n))
				b.ReportAllocs()
				for b.Loop() {
					o := &list[rng.IntN(n)]
					if first {
						c.shelf.drop(o.ID, nil)
					}
					begun := time.Now()
					if got, err := r.ReadChunk(ctx, o.ID, dst, k.pick(rng, o)); err != nil || got != k.n {
						b.Fatal(got, err)
					}
					times = append(times, time.Since(begun))
				}
				quantiles(b, times)
			})
		}
	}
}

// socketServer tells the test binary to be the server of BenchmarkSocket.
const socketServer = "RIVULET_BENCH_SOCKET"

// BenchmarkSocket is what was not chosen: the same bytes over the socket, from a
// server that has all files open, with a page checksum made by the server and
// checked by the reader, as BenchmarkHit's are after the first touch.
func BenchmarkSocket(b *testing.B) {
	if path := os.Getenv(socketServer); path != "" {
		serveBytes(b, path)
		return
	}
	list := chunks(64)
	dir := b.TempDir()
	for i := range list {
		if err := os.WriteFile(fmt.Sprint(dir, "/", i), list[i].Bytes, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	l, err := net.Listen("unix", cachedtest.SocketIn(b))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkSocket$", "-test.benchtime=1x")
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append(os.Environ(), socketServer+"="+dir), []*os.File{f}, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	size := len(list[0].Bytes)
	for _, k := range []struct {
		name string
		n    int
	}{{"4KiB", 4096}, {"64KiBFrame", chunk.FrameSize}, {"Chunk", size}} {
		b.Run(k.name, func(b *testing.B) {
			rng, dst, sums := rand.New(rand.NewPCG(1, 2)), make([]byte, k.n), make([]byte, 4*((k.n+4095)/4096))
			var times []time.Duration
			b.SetBytes(int64(k.n))
			b.ReportAllocs()
			var q [12]byte
			for b.Loop() {
				begun := time.Now()
				binary.LittleEndian.PutUint32(q[:], uint32(rng.IntN(64)))
				binary.LittleEndian.PutUint32(q[4:], uint32(rng.IntN(max(1, (size-k.n)/4096))*4096))
				binary.LittleEndian.PutUint32(q[8:], uint32(k.n))
				if _, err := conn.Write(q[:]); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, sums); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, dst); err != nil {
					b.Fatal(err)
				}
				for i := 0; i < k.n; i += 4096 {
					if crc32.Checksum(dst[i:min(i+4096, k.n)], castagnoli) != binary.LittleEndian.Uint32(sums[i/1024:]) {
						b.Fatal("sum")
					}
				}
				times = append(times, time.Since(begun))
			}
			quantiles(b, times)
		})
	}
}

// serveBytes is the server.
func serveBytes(b *testing.B, dir string) {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		b.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	files := make([]*os.File, 64)
	for i := range files {
		if files[i], err = os.Open(fmt.Sprint(dir, "/", i)); err != nil {
			b.Fatal(err)
		}
	}
	buf := make([]byte, 1<<20)
	var q [12]byte
	for {
		if _, err := io.ReadFull(conn, q[:]); err != nil {
			return
		}
		n := int(binary.LittleEndian.Uint32(q[8:]))
		sums := 4 * ((n + 4095) / 4096)
		data := buf[sums : sums+n]
		if _, err := files[binary.LittleEndian.Uint32(q[:])].ReadAt(data, int64(binary.LittleEndian.Uint32(q[4:]))); err != nil {
			b.Fatal(err)
		}
		for i := 0; i < n; i += 4096 {
			binary.LittleEndian.PutUint32(buf[i/1024:], crc32.Checksum(data[i:min(i+4096, n)], castagnoli))
		}
		if _, err := conn.Write(buf[:sums+n]); err != nil {
			return
		}
	}
}
