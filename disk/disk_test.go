package disk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

var modes = []struct {
	name string
	mode Mode
}{{"whole chunks", WholeChunks}, {"single frames", SingleFrames}}

// check reads n bytes at off into a dirty buffer and compares.
func (im *image) check(t *testing.T, d *Disk, off, n int) {
	t.Helper()
	got := bytes.Repeat([]byte{0xEE}, n)
	read, err := d.ReadAt(got, int64(off))
	want := im.flat[min(off, len(im.flat)):min(off+n, len(im.flat))]
	wantErr := error(nil)
	if len(want) < n {
		wantErr = io.EOF
	}
	if err != wantErr {
		t.Errorf("read %d at %d: error %v, want %v", n, off, err, wantErr)
	}
	if read != len(want) || !bytes.Equal(got[:read], want) {
		t.Errorf("read %d at %d: %d bytes, wrong count or content", n, off, read)
	}
}

func TestRead(t *testing.T) {
	im := newImage(t, 12, 1)
	size := len(im.flat)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			d := im.open(t, im.reader(), Options{Mode: mode.mode})
			for range 2 { // cold, then warm
				for _, r := range [][2]int{
					{0, size}, {0, 0}, {0, 1}, {frameSize - 1, 2}, {chunkSize - 1, 2}, {3 * chunkSize, chunkSize},
					{3*chunkSize - 5, chunkSize + 10}, {chunkSize, chunkSize}, {size - 1, 1}, {size - 1, 2},
					{size, 0}, {size, 1}, {size + 1, 1}, {size - 700, 4096}, {5, size},
				} {
					if r[0] >= size {
						if n, err := d.ReadAt(make([]byte, r[1]), int64(r[0])); n != 0 || err != io.EOF {
							t.Errorf("read at %d: %d, %v", r[0], n, err)
						}
						continue
					}
					im.check(t, d, r[0], r[1])
				}
			}
			if n, err := d.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || err == io.EOF {
				t.Errorf("read at -1: %d, %v", n, err)
			}
		})
	}
}

func TestReaderContract(t *testing.T) {
	im := newImage(t, 1, 2)
	d := im.open(t, im.reader(), Options{})
	off := int64(chunkSize - 1000)
	if err := iotest.TestReader(io.NewSectionReader(d, off, d.Size()-off), im.flat[off:]); err != nil {
		t.Error(err)
	}
}

func TestWholeModeFetchesEachTouchedChunkOnce(t *testing.T) {
	im := newImage(t, 12, 3)
	r := im.reader()
	d := im.open(t, r, Options{})
	for off := 0; off < 3*chunkSize; off += 4096 {
		im.check(t, d, off, 4096)
	}
	if n := r.calls.Load(); n != 3 {
		t.Errorf("%d requests for 3 chunks", n)
	}
	want := int64(0)
	for i := range 3 {
		want += int64(im.m.Chunk(i).Stored)
	}
	if s := d.Stats(); s.FetchedBytes != want || s.Fetches != 3 {
		t.Errorf("%d bytes by %d fetches, want %d by 3", s.FetchedBytes, s.Fetches, want)
	}
}

func TestSingleFramesFetchesNoMore(t *testing.T) {
	im := newImage(t, 3, 3)
	d := im.open(t, im.reader(), Options{Mode: SingleFrames})
	im.check(t, d, 2*frameSize+17, 100)
	if s := d.Stats(); s.Fetches != 1 || s.FetchedBytes > frameSize+int64(chunk.HeaderLen(8)) {
		t.Errorf("fetched %d bytes by %d fetches", s.FetchedBytes, s.Fetches)
	}
}

func TestSingleFlight(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im := newImage(t, 1, 4)
				r, gate := im.reader(), make(chan struct{})
				r.before = func(context.Context, int) error { <-gate; return nil }
				d := im.open(t, r, Options{Mode: mode.mode})
				go func() {
					synctest.Wait() // all readers wait
					close(gate)
				}()
				together(32, func(i int) { im.check(t, d, 100*i, 100) })
				if s := d.Stats(); s.Fetches != 1 || s.Waits != 31 || s.Misses != 32 {
					t.Errorf("%+v: want 1 fetch, 31 waits", s)
				}
			})
		})
	}
}

func TestReadFetchesInParallelWithinTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 40, 5)
		r := im.reader()
		r.before = func(context.Context, int) error { time.Sleep(time.Second); return nil }
		d := im.open(t, r, Options{Fetches: 16})
		begun := time.Now()
		im.check(t, d, 0, len(im.flat))
		if most := r.most.Load(); most != 16 {
			t.Errorf("%d requests at once, want 16", most)
		}
		rounds := (im.m.Len() + 15) / 16
		if took := time.Since(begun); took != time.Duration(rounds)*time.Second {
			t.Errorf("%d chunks in %v, want %d rounds of a second", im.m.Len(), took, rounds)
		}
	})
}

func TestRetriesMend(t *testing.T) {
	corrupt := &chunk.CorruptError{Reason: "flipped"}
	tests := []struct {
		name  string
		fails int
		err   error
		calls int64 // in all
		want  error // nil: the read succeeds
	}{
		{"network fails for a while", 9, errNetwork, 10, nil},
		{"corrupt twice", 2, corrupt, 3, nil},
		{"always corrupt", 99, corrupt, corruptTries, corrupt},
		{"missing", 99, chunk.ErrNotFound, 1, chunk.ErrNotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im, log := newImage(t, 1, 6), new(logCount)
				r := im.reader()
				r.before = failFirst(tt.fails, tt.err)
				d := im.open(t, r, Options{Logger: log.logger()})
				_, err := d.ReadAt(make([]byte, 512), 0)
				if !errors.Is(err, tt.want) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				synctest.Wait()
				s := d.Stats()
				failed := int64(0)
				if tt.want != nil {
					failed = 1
				}
				if r.calls.Load() != tt.calls || s.Retries != tt.calls-1 || s.Errors != failed || log.n.Load() != failed {
					t.Errorf("%d calls, %d log lines, %+v", r.calls.Load(), log.n.Load(), s)
				}
			})
		})
	}
}

func TestFailureTakesBoundedTime(t *testing.T) {
	for name, before := range map[string]func(context.Context, int) error{
		"hung":  hang,
		"fails": func(context.Context, int) error { return errNetwork },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im := newImage(t, 40, 7)
				r := im.reader()
				r.before = before
				d := im.open(t, r, Options{Fetches: 2, Timeout: 10 * time.Second})
				begun := time.Now()
				n, err := d.ReadAt(make([]byte, len(im.flat)), 0)
				if n != 0 || err == nil {
					t.Errorf("read %d, %v", n, err)
				}
				if took := time.Since(begun); took > 20*time.Second {
					t.Errorf("failed after %v, want at most twice the timeout", took)
				}
				r.before = nil
				im.check(t, d, 0, len(im.flat)) // a later read tries anew
			})
		})
	}
}

func TestHungAttemptIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 1, 8)
		r := im.reader()
		r.before = func(ctx context.Context, call int) error {
			if call == 1 {
				return hang(ctx, call)
			}
			return nil
		}
		im.check(t, im.open(t, r, Options{}), 0, 512)
	})
}

func TestFailedReadCountsGoodBytesBefore(t *testing.T) {
	im := newImage(t, 6, 9)
	r := im.reader()
	delete(r.chunks, im.m.Chunk(2).ID)
	d := im.open(t, r, Options{})
	got := make([]byte, 5*chunkSize)
	n, err := d.ReadAt(got, 10)
	if !errors.Is(err, chunk.ErrNotFound) || n != 2*chunkSize-10 || !bytes.Equal(got[:n], im.flat[10:10+n]) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestMapThatDoesNotFitItsChunks(t *testing.T) {
	im := newImage(t, 1, 10)
	for name, change := range map[string]func(c *blockmap.Chunk){
		"plaintext length": func(c *blockmap.Chunk) { c.Size-- },
		"frames":           func(c *blockmap.Chunk) { c.Size = 1 },
		"stored length":    func(c *blockmap.Chunk) { c.Stored-- },
		"no room":          func(c *blockmap.Chunk) { c.Stored = 8 },
	} {
		for _, mode := range modes {
			t.Run(name+", "+mode.name, func(t *testing.T) {
				c, info := im.m.Chunk(0), im.m.Info()
				change(&c)
				bad := *im
				b, err := blockmap.Encode(&info, []blockmap.Chunk{c})
				if err != nil {
					t.Fatal(err)
				}
				if bad.m, err = blockmap.Parse(b); err != nil {
					t.Fatal(err)
				}
				d := bad.open(t, bad.reader(), Options{Mode: mode.mode})
				if n, err := d.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, errUnreadable) {
					t.Errorf("%d, %v", n, err)
				}
			})
		}
	}
}

func TestWrongKeySeesNothingOfAnotherDisk(t *testing.T) {
	im := newImage(t, 1, 11)
	memory := NewMemory(DefaultMemory)
	im.check(t, im.open(t, im.reader(), Options{Memory: memory}), 0, chunkSize)

	c, info := im.m.Chunk(0), im.m.Info()
	c.Key[31] ^= 1
	b, err := blockmap.Encode(&info, []blockmap.Chunk{c})
	if err != nil {
		t.Fatal(err)
	}
	other := *im
	if other.m, err = blockmap.Parse(b); err != nil {
		t.Fatal(err)
	}
	d := other.open(t, other.reader(), Options{Memory: memory})
	_, _ = d.ReadAt(make([]byte, 512), 0)
	if s := d.Stats(); s.Hits != 0 || s.Fetches != 1 {
		t.Errorf("%+v: a frame came from the other disk", s)
	}
	same := im.open(t, im.reader(), Options{Memory: memory})
	im.check(t, same, 0, chunkSize)
	if s := same.Stats(); s.Fetches != 0 {
		t.Errorf("%+v: frames are not shared", s)
	}
}

func TestDefaults(t *testing.T) {
	im := newImage(t, 0, 16)
	sealer, err := seal.NewSealer(seal.Options{Salt: testSalt})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.Seal(im.flat)
	if err != nil {
		t.Fatal(err)
	}
	info := im.m.Info()
	b, err := blockmap.Encode(&info, []blockmap.Chunk{{
		Stored: uint32(len(sealed.Object)), Size: uint32(sealed.Size), ID: sealed.ID, Key: sealed.Key,
	}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := blockmap.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(m, &hookReader{chunks: objects{sealed.ID: sealed.Object}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	im.check(t, d, 0, len(im.flat))
	if d.Map() != m {
		t.Error("Map is another map")
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	im := newImage(t, 1, 12)
	for _, opt := range []Options{{Fetches: -1}, {Fetches: MaxFetches + 1}, {Timeout: -1}} {
		if _, err := Open(im.m, im.reader(), opt); err == nil {
			t.Errorf("%+v accepted", opt)
		}
	}
	for want, change := range map[error]func(*blockmap.Info){
		seal.ErrLocked:   func(i *blockmap.Info) { i.Lock.Kind = blockmap.LockAES256GCM },
		seal.ErrUnsealed: func(i *blockmap.Info) { i.SaltID = blockmap.SaltID{} },
	} {
		info := im.m.Info()
		change(&info)
		b, err := blockmap.Encode(&info, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := blockmap.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(m, im.reader(), Options{}); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
}

func TestCloseEndsReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 40, 13)
		r, log := im.reader(), new(logCount)
		r.before = hang
		d := im.open(t, r, Options{Fetches: 4, Logger: log.logger()})
		go func() {
			synctest.Wait()
			_ = d.Prefetch(context.Background(), 0, d.Size())
			_ = d.Close()
		}()
		begun := time.Now()
		together(8, func(i int) {
			if n, err := d.ReadAt(make([]byte, 4*chunkSize), int64(5*i)*chunkSize); n != 0 || !errors.Is(err, ErrClosed) {
				t.Errorf("read %d, %v", n, err)
			}
		})
		if took := time.Since(begun); took != 0 {
			t.Errorf("took %v", took)
		}
		if _, err := d.ReadAt(make([]byte, 1), 3*chunkSize); !errors.Is(err, ErrClosed) {
			t.Errorf("read of a hole after Close: %v", err)
		}
		if err := d.Prefetch(context.Background(), 0, 1); !errors.Is(err, ErrClosed) {
			t.Errorf("prefetch after Close: %v", err)
		}
		if s := d.Stats(); s.Errors != 0 || log.n.Load() != 0 {
			t.Errorf("closing counts as %d errors, %d log lines", s.Errors, log.n.Load())
		}
	})
}

func TestDemandedFrameIsDecodedFirst(t *testing.T) {
	im := newImage(t, 1, 14)
	d := im.open(t, im.reader(), Options{})
	c := im.m.Chunk(0)
	f := &flight{chunk: c, slots: make([]slot, 8)}
	f.slots[5].waits, f.slots[6].waits = 1, 1
	var order []uint32
	for i, ok := d.next(f); ok; i, ok = d.next(f) {
		order = append(order, i)
		fr := d.memory.buffer(frameSize)
		d.deliver(f, i, fr)
		if len(order) == 1 {
			f.slots[7].waits++ // a read that comes later goes before the rest
		}
	}
	if want := []uint32{5, 6, 7, 0, 1, 2, 3, 4}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestWarmReadsDoNotAllocate(t *testing.T) {
	im := newImage(t, 12, 15)
	d := im.open(t, im.reader(), Options{})
	b := make([]byte, 256<<10)
	im.check(t, d, 0, len(im.flat))
	off := int64(0)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := d.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		off = (off + int64(len(b))) % (d.Size() - int64(len(b)))
	}); n != 0 {
		t.Errorf("sequential reads allocate %v times", n)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	if n := testing.AllocsPerRun(2000, func() {
		if _, err := d.ReadAt(b[:4096], rng.Int64N(d.Size()-4096)); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("random reads allocate %v times", n)
	}
	if s := d.Stats(); s.Fetches != int64(im.m.Len()) {
		t.Errorf("%+v: warm reads fetched", s)
	}
}
