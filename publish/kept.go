package publish

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/chunk"
)

// maxKept bounds what is kept of sealed chunks, in bytes.
const maxKept = 512 << 20

// keptShare is the part of the free room that may be kept in: layers that are spooled beside need it more.
const keptShare = 4

// keptRoom is how much is kept where so much is free, in bytes.
func keptRoom(free int64) int64 { return min(maxKept, free/keptShare) }

// A kept has sealed chunks that were put just now in a temporary file, so that nobody has to
// ask a far origin for them. It is a help: what does not fit is not kept. Its methods may
// be called by any number of goroutines.
type kept struct {
	file *os.File
	room int64 // bytes

	mu   sync.Mutex // guards what follows
	at   map[chunk.ID]keptAt
	end  int64 // of what was written, or is being written
	full bool  // or failed
}

type keptAt struct{ off, len int64 }

// newKept returns a kept with a file in dir, as large as keptRoom has it; nil: there cannot be one.
func newKept(dir string) *kept {
	f, err := temporary(dir, "rivulet-kept-*")
	if err != nil {
		return nil
	}
	k := &kept{file: f, at: make(map[chunk.ID]keptAt)}
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) == nil {
		k.room = keptRoom(int64(st.Bavail) * int64(st.Bsize)) //nolint:unconvert // 32 bits on some systems
	}
	return k
}

// add keeps what a chunk is stored as, if there is room.
func (k *kept) add(id chunk.ID, object []byte) {
	k.mu.Lock()
	at := keptAt{k.end, int64(len(object))}
	_, known := k.at[id]
	k.full = k.full || at.off+at.len > k.room
	if known || k.full {
		k.mu.Unlock()
		return
	}
	k.end += at.len
	k.mu.Unlock()
	_, err := k.file.WriteAt(object, at.off)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil { // no room: the origin has it
		k.full = true
		return
	}
	k.at[id] = at
}

func (k *kept) find(id chunk.ID) (keptAt, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, ok := k.at[id]
	return at, ok
}

func (k *kept) has(id chunk.ID) bool {
	_, ok := k.find(id)
	return ok
}

// Close gives the file's room back.
func (k *kept) Close() error { return k.file.Close() }

// A keptOver has the chunks that are kept, and those of an origin.
type keptOver struct {
	kept   *kept
	origin chunk.Source
}

// Fetch implements [chunk.Source].
func (s keptOver) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	at, ok := s.kept.find(id)
	if !ok {
		return s.origin.Fetch(ctx, id, dst, off)
	}
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	n := min(int64(len(dst)), max(0, at.len-off))
	if _, err := s.kept.file.ReadAt(dst[:n], at.off+off); err != nil {
		return 0, fmt.Errorf("fetch chunk %v: %w", id, err)
	}
	return int(n), nil
}
