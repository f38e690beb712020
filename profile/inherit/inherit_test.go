package inherit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/inherit"
)

const (
	blocks       = 8192
	chunkBlocks  = chunk.Size / ext4.BlockSize
	frameBlocks  = chunk.FrameSize / ext4.BlockSize
	metaBlock    = 4096
	firstForData = 1024
)

// A placed file is one of the directory /lib.
type placed struct {
	name   string
	inode  uint32
	start  uint64 // block on the disk
	blocks uint32
	fill   byte
}

var zeros = make([]byte, chunk.Size)

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// A made disk is one with those files.
type made struct {
	inherit.Disk
	files  *ext4.FS
	opened int
}

func makeDisk(t *testing.T, files ...placed) *made {
	t.Helper()
	b := make(memory, blocks*ext4.BlockSize)
	w, err := ext4.NewWriter(b, ext4.Config{
		Blocks: blocks, InodesPerGroup: 2048, UUID: [16]byte{1}, Low: 128, Meta: metaBlock, JournalBlocks: 1024,
	})
	entries := []ext4.Dirent{}
	for _, f := range files {
		entries = append(entries, ext4.Dirent{Name: f.name, Number: f.inode, Type: ext4.ModeRegular})
	}
	dir := func(number uint32) *ext4.Inode { return &ext4.Inode{Number: number, Mode: ext4.ModeDir | 0o755} }
	if err == nil {
		err = w.AddDir(dir(ext4.RootInode), ext4.RootInode, []ext4.Dirent{{Name: "lib", Number: 11, Type: ext4.ModeDir}})
	}
	if err == nil {
		err = w.AddDir(dir(11), ext4.RootInode, entries)
	}
	for _, f := range files {
		if err == nil {
			err = w.Add(&ext4.Inode{
				Number: f.inode, Mode: ext4.ModeRegular | 0o644, Links: 1, Size: int64(f.blocks) * ext4.BlockSize,
				Extents: []ext4.Extent{{Count: f.blocks, Start: f.start}},
			})
		}
		copy(b[f.start*ext4.BlockSize:], bytes.Repeat([]byte{f.fill}, int(f.blocks)*ext4.BlockSize))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	var chunks []blockmap.Chunk
	for i := range blocks / chunkBlocks {
		plain := b[i*chunk.Size:][:chunk.Size]
		if !bytes.Equal(plain, zeros) {
			plain = bytes.TrimRight(plain, "\x00")
			chunks = append(chunks, blockmap.Chunk{Index: uint32(i), Stored: uint32(len(plain)) + 100, Size: uint32(len(plain)), ID: sha256.Sum256(plain)})
		}
	}
	raw, err := blockmap.Encode(&blockmap.Info{Layout: 1, Size: int64(len(b)), ChunkLog2: 19, FrameLog2: 16}, chunks)
	if err != nil {
		t.Fatal(err)
	}
	m, err := blockmap.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	d := &made{}
	if d.files, err = ext4.Open(bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	d.Disk = inherit.Disk{Map: m, Files: func(context.Context) (*ext4.FS, error) {
		d.opened++
		return d.files, nil
	}}
	return d
}

// frame returns the frame that a block is in.
func (d *made) frame(t *testing.T, block uint64) profile.Frame {
	t.Helper()
	i, found := d.Map.Search(uint32(block / chunkBlocks))
	if !found {
		t.Fatalf("block %d is in a hole", block)
	}
	return profile.Frame{Chunk: uint32(i), Number: uint16(block % chunkBlocks / frameBlocks)}
}

// inodeFrame returns the frame that has the inode of a file of /lib.
func (d *made) inodeFrame(t *testing.T, name string) profile.Frame {
	t.Helper()
	info, err := d.files.Stat(path.Join("lib", name))
	if err != nil {
		t.Fatal(err)
	}
	block, err := d.files.InodeBlock(info.Sys().(*ext4.Stat).Number)
	if err != nil {
		t.Fatal(err)
	}
	return d.frame(t, block)
}

// read is a profile of starts that read the frames of the given blocks, a
// millisecond after one another.
func (d *made) read(t *testing.T, at ...uint64) *profile.Profile {
	t.Helper()
	r := profile.Recording{Image: d.Map.Digest(), Workload: "w", Length: time.Second}
	for i, block := range at {
		r.Touches = append(r.Touches, profile.Touch{Frame: d.frame(t, block), At: time.Duration(i) * time.Millisecond})
	}
	return r.Profile()
}

func translated(t *testing.T, p *profile.Profile, old, new *made) *profile.Profile {
	t.Helper()
	n, err := inherit.Profile(t.Context(), p, old.Disk, new.Disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Fits(new.Map); err != nil {
		t.Fatal(err)
	}
	if _, err := n.AppendBinary(nil); err != nil {
		t.Fatal(err)
	}
	return n
}

func frames(p *profile.Profile) (list []profile.Frame) {
	for i := range p.Entries {
		list = append(list, p.Entries[i].Frame)
	}
	return list
}

// TestShared: chunks that both disks have need no look at files, wherever they lie.
func TestShared(t *testing.T) {
	old := makeDisk(t, placed{"a", 12, firstForData, chunkBlocks, 'a'}, placed{"b", 13, firstForData + chunkBlocks, chunkBlocks, 'b'})
	new := makeDisk(t, placed{"c", 14, firstForData, chunkBlocks, 'c'}, placed{"b", 13, firstForData + 4*chunkBlocks, chunkBlocks, 'b'})
	b := old.read(t, firstForData+chunkBlocks+frameBlocks)
	n := translated(t, b, old, new)
	if want := []profile.Frame{new.frame(t, firstForData+4*chunkBlocks+frameBlocks)}; !slices.Equal(frames(n), want) || n.Workload != "w" || n.Starts != 1 {
		t.Errorf("got %+v, want frames %v", n, want)
	}
	if old.opened+new.opened > 0 {
		t.Error("file systems were opened for nothing")
	}
}

// TestMoved: what is in other chunks is found by its path, with its inode; what is
// gone is left out.
func TestMoved(t *testing.T) {
	const far = 30 // blocks, so that frames begin elsewhere
	old := makeDisk(t, placed{"gone", 12, firstForData, frameBlocks, 'g'},
		placed{"moved", 40, firstForData + chunkBlocks, 4 * frameBlocks, 'm'})
	new := makeDisk(t, placed{"moved", 400, firstForData + 2*chunkBlocks + far, 3 * frameBlocks, 'm'})
	moved := func(frame uint64) uint64 { return firstForData + chunkBlocks + frame*frameBlocks }
	now := func(block uint64) profile.Frame { return new.frame(t, firstForData+2*chunkBlocks+far+block) }

	n := translated(t, old.read(t, firstForData, moved(1), moved(3)), old, new)
	want := []profile.Frame{now(frameBlocks), now(2*frameBlocks - 1), new.inodeFrame(t, "moved")} // the file ends before its fourth frame
	if !slices.Equal(frames(n), want) {
		t.Errorf("frames %v, want %v", frames(n), want)
	}
	for _, e := range n.Entries {
		if e.At != time.Millisecond {
			t.Errorf("entry %+v, want one at the time of the file's", e)
		}
	}
	if old.opened != 1 || new.opened != 1 {
		t.Errorf("opened %d and %d times", old.opened, new.opened)
	}

	if _, err := inherit.Profile(t.Context(), old.read(t, firstForData), old.Disk, new.Disk); !errors.Is(err, inherit.ErrNothing) {
		t.Errorf("of a file that is gone: %v", err)
	}
}

// TestMetadata: superblock, directories and inode tables are where the new disk
// has them.
func TestMetadata(t *testing.T) {
	var many []placed
	for i := range uint32(300) { // inodes of more than one frame, a directory of more than one block
		many = append(many, placed{fmt.Sprintf("file-with-a-long-name-%d", i), 12 + i, firstForData + uint64(i), 1, byte(i + 1)})
	}
	old, new := makeDisk(t, many[:200]...), makeDisk(t, many...)
	directory, err := new.files.Extents("lib")
	if err != nil {
		t.Fatal(err)
	}
	was, err := old.files.Extents("lib")
	if err != nil {
		t.Fatal(err)
	}
	table, err := old.files.InodeBlock(12 + 190)
	if err != nil {
		t.Fatal(err)
	}
	got := frames(translated(t, old.read(t, 0, was[0].Start, table), old, new))
	for what, want := range map[string]profile.Frame{
		"superblock": new.frame(t, 0), "directory": new.frame(t, directory[0].Start), "inodes": new.inodeFrame(t, many[190].name),
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s: frame %v is not among %v", what, want, got)
		}
	}
}

// TestCounts: an inherited profile counts little, and several old frames in one new
// one count as the most read of them.
func TestCounts(t *testing.T) {
	old := makeDisk(t, placed{"a", 12, firstForData, 1, 'a'}, placed{"b", 13, firstForData + frameBlocks, 1, 'b'})
	new := makeDisk(t, placed{"a", 12, firstForData, 1, 'x'}, placed{"b", 13, firstForData + 1, 1, 'y'})
	p := old.read(t, firstForData, firstForData+frameBlocks)
	for range 9 {
		var err error
		if p, err = profile.Merge(p, old.read(t, firstForData+frameBlocks)); err != nil {
			t.Fatal(err)
		}
	}
	n := translated(t, p, old, new)
	i := slices.IndexFunc(n.Entries, func(e profile.Entry) bool { return e.Frame == new.frame(t, firstForData) })
	if n.Starts != inherit.Starts || i < 0 || n.Entries[i].Starts != n.Starts {
		t.Errorf("got %+v", n)
	}
}

func TestErrors(t *testing.T) {
	old, new := makeDisk(t, placed{"a", 12, firstForData, 1, 'a'}), makeDisk(t, placed{"a", 12, firstForData, 1, 'b'})
	if _, err := inherit.Profile(t.Context(), new.read(t, 0), old.Disk, new.Disk); !errors.Is(err, profile.ErrMismatch) {
		t.Errorf("a profile of another image: %v", err)
	}
	locked := errors.New("locked")
	shut := old.Disk
	shut.Files = func(context.Context) (*ext4.FS, error) { return nil, locked }
	if _, err := inherit.Profile(t.Context(), old.read(t, firstForData), shut, new.Disk); !errors.Is(err, locked) {
		t.Errorf("a disk that cannot be opened: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inherit.Profile(ctx, old.read(t, firstForData), old.Disk, new.Disk); !errors.Is(err, context.Canceled) {
		t.Errorf("no time: %v", err)
	}
}
