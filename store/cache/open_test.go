package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

// makeFiles makes n files that look like chunks, without the cost of making
// chunks: their content is never looked at.
func makeFiles(t testing.TB, c *Cache, n int) {
	t.Helper()
	for i := range n {
		o := chunk.ID(bytes.Repeat(fmt.Appendf(nil, "%08x", uint32(i)*2654435761), 4))
		path := c.place(object{id: o, size: 1000})
		if err := errors.Join(c.mkdir(filepath.Dir(path)), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// cpuTime returns what the process has used.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// benchmarkOpen opens and closes the cache in dir, which has n chunks,
// and returns the time that opening took, by the clock and of the processor.
func benchmarkOpen(b *testing.B, dir string, n int, index bool) (wall, cpu time.Duration) {
	if !index {
		if err := os.Remove(filepath.Join(dir, indexFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			b.Fatal(err)
		}
	}
	begun, before := time.Now(), cpuTime(b)
	c, err := Open(ctx, Config{Dir: dir, MaxBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	wall, cpu = time.Since(begun), cpuTime(b)-before
	if got := c.Stats().Chunks; got != n {
		b.Fatalf("%d chunks, want %d", got, n)
	}
	b.StopTimer()
	c.mu.Lock()
	c.changes++
	c.mu.Unlock()
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	b.StartTimer()
	return wall, cpu
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, config := range []Config{
		{}, {Dir: dir}, {Dir: dir, MaxBytes: -1}, {Dir: dir, MaxBytes: 1, MinFree: -1}, {Dir: dir, MaxBytes: 1, ScrubRate: -1},
	} {
		if _, err := Open(ctx, config); err == nil {
			t.Errorf("Open(%+v) succeeded", config)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("it left %v, %v", list, err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("thesis.tex", "x")
	if _, err := Open(ctx, Config{Dir: dir, MaxBytes: 1}); !errors.Is(err, ErrNoCache) || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("a directory of something else: %v; want ErrNoCache with the name", err)
	}
	if err := os.Remove(filepath.Join(dir, "thesis.tex")); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"rivulet cache 3\n", "rivulet store 2\n", strings.Repeat("x", 1000)} {
		write(versionFile, text)
		if _, err := Open(ctx, Config{Dir: dir, MaxBytes: 1}); !errors.Is(err, ErrNoCache) {
			t.Errorf("version %.20q: %v; want ErrNoCache", text, err)
		}
	}
	for _, text := range []string{"", "rivulet ca"} { // a power cut, but then there is nothing else
		write(versionFile, text)
		write(indexFile, "mine")
		if _, err := Open(ctx, Config{Dir: dir, MaxBytes: 1}); !errors.Is(err, ErrNoCache) {
			t.Errorf("version %q and a file: %v; want ErrNoCache", text, err)
		}
		if err := os.Remove(filepath.Join(dir, indexFile)); err != nil {
			t.Fatal(err)
		}
	}
	c := open(t, Config{Dir: dir, MaxBytes: 1})
	if _, err := Open(ctx, Config{Dir: dir, MaxBytes: 1}); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v; want ErrLocked", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: dir, MaxBytes: 1})
}

func TestModes(t *testing.T) {
	for _, group := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "cache")
		c := open(t, Config{Dir: dir, Group: group})
		o := small(1)
		put(t, c, o)
		dirMode, fileMode := os.FileMode(0o700), os.FileMode(0o600)
		if group {
			dirMode, fileMode = 0o750, 0o640
		}
		for path, want := range map[string]os.FileMode{
			dir: dirMode, filepath.Dir(c.place(object{id: o.ID, size: 1})): dirMode, c.place(object{id: o.ID, size: int64(len(o.Bytes))}): fileMode,
		} {
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("group %v: %s has mode %v, %v; want %v", group, path, info.Mode(), err, want)
			}
		}
	}
}

// TestStrayFiles: what a crash or rot left is removed at start, and counted.
func TestStrayFiles(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	o := small(1)
	put(t, c, o)
	size := int64(len(o.Bytes))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	good := c.place(object{id: o.ID, size: size})
	folder := filepath.Dir(good)
	stray := []string{
		c.path(tempDir, o.ID.String()), c.path(tempDir, "index"),
		good + "0000000", good + "x", filepath.Join(folder, "x"),
		filepath.Join(folder, small(2).ID.String()+".5000"), filepath.Join(folder, strings.ToUpper(filepath.Base(good))),
		c.place(object{id: o.ID, size: 0}), c.place(object{id: o.ID, size: -5}), c.place(object{id: o.ID, size: chunk.MaxStoredSize + 1}),
	}
	for _, path := range stray {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c = open(t, Config{Dir: dir})
	for _, path := range stray {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if s := c.Stats(); s.Orphans != 2 || s.Damaged < 7 || s.Chunks != 1 {
		t.Errorf("stats %+v", s)
	}
	if !holds(t, c, o) && c.Stats().Damaged < 8 {
		t.Error("the good chunk is gone, and nobody says so")
	}
}

// TestNotOurs: what somebody else has put into the folders is told, left alone, and
// in nobody's way.
func TestNotOurs(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	o := small(1)
	put(t, c, o)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(c.place(object{id: o.ID, size: int64(len(o.Bytes))}))
	hers := map[string]string{ // where it is, and where it is found after that
		c.path(chunksDir, "thesis.tex"):                     "",
		c.path(chunksDir, "ABC", "x"):                       "",
		filepath.Join(folder, "sub", "x"):                   "",
		c.path(tempDir, "sub", "x"):                         "",
		filepath.Join(c.path(chunksDir), "lost+found", "x"): "",
	}
	blocked := ""
	for i := range 256 {
		if name := fmt.Sprintf("%02x", i); name != filepath.Base(folder) {
			blocked = name
			break
		}
	}
	hers[c.path(chunksDir, blocked)] = c.path(chunksDir, "not-ours-"+blocked+"-2")
	hers[c.path(chunksDir, "not-ours-"+blocked+"-1")] = ""
	for path := range hers {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(path), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		var log bytes.Buffer
		c = open(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for path, now := range hers {
			if now == "" {
				now = path
			}
			if b, err := os.ReadFile(now); err != nil || string(b) != path {
				t.Errorf("%s: %q, %v", now, b, err)
			}
		}
		if n := strings.Count(log.String(), "level=WARN"); n < 6 || !strings.Contains(log.String(), "thesis.tex") {
			t.Errorf("%d warnings: %s", n, log.String())
		}
		if !holds(t, c, o) {
			t.Error("the chunk is not held")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		delete(hers, c.path(chunksDir, blocked))
		hers[c.path(chunksDir, "not-ours-"+blocked+"-2")] = ""
		if err := os.WriteFile(c.path(chunksDir, "not-ours-"+blocked+"-2"), []byte(c.path(chunksDir, "not-ours-"+blocked+"-2")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTwoSizes: two files of one chunk. Whichever is kept, the chunk is served
// right or not at all, and can be put again.
func TestTwoSizes(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	o := small(1)
	put(t, c, o)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{1, 700, 60_000} {
		b, err := os.ReadFile(c.place(object{id: o.ID, size: int64(len(o.Bytes))}))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.place(object{id: o.ID, size: size}), b, 0o600); err != nil {
			t.Fatal(err)
		}
		c = open(t, Config{Dir: dir})
		if !holds(t, c, o) {
			put(t, c, o)
		}
		if s := c.Stats(); s.Chunks != 1 || s.Damaged == 0 || s.Bytes != Cost(int64(len(o.Bytes))) {
			t.Errorf("stats %+v", s)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSmallerCap: a cache opened with a smaller cap evicts in the policy's
// order at once; the order outlives the restart.
func TestSmallerCap(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	var objects []*chunktest.Object
	for i := range uint64(10) {
		objects = append(objects, small(i))
		put(t, c, objects[i])
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, Config{Dir: dir, MaxBytes: 4 * Cost(int64(len(objects[0].Bytes)))})
	for i, o := range objects {
		if got, want := holds(t, c, o), i >= 6; got != want {
			t.Errorf("chunk %d is held: %v, want %v", i, got, want)
		}
	}
	if s := c.Stats(); s.Evictions != 6 || s.Bytes != s.MaxBytes {
		t.Errorf("stats %+v", s)
	}
}

// TestIndexDamage: an index that was cut, torn or flipped is not used, and
// nothing else suffers.
func TestIndexDamage(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	objects := []*chunktest.Object{small(1), small(2), small(3)}
	for _, o := range objects {
		put(t, c, o)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(c.path(indexFile))
	if err != nil {
		t.Fatal(err)
	}
	if records, err := checkIndex(whole); err != nil || len(records) != 3*recordLen {
		t.Fatalf("the index has %d bytes of records, %v", len(records), err)
	}
	for at := range whole {
		for _, b := range [][]byte{whole[:at], flip(whole, at)} {
			if _, err := checkIndex(b); err == nil {
				t.Fatalf("index damaged at byte %d is taken", at)
			}
		}
	}
	if err := os.WriteFile(c.path(indexFile), flip(whole, 60), 0o600); err != nil {
		t.Fatal(err)
	}
	c = open(t, Config{Dir: dir})
	for _, o := range objects {
		if !holds(t, c, o) {
			t.Error("a chunk is lost with the index")
		}
	}
}

// flip returns b with one bit changed.
func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1 << (at % 8)
	return b
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(indexMagic))
	f.Add(make([]byte, indexHead+recordLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= indexHead { // right but for what it says
			copy(b, indexMagic)
			binary.LittleEndian.PutUint32(b[4:], uint32((len(b)-indexHead)/recordLen))
			b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
		}
		records, err := checkIndex(b)
		if err != nil {
			return
		}
		var again []byte
		policies := []evict.Policy{evict.New(), evict.NewSIEVE(), evict.NewS3FIFO(), evict.NewLRU()}
		for ; len(records) > 0; records = records[recordLen:] {
			r := parseRecord(records)
			again = appendRecord(again, r)
			for _, p := range policies {
				p.Restore(r)
				p.Victim(0, func(chunk.ID) bool { return r.Size%2 == 0 })
			}
		}
		if len(again) != len(b)-indexHead-4 {
			t.Fatalf("%d bytes of records, want %d", len(again), len(b)-indexHead-4)
		}
	})
}

func FuzzPins(f *testing.F) {
	f.Add([]byte(small(1).ID.String() + " 5000\n"))
	f.Add([]byte("x 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		pins, err := parsePins(b)
		if err != nil {
			return
		}
		again, err := parsePins(appendPins(nil, pins))
		if err != nil || len(again) != len(pins) {
			t.Fatalf("%d pins become %d, %v", len(pins), len(again), err)
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add("ab", small(1).ID.String()+".5000")
	f.Add(small(1).ID.String()[:2], small(1).ID.String()+".5000.a0")
	f.Fuzz(func(t *testing.T, folder, name string) {
		o, ok := parseName(folder, name)
		if ok && filepath.Join(chunksDir, folder, name) != new(Cache).place(o)[1:] {
			t.Fatalf("%s in %s is taken for %v", name, folder, o)
		}
	})
}
