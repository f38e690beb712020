package predict

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/profile"
)

const (
	blocks    = 16384
	frameSize = 64 << 10
	chunkSize = 512 << 10
)

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// A placed file is one of the root folder.
type placed struct {
	name  string
	data  []byte
	mode  uint16
	start uint64 // block on the disk
}

// diskOf makes a disk of files, with its block map.
func diskOf(t *testing.T, files ...placed) (*blockmap.Map, *ext4.FS) {
	t.Helper()
	b := make(memory, blocks*ext4.BlockSize)
	w, err := ext4.NewWriter(b, ext4.Config{Blocks: blocks, InodesPerGroup: 2048, UUID: [16]byte{1}, Low: 128, Meta: 8192, JournalBlocks: 1024})
	if err != nil {
		t.Fatal(err)
	}
	var entries []ext4.Dirent
	for i, f := range files {
		entries = append(entries, ext4.Dirent{Name: f.name, Number: uint32(20 + i), Type: ext4.ModeRegular})
		copy(b[f.start*ext4.BlockSize:], f.data)
	}
	err = w.AddDir(&ext4.Inode{Number: ext4.RootInode, Mode: ext4.ModeDir | 0o755}, ext4.RootInode, entries)
	for i, f := range files {
		n := uint32((len(f.data) + ext4.BlockSize - 1) / ext4.BlockSize)
		err = errors.Join(err, w.Add(&ext4.Inode{
			Number: uint32(20 + i), Mode: ext4.ModeRegular | f.mode, Links: 1, Size: int64(len(f.data)), Extents: []ext4.Extent{{Count: n, Start: f.start}},
		}))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	var chunks []blockmap.Chunk
	for i := range len(b) / chunkSize {
		if plain := bytes.TrimRight(b[i*chunkSize:][:chunkSize], "\x00"); len(plain) > 0 {
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
	fsys, err := ext4.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return m, fsys
}

// device notes what is asked for.
type device struct{ asked []int64 }

func (d *device) Prefetch(_ context.Context, off, _ int64) error {
	d.asked = append(d.asked, off)
	return nil
}

func TestProfile(t *testing.T) {
	full := func(head string, n int) []byte {
		return append([]byte(head), bytes.Repeat([]byte{'#'}, n-len(head))...)
	}
	m, fsys := diskOf(t,
		placed{"run", full("#!/sh\n/data\n", 5000), 0o755, 2048 + 14}, // over the border of two frames
		placed{"sh", (&elfSpec{pad: 3 * frameSize}).bytes(), 0o755, 2048 + 128},
		placed{"data", full("x\n", frameSize), 0o644, 2048 + 256},
		placed{"unused", full("x", frameSize), 0o644, 2048 + 512},
	)
	var far device
	p, chunks, err := Profile(context.Background(), m, fsys, &far, Start{Args: []string{"/run"}, Env: []string{"PATH=/"}}, "w")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Fits(m); err != nil || !p.Predicted || p.Starts != 1 || p.Workload != "w" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := p.AppendBinary(nil); err != nil {
		t.Error(err)
	}
	g := profile.GeometryOf(m)
	var offsets []int64
	for i, e := range p.Entries {
		offsets = append(offsets, g.Offset(e.Frame)/frameSize)
		if i > 0 && e.At <= p.Entries[i-1].At {
			t.Errorf("entry %d is not behind the one before it: %+v", i, p.Entries)
		}
	}
	// The end of the program is zeros, which the disk does not have.
	if want := []int64{128, 136, 144}; !slices.Equal(offsets, want) {
		t.Errorf("frames %v, want %v", offsets, want)
	}
	if want := []uint32{p.Entries[0].Chunk, p.Entries[1].Chunk, p.Entries[2].Chunk}; !slices.Equal(chunks, want) {
		t.Errorf("chunks %v, want %v", chunks, want)
	}
	merged, err := profile.Merge(p)
	if err != nil || !slices.Equal(merged.Entries, p.Entries) {
		t.Errorf("the order is not that of the times: %+v, %v", merged, err)
	}
	again, _, err := Profile(context.Background(), m, fsys, nil, Start{Args: []string{"/run"}, Env: []string{"PATH=/"}}, "w")
	if err != nil || !slices.Equal(again.Entries, p.Entries) {
		t.Errorf("another time %+v, %v", again, err)
	}
	if _, _, err := Profile(context.Background(), m, fsys, nil, Start{Args: []string{"/nosuch"}}, ""); !errors.Is(err, ErrNothing) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestFarFiles(t *testing.T) {
	_, fsys := diskOf(t, placed{"a", make([]byte, 100000), 0o644, 2048})
	var d device
	far := &farFiles{FS: fsys, ctx: context.Background(), device: &d}
	far.Prefetch("a", 65536, 1000, false)
	far.Prefetch("nosuch", 0, 1000, true)
	far.Prefetch("a", 1<<40, 1000, true)
	far.near = true
	far.Prefetch("a", 0, 1000, false)
	if want := []int64{2048*ext4.BlockSize + 65536}; !slices.Equal(d.asked, want) {
		t.Errorf("asked for %v, want %v", d.asked, want)
	}
}
