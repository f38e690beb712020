package ext4

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden digests anew")

// testConfig is of a device of 256 MiB with room for data from block 1024 and
// for metadata from block 32768 on.
func testConfig() Config {
	return Config{
		Blocks:         65536,
		InodesPerGroup: 2048,
		UUID:           [16]byte{0: 1, 15: 2},
		Label:          "rivulet",
		HashSeed:       [16]byte{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3},
		ChecksumSeed:   0x12345678,
		Created:        Time{Sec: 1_700_000_000},
		Low:            128,
		Meta:           32768,
		JournalBlocks:  1024,
	}
}

func newTestWriter(t testing.TB, c Config) (*Writer, *memDisk) {
	t.Helper()
	d := newMemDisk(c.Blocks)
	w, err := NewWriter(d, c)
	if err != nil {
		t.Fatal(err)
	}
	return w, d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dirInode(number uint32) *Inode {
	return &Inode{Number: number, Mode: ModeDir | 0o755, MTime: Time{Sec: 1}}
}

func TestSmallest(t *testing.T) {
	w, d := newTestWriter(t, testConfig())
	must(t, w.AddDir(dirInode(RootInode), RootInode, nil))
	must(t, w.Close())
	if n := d.zeroBlocks(); n != 0 {
		t.Errorf("%d blocks of zeros were written", n)
	}
	// Superblock, descriptors, two block bitmaps, one inode bitmap, the root, a
	// block of inodes, the journal's superblock.
	if n := len(d.blocks); n != 8 {
		t.Errorf("%d blocks are stored, want 8", n)
	}
	fsck(t, d.file(t))
}

func fileInode(number uint32) *Inode {
	return &Inode{Number: number, Mode: ModeRegular | 0o644, Links: 1}
}

func TestBadInodes(t *testing.T) {
	for name, test := range map[string]struct {
		change func(ino *Inode)
		want   error
	}{
		"number 0":             {func(i *Inode) { i.Number = 0 }, ErrInode},
		"reserved number":      {func(i *Inode) { i.Number = JournalInode }, ErrInode},
		"number behind last":   {func(i *Inode) { i.Number = 4097 }, ErrInode},
		"number in use":        {func(i *Inode) { i.Number = 20 }, ErrInode},
		"no type":              {func(i *Inode) { i.Mode = 0o644 }, ErrInode},
		"unknown type":         {func(i *Inode) { i.Mode = 0xf000 }, ErrInode},
		"a directory":          {func(i *Inode) { i.Mode = ModeDir }, ErrInode},
		"no links":             {func(i *Inode) { i.Links = 0 }, ErrInode},
		"many links":           {func(i *Inode) { i.Links = MaxLinks + 1 }, ErrInode},
		"negative size":        {func(i *Inode) { i.Size = -1 }, ErrInode},
		"large size":           {func(i *Inode) { i.Size = maxFileBlocks*BlockSize + 1 }, ErrInode},
		"early time":           {func(i *Inode) { i.MTime.Sec = minTime - 1 }, ErrTime},
		"late time":            {func(i *Inode) { i.MTime.Sec = maxTime + 1 }, ErrTime},
		"nanoseconds":          {func(i *Inode) { i.MTime.Nsec = 1e9 }, ErrTime},
		"file with target":     {func(i *Inode) { i.Target = "t" }, ErrInode},
		"file with device":     {func(i *Inode) { i.Major = 1 }, ErrInode},
		"extent in low area":   {func(i *Inode) { i.Size, i.Extents = 1, []Extent{{0, 1, 127}} }, ErrExtents},
		"extent in the tables": {func(i *Inode) { i.Size, i.Extents = 1, []Extent{{0, 1, 65530}} }, ErrExtents},
		"pipe with extent":     {func(i *Inode) { i.Mode, i.Extents = ModeFIFO, []Extent{{0, 1, 1000}} }, ErrInode},
		"socket with size":     {func(i *Inode) { i.Mode, i.Size = ModeSocket, 1 }, ErrInode},
		"large major":          {func(i *Inode) { i.Mode, i.Major = ModeChar, 4096 }, ErrInode},
		"large minor":          {func(i *Inode) { i.Mode, i.Minor = ModeBlock, 1<<20 }, ErrInode},
		"no target":            {func(i *Inode) { i.Mode = ModeSymlink }, ErrInode},
		"long target":          {func(i *Inode) { i.Mode, i.Target = ModeSymlink, strings.Repeat("t", 4096) }, ErrInode},
		"target with NUL":      {func(i *Inode) { i.Mode, i.Target = ModeSymlink, "a\x00" }, ErrInode},
		"link with size":       {func(i *Inode) { i.Mode, i.Target, i.Size = ModeSymlink, "a", 2 }, ErrInode},
	} {
		w, _ := newTestWriter(t, testConfig())
		must(t, w.Add(fileInode(20)))
		ino := fileInode(FirstInode)
		test.change(ino)
		if err := w.Add(ino); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, w.AddDir(dirInode(RootInode), RootInode, nil))
		must(t, w.Close())
	}
}

func TestBadDirectories(t *testing.T) {
	for name, test := range map[string]struct {
		parent uint32
		change func(ino *Inode)
	}{
		"a file":              {RootInode, func(i *Inode) { i.Mode = ModeRegular }},
		"reserved number":     {RootInode, func(i *Inode) { i.Number = 7 }},
		"with size":           {RootInode, func(i *Inode) { i.Size = BlockSize }},
		"with target":         {RootInode, func(i *Inode) { i.Target = "t" }},
		"its own parent":      {FirstInode, func(*Inode) {}},
		"reserved parent":     {8, func(*Inode) {}},
		"parent 0":            {0, func(*Inode) {}},
		"parent behind last":  {4097, func(*Inode) {}},
		"root with parent":    {FirstInode, func(i *Inode) { i.Number = RootInode }},
		"number in use twice": {RootInode, func(i *Inode) { i.Number = 20 }},
	} {
		w, _ := newTestWriter(t, testConfig())
		must(t, w.Add(fileInode(20)))
		ino := dirInode(FirstInode)
		test.change(ino)
		if err := w.AddDir(ino, test.parent, nil); !errors.Is(err, ErrInode) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFatal has the errors after which a Writer gives nothing else.
func TestFatal(t *testing.T) {
	data := func(number uint32, start uint64) *Inode {
		ino := fileInode(number)
		ino.Size, ino.Extents = 2*BlockSize, []Extent{{0, 2, start}}
		return ino
	}
	for name, test := range map[string]struct {
		do   func(w *Writer) error
		want error
	}{
		"extents of two files": {func(w *Writer) error { return errors.Join(w.Add(data(11, 1000)), w.Add(data(12, 1001))) }, ErrInUse},
		"file and reserved":    {func(w *Writer) error { return errors.Join(w.Reserve(Range{1001, 1}), w.Add(data(12, 1000))) }, ErrInUse},
		"reserved and file":    {func(w *Writer) error { return errors.Join(w.Add(data(12, 1000)), w.Reserve(Range{900, 200})) }, ErrInUse},
		"reserved twice":       {func(w *Writer) error { return errors.Join(w.Reserve(Range{1000, 10}), w.Reserve(Range{1009, 1})) }, ErrInUse},
		"data in a directory": {func(w *Writer) error {
			return errors.Join(w.Add(data(12, w.MetaEnd())), w.AddDir(dirInode(RootInode), RootInode, nil))
		}, ErrInUse},
		"metadata over the end": {func(w *Writer) error { return errors.Join(w.AlignMeta(62000), w.AlignMeta(65000)) }, ErrNoSpace},
		"no root":               {func(w *Writer) error { return w.Close() }, ErrInode},
	} {
		w, _ := newTestWriter(t, testConfig())
		err := test.do(w)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Add(fileInode(50)); !errors.Is(err, test.want) {
			t.Errorf("%s: then %v", name, err)
		}
	}
}

func TestReserveOutside(t *testing.T) {
	w, _ := newTestWriter(t, testConfig())
	for _, r := range []Range{{127, 1}, {1000, 1 << 63}, {1<<64 - 1, 2}, {65535, 1}, {w.alloc.high, 1}} {
		if err := w.Reserve(r); !errors.Is(err, ErrExtents) {
			t.Errorf("%v: %v", r, err)
		}
	}
	must(t, w.Reserve(Range{}))
	must(t, w.Reserve(Range{w.alloc.high - 1, 1}))
}

func TestClosed(t *testing.T) {
	w, _ := newTestWriter(t, testConfig())
	must(t, w.AddDir(dirInode(RootInode), RootInode, nil))
	must(t, w.Close())
	for _, err := range []error{w.Add(fileInode(11)), w.AddDir(dirInode(12), 2, nil), w.Reserve(Range{1000, 1}), w.AlignMeta(64), w.Close()} {
		if !errors.Is(err, errClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestFailingDisk lets each of the writes fail in turn.
func TestFailingDisk(t *testing.T) {
	for failAt := 1; ; failAt++ {
		w, d := newTestWriter(t, testConfig())
		d.failAt = failAt
		err := w.AddDir(dirInode(RootInode), RootInode, []Dirent{{"f", 11, ModeRegular}})
		if err == nil {
			err = w.AlignMeta(128)
		}
		if err == nil {
			err = w.Add(scattered(11, 2000, 1000))
		}
		if err == nil {
			err = w.Close()
		}
		if err == nil {
			if failAt < 5 {
				t.Errorf("only %d writes", failAt-1)
			}
			return
		}
		if !errors.Is(err, errDisk) || !errors.Is(w.Close(), errDisk) {
			t.Fatalf("write %d: %v", failAt, err)
		}
	}
}

func TestAlignMeta(t *testing.T) {
	w, d := newTestWriter(t, testConfig())
	must(t, w.AddDir(dirInode(RootInode), RootInode, []Dirent{{"d", 11, ModeDir}}))
	for _, blocks := range []uint64{0, 1, 128, 128} {
		must(t, w.AlignMeta(blocks))
	}
	if w.MetaEnd() != 32768+128 {
		t.Errorf("metadata ends at %d", w.MetaEnd())
	}
	must(t, w.AddDir(dirInode(11), RootInode, nil))
	must(t, w.Close())
	disk := d.file(t)
	fsck(t, disk)
	out, err := tool(t, "debugfs", "-R", "ex <5>", disk)
	if err != nil || !strings.Contains(out, "32769 - 32895") {
		t.Errorf("what was skipped is not the boot loader's: %s, %v", out, err)
	}
}

// TestTimes has the ends of the years that an inode can hold, and of each of
// the times around 2^32 seconds in between.
func TestTimes(t *testing.T) {
	root := directoryNode()
	for _, sec := range []int64{minTime, -1, 0, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 3<<32 - 1<<31, maxTime} {
		for _, nsec := range []uint32{0, 999_999_999} {
			n := regularNode(nil)
			n.inode.MTime = Time{sec, nsec}
			root.entries = append(root.entries, entry{fmt.Sprint(sec, nsec), n})
		}
	}
	compareTree(t, mountDisk(t, build(t, testConfig(), root, 0).file(t), "ro,noload"), root)
}

// TestInodeOrder adds inodes over more of the table than is kept in memory, in
// several orders, which must not show.
func TestInodeOrder(t *testing.T) {
	c := testConfig()
	c.InodesPerGroup = 32768
	var numbers []uint32
	for i := uint32(FirstInode); i < 65536; i += 1 + i/100%7 {
		numbers = append(numbers, i)
	}
	entries := make([]Dirent, len(numbers))
	for i, n := range numbers {
		entries[i] = Dirent{fmt.Sprint(n), n, ModeFIFO}
	}
	write := func() string {
		w, d := newTestWriter(t, c)
		must(t, w.AddDir(dirInode(RootInode), RootInode, entries))
		for _, n := range numbers {
			must(t, w.Add(&Inode{Number: n, Mode: ModeFIFO, Links: 1}))
		}
		must(t, w.Close())
		return d.sum()
	}
	want := write()
	r := rand.New(rand.NewPCG(1, 1))
	for range 3 {
		r.Shuffle(len(numbers), func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
		r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		if got := write(); got != want {
			t.Error("the order in which inodes and entries come changes the disk")
		}
	}
}

// TestGolden compares file systems with those of earlier versions of this
// package: the same calls have to give the same bytes for ever.
func TestGolden(t *testing.T) {
	const file = "testdata/golden.json"
	want := make(map[string]string)
	if p, err := os.ReadFile(file); err == nil {
		must(t, json.Unmarshal(p, &want))
	}
	got := make(map[string]string)
	for seed := range uint64(12) {
		name := fmt.Sprintf("random tree %d", seed)
		c := testConfig()
		c.Blocks += seed * seed * 5000
		c.UUID = [16]byte(sha256.New().Sum([]byte(name))[:16])
		c.InodesPerGroup += uint32(seed) * 128
		if seed%3 == 0 {
			c.HashSeed = [16]byte{}
			c.Low = 2 + seed/3
		}
		one := build(t, c, randomTree(seed, int(20+seed*60)), seed%3)
		procs := runtime.GOMAXPROCS(int(1 + seed%4))
		two := build(t, c, randomTree(seed, int(20+seed*60)), seed%3)
		runtime.GOMAXPROCS(procs)
		if got[name] = one.sum(); got[name] != two.sum() {
			t.Errorf("%s: two runs give different disks", name)
		}
		if !*update && got[name] != want[name] {
			t.Errorf("%s: digest is %s, want %s", name, got[name], want[name])
		}
		t.Run(name, func(t *testing.T) { fsck(t, one.file(t)) })
	}
	if *update {
		p, err := json.MarshalIndent(got, "", "\t")
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, append(p, '\n'), 0o644))
	}
}

// FuzzWriter makes calls of bytes. None may panic, and nothing may be written
// outside of the device or as zeros.
func FuzzWriter(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x02\x03 some calls with a file, a directory and a link"))
	r := rand.New(rand.NewPCG(2, 2))
	for range 20 {
		p := make([]byte, 400)
		for i := range p {
			p[i] = byte(r.Uint32()) >> r.IntN(8)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		w, d := newTestWriter(t, testConfig())
		if w.AddDir(dirInode(RootInode), RootInode, nil) != nil {
			t.Fatal("no root")
		}
		c := calls{p: p}
		for len(c.p) > 0 {
			c.call(w)
		}
		if w.Close() == nil && d.zeroBlocks() > 0 {
			t.Error("blocks of zeros were written")
		}
	})
}

// calls takes arguments off bytes.
type calls struct{ p []byte }

func (c *calls) number(limit uint64) uint64 {
	var v uint64
	for range 3 {
		if len(c.p) > 0 {
			v = v<<8 | uint64(c.p[0])
			c.p = c.p[1:]
		}
	}
	if v%256 == 255 {
		return v << 40 // far out
	}
	return v % limit
}

func (c *calls) text() string {
	n := min(int(c.number(300)&511), len(c.p))
	s := string(c.p[:n])
	c.p = c.p[n:]
	return s
}

func (c *calls) call(w *Writer) {
	ino := &Inode{Number: uint32(c.number(4098)), Links: 1, MTime: Time{Sec: int64(c.number(1 << 24))}}
	switch c.number(6) {
	case 0:
		ino.Mode, ino.Target = ModeSymlink, c.text()
		_ = w.Add(ino)
	case 1:
		ino.Mode = ModeDir
		_ = w.AddDir(ino, uint32(c.number(4098)), []Dirent{
			{c.text(), uint32(c.number(4098)), uint16(c.number(16)) << 12},
			{c.text(), uint32(c.number(4098)), ModeRegular},
		})
	case 2:
		_ = w.Reserve(Range{c.number(65536), c.number(1000)})
	case 3:
		_ = w.AlignMeta(c.number(1000))
	case 4:
		ino.Mode, ino.Size = ModeRegular, int64(c.number(1<<30))
		for range c.number(10) & 15 {
			ino.Extents = append(ino.Extents, Extent{uint32(c.number(1 << 18)), uint32(c.number(100)), c.number(65536)})
		}
		_ = w.Add(ino)
	case 5:
		ino.Mode, ino.Xattrs = uint16(c.number(16))<<12, []Xattr{{"user." + c.text(), []byte(c.text())}, {c.text(), nil}}
		_ = w.Add(ino)
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// BenchmarkWriter writes a directory of 100,000 names and their inodes.
func BenchmarkWriter(b *testing.B) {
	const files = 100_000
	c := testConfig()
	c.Blocks, c.Meta, c.InodesPerGroup = 1<<20, 1<<19, 16384
	entries := make([]Dirent, files)
	for i := range entries {
		entries[i] = Dirent{fmt.Sprintf("file-%d.txt", i), uint32(FirstInode + i), ModeRegular}
	}
	b.ReportAllocs()
	b.SetBytes(files * InodeSize)
	for b.Loop() {
		w, err := NewWriter(discard{}, c)
		must(b, err)
		must(b, w.AddDir(dirInode(RootInode), RootInode, entries))
		ino := fileInode(0)
		ino.Size, ino.Extents = 1, []Extent{{0, 1, 0}}
		for i := range uint32(files) {
			ino.Number, ino.Extents[0].Start = FirstInode+i, uint64(1000+i)
			must(b, w.Add(ino))
		}
		must(b, w.Close())
	}
}
