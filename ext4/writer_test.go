package ext4

import (
	"testing"
)

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
	t.Log(len(d.blocks), "blocks stored")
	fsck(t, d.file(t))
}
