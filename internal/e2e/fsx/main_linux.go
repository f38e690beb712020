// Command fsx exercises a file system as the programs of that name do: it writes, reads,
// maps, cuts, punches, syncs and drops from memory at random places of one file, and holds
// each read against what the file should have.
//
//	fsx [-seed N] [-ops N] [-size BYTES] FILE
//
// It is one static program, for a guest that has nothing else. The last line says "fsx: ok",
// or what was wrong, with the operations before it; the seed plays the same again.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	seed := flag.Uint64("seed", 1, "what the operations are drawn from")
	ops := flag.Int("ops", 1000, "how many")
	size := flag.Int("size", 1<<20, "bytes that the file has at most")
	flag.Parse()
	if flag.NArg() != 1 || *size < 1 {
		fmt.Fprintln(os.Stderr, "usage: fsx [-seed N] [-ops N] [-size BYTES] FILE")
		os.Exit(2)
	}
	x := &exerciser{rand: rand.New(rand.NewPCG(*seed, 0)), max: *size, path: flag.Arg(0)}
	if err := x.run(*ops); err != nil {
		for _, line := range x.log {
			fmt.Println("fsx:", line)
		}
		fmt.Printf("fsx: seed %d, operation %d: %v\n", *seed, x.done, err)
		os.Exit(1)
	}
	fmt.Printf("fsx: ok, %d operations\n", *ops)
}

// kept is how many operations are told of before one that went wrong.
const kept = 20

type exerciser struct {
	rand *rand.Rand
	max  int
	path string
	f    *os.File
	want []byte // what the file has
	done int
	log  []string
}

func (x *exerciser) run(ops int) (err error) {
	if x.f, err = os.OpenFile(x.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.f.Close()) }()
	for ; x.done < ops; x.done++ {
		if err := x.step(); err != nil {
			return err
		}
	}
	if err := x.forget(); err != nil {
		return err
	}
	return x.compare(0, len(x.want), x.read)
}

func (x *exerciser) step() error {
	off := x.rand.IntN(x.max)
	n := 1 + x.rand.IntN(min(x.max-off, 64<<10))
	inside := min(n, max(0, len(x.want)-off)) // of the file
	kind := x.rand.IntN(16)
	if x.log = append(x.log, fmt.Sprintf("operation %d: kind %d at %d, %d bytes, of %d", x.done, kind, off, n, len(x.want))); len(x.log) > kept {
		x.log = x.log[1:]
	}
	switch kind {
	case 0, 1, 2, 3:
		return x.write(off, n)
	case 4, 5:
		if inside == 0 {
			return nil
		}
		return x.mapped(off, inside, func(b []byte) error {
			x.fill(b)
			copy(x.want[off:], b)
			return nil
		})
	case 6, 7, 8, 9:
		return x.compare(off, inside, x.read)
	case 10:
		return x.compare(off, inside, func(b []byte, off int) error {
			return x.mapped(off, len(b), func(from []byte) error { copy(b, from); return nil })
		})
	case 11:
		return x.truncate(off)
	case 12:
		return x.zero(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	case 13:
		return x.zero(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	case 14:
		return x.f.Sync()
	}
	return x.forget()
}

// fill fills b with what no other operation writes.
func (x *exerciser) fill(b []byte) {
	for i := range b {
		b[i] = byte(x.rand.Uint32())
	}
}

func (x *exerciser) write(off, n int) error {
	b := make([]byte, n)
	x.fill(b)
	if _, err := x.f.WriteAt(b, int64(off)); err != nil {
		return err
	}
	x.grow(off + n)
	copy(x.want[off:], b)
	return nil
}

func (x *exerciser) grow(size int) {
	if size > len(x.want) {
		x.want = append(x.want, make([]byte, size-len(x.want))...)
	}
}

func (x *exerciser) truncate(size int) error {
	if err := x.f.Truncate(int64(size)); err != nil {
		return err
	}
	x.grow(size)
	x.want = x.want[:size]
	return nil
}

func (x *exerciser) zero(mode uint32, off, n int) error {
	err := unix.Fallocate(int(x.f.Fd()), mode, int64(off), int64(n))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err == nil && off < len(x.want) {
		clear(x.want[off:min(off+n, len(x.want))])
	}
	return err
}

// forget has the next reads come from the disk.
func (x *exerciser) forget() error {
	if err := x.f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(x.f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// mapped calls fn with bytes of the file, mapped.
func (x *exerciser) mapped(off, n int, fn func([]byte) error) error {
	page := off &^ (os.Getpagesize() - 1)
	b, err := unix.Mmap(int(x.f.Fd()), int64(page), off-page+n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errors.Join(fn(b[off-page:]), unix.Munmap(b))
}

func (x *exerciser) read(b []byte, off int) error {
	_, err := x.f.ReadAt(b, int64(off))
	return err
}

// compare holds n bytes of the file against what they should be, and its size too.
func (x *exerciser) compare(off, n int, read func(b []byte, off int) error) error {
	if end, err := x.f.Seek(0, io.SeekEnd); err != nil || end != int64(len(x.want)) {
		return errors.Join(err, fmt.Errorf("%d bytes long, want %d", end, len(x.want)))
	}
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	if err := read(b, off); err != nil {
		return err
	}
	if want := x.want[off:][:n]; !bytes.Equal(b, want) {
		i := 0
		for b[i] == want[i] {
			i++
		}
		return fmt.Errorf("read %d bytes at %d: the byte at %d is %#x, want %#x", n, off, off+i, b[i], want[i])
	}
	return nil
}
