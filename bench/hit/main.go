// Hit measures, inside one process and by the stack of reading that an agent has,
// what a read takes of a disk whose chunks a host cache has, or a zone behind it. It
// prints a Markdown row for each kind of read, with the median, 99th percentile, number,
// and the processor time of this process that one read took at the mean, which says more
// than the median where others use the machine, too.
//
//	hit -store URL -cache SOCKET [-once [-pause TIME] [-zone URL]] [-only KIND] [-cpuprofile FILE] IMAGE
//
// The image is one whose keys are open. With -once it reads one page of each chunk,
// in an order drawn at random, and nothing else: what the host cache was emptied
// before comes from further away. With -pause it waits before each read, so that the
// daemon has done what it does with a chunk after it was read. With -zone, the address that the daemon has, it also
// measures what the parts of such a read take by themselves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store"
)

func main() {
	var b bench
	once := flag.Bool("once", false, "read one page of each chunk, once")
	flag.StringVar(&b.url, "store", "", "store's URL")
	flag.StringVar(&b.socket, "cache", "", "the host cache's socket")
	flag.DurationVar(&b.pause, "pause", 0, "with -once: wait so long before each read")
	address := flag.String("zone", "", "with -once: the zone's URL")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.StringVar(&b.only, "only", "", "measure the kinds whose names have this in them")
	flag.IntVar(&b.reads, "reads", 20000, "reads of a kind at most")
	flag.Parse()
	err := b.open(flag.Args())
	if err == nil && *profile != "" {
		var f *os.File
		if f, err = os.Create(*profile); err == nil {
			err = pprof.StartCPUProfile(f)
			defer pprof.StopCPUProfile()
		}
	}
	if err == nil && *once {
		err = b.once(*address)
	} else if err == nil {
		err = b.kinds()
	}
	if err != nil {
		pprof.StopCPUProfile()
		fmt.Fprintln(os.Stderr, "hit:", err)
		os.Exit(1)
	}
}

// A bench is an image that is read again and again, each time as if by a new process.
type bench struct {
	url, socket string
	only        string // kinds; "": all
	reads       int
	pause       time.Duration // before each
	image       *host.Image
	m           *blockmap.Map
	raw, packed []piece // frames, by how they are stored
	full        []piece // raw chunks of the full size
}

// A piece is what may be read: a frame or a chunk.
type piece struct{ off, size int64 }

func (b *bench) open(images []string) error {
	if len(images) != 1 {
		return errors.New("want one image")
	}
	ctx := context.Background()
	o, err := store.Open(ctx, b.url, store.Options{})
	if err != nil {
		return err
	}
	b.image, err = (&host.Reader{}).Open(ctx, generation.NewView(o, generation.Options{}), images[0], false)
	if err != nil {
		return err
	}
	b.m = b.image.Unlocked
	return nil
}

// sort looks at each chunk, which warms the host cache, and sorts its frames.
func (b *bench) sort() error {
	info, door := b.m.Info(), chunk.NewDoor(b.image)
	client := cachedclient.New(cachedclient.Config{Socket: b.socket})
	defer client.Close()
	reader, object := client.Reader(door, b.image), make([]byte, chunk.MaxStoredSize)
	for i := range b.m.Len() {
		c := b.m.Chunk(i)
		if _, err := reader.ReadChunk(context.Background(), c.ID, object[:c.Stored], 0); err != nil {
			return err
		}
		h, err := chunk.ParseHeader(object[:c.Stored])
		if err != nil {
			return err
		}
		at := int64(c.Index) << info.ChunkLog2
		frames := &b.packed
		if h.Codec == chunk.Raw {
			frames = &b.raw
		}
		for f := range h.Frames {
			*frames = append(*frames, piece{at + int64(f)<<h.FrameLog2, int64(h.FrameSize(f))})
		}
		if h.Codec == chunk.Raw && int64(c.Size) == info.ChunkSize() {
			b.full = append(b.full, piece{at, int64(c.Size)})
		}
	}
	return nil
}

// hostCache is the host cache as an agent reads through it.
type hostCache struct{ *cachedclient.Client }

// Reader implements [host.Cache].
func (c hostCache) Reader(image origin.Requester, origin chunk.Reader) chunk.Reader {
	return c.Client.Reader(origin, image)
}

// fresh has fn read the disk as a process that has just started, with so many bytes
// of memory.
func (b *bench) fresh(memory int64, fn func(d *host.Disk) error) error {
	client := cachedclient.New(cachedclient.Config{Socket: b.socket})
	defer client.Close()
	stack := host.Stack{Memory: disk.NewMemory(memory), Cache: hostCache{client}}
	d, err := stack.Disk(b.image, store.Near(b.url), nil)
	if err != nil {
		return err
	}
	return errors.Join(fn(d), d.Close())
}

const (
	little = 1 << 20 // bytes of memory: next to nothing stays
	plenty = 4 << 30
	page   = 4096
)

// kinds measures each kind of read.
func (b *bench) kinds() error {
	if err := b.sort(); err != nil {
		return err
	}
	fmt.Printf("| a read of %d raw and %d compressed frames | median µs | p99 µs | reads | CPU µs |\n| --- | ---: | ---: | ---: | ---: |\n", len(b.raw), len(b.packed))
	for _, k := range []struct {
		name   string
		memory int64
		from   []piece
		size   int64 // 0: all of the piece
		warm   bool  // everything is read once before
	}{
		{"4 KiB, raw frame, in hand", little, b.raw, page, true},
		{"4 KiB, raw frame, first touch", little, b.raw, page, false},
		{"4 KiB, frame in memory", plenty, append(slices.Clone(b.raw), b.packed...), page, true},
		{"4 KiB, compressed frame, first touch", little, b.packed, page, false},
		{"4 KiB, compressed frame, in hand", little, b.packed, page, true},
		{"512 KiB, raw chunk, in hand", little, b.full, 0, true},
		{"512 KiB, raw chunk, first touch", little, b.full, 0, false},
	} {
		if !strings.Contains(k.name, b.only) {
			continue
		}
		var times []time.Duration
		var spent time.Duration
		for len(times) < b.reads && len(k.from) > 0 {
			got := len(times)
			err := b.fresh(k.memory, func(d *host.Disk) (err error) {
				if k.warm {
					if _, err = b.pass(d, k.from, 0); err != nil {
						return err
					}
				}
				for len(times) < b.reads {
					before := cpuTime()
					passed, err := b.pass(d, k.from, k.size)
					spent += cpuTime() - before
					times = append(times, passed...)
					if err != nil || !k.warm {
						return err
					}
				}
				return nil
			})
			if err != nil || len(times) == got {
				return err
			}
		}
		row(k.name, times, spent)
	}
	return nil
}

// pass reads every piece once, in an order drawn at random: a block of size bytes of
// it, or all.
func (b *bench) pass(d *host.Disk, pieces []piece, size int64) (times []time.Duration, err error) {
	buf := make([]byte, chunk.Size)
	for _, i := range rand.Perm(len(pieces)) {
		p := pieces[i]
		off, n := p.off, p.size
		if size > 0 {
			n = min(size, p.size)
			off += rand.Int64N(max(1, p.size/size)) * size
		}
		time.Sleep(b.pause)
		begun := time.Now()
		if _, err := d.ReadAt(buf[:n], off); err != nil {
			return times, err
		}
		times = append(times, time.Since(begun))
	}
	return times, nil
}

// once reads one page of each chunk, and measures the parts of that unless zone is "".
func (b *bench) once(zone string) error {
	info := b.m.Info()
	var pieces []piece
	for i := range b.m.Len() {
		c := b.m.Chunk(i)
		pieces = append(pieces, piece{int64(c.Index) << info.ChunkLog2, int64(c.Size)})
	}
	var times []time.Duration
	err := b.fresh(little, func(d *host.Disk) (err error) {
		before := cpuTime()
		times, err = b.pass(d, pieces, page)
		if err == nil {
			row("4 KiB, one of each chunk", times, cpuTime()-before)
		}
		return err
	})
	if err != nil || zone == "" || len(times) == 0 {
		return err
	}
	return b.parts(zone, times[len(times)/2]) // row has sorted them
}

// cpuTime is what this process has used of the processors.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func row(name string, times []time.Duration, spent time.Duration) {
	if len(times) == 0 {
		return
	}
	slices.Sort(times)
	us := func(q int) float64 { return float64(times[(len(times)-1)*q/100].Nanoseconds()) / 1e3 }
	fmt.Printf("| %s | %.1f | %.1f | %d | %.1f |\n", name, us(50), us(99), len(times), float64(spent.Nanoseconds())/1e3/float64(len(times)))
}
