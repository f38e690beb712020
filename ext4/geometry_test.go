package ext4

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestBadConfig(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"no blocks":             func(c *Config) { c.Blocks = 0 },
		"few blocks":            func(c *Config) { c.Blocks = MinBlocks - 1 },
		"many blocks":           func(c *Config) { c.Blocks = MaxBlocks + 1 },
		"all blocks":            func(c *Config) { c.Blocks = 1<<64 - 1 },
		"no inodes":             func(c *Config) { c.InodesPerGroup = 0 },
		"odd inodes":            func(c *Config) { c.InodesPerGroup = 129 },
		"many inodes":           func(c *Config) { c.InodesPerGroup = 32768 + 128 },
		"inodes over 32 bits":   func(c *Config) { c.Blocks, c.Low, c.InodesPerGroup = MaxBlocks, 1<<20, 32768 },
		"small journal":         func(c *Config) { c.JournalBlocks = 1023 },
		"large journal":         func(c *Config) { c.JournalBlocks = MaxJournalBlocks + 1 },
		"journal over device":   func(c *Config) { c.JournalBlocks = 65536 },
		"no UUID":               func(c *Config) { c.UUID = [16]byte{} },
		"long label":            func(c *Config) { c.Label = strings.Repeat("l", 17) },
		"label with NUL":        func(c *Config) { c.Label = "a\x00" },
		"before 1970":           func(c *Config) { c.Created.Sec = -1 },
		"after 2446":            func(c *Config) { c.Created.Sec = maxTime + 1 },
		"nanoseconds":           func(c *Config) { c.Created.Nsec = 1e9 },
		"low area too small":    func(c *Config) { c.Low = 1 },
		"low area over meta":    func(c *Config) { c.Low = c.Meta + 1 },
		"meta behind device":    func(c *Config) { c.Meta = c.Blocks + 1 },
		"meta far behind":       func(c *Config) { c.Meta = 1<<64 - 1 },
		"meta in inode tables":  func(c *Config) { c.Meta = c.Blocks - 100 },
		"descriptors above low": func(c *Config) { c.Blocks, c.Low = 100*BlocksPerGroup, 2 },
	} {
		c := testConfig()
		change(&c)
		if _, err := NewWriter(newMemDisk(0), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestShapes writes the same small tree to devices of many sizes.
func TestShapes(t *testing.T) {
	sequential(t)
	for _, test := range []struct {
		blocks, low, meta uint64
		inodes, journal   uint32
	}{
		{MinBlocks, 2, 1500, 128, 1024},
		{MinBlocks + 1, 4, 1500, 2048, 1024},
		{MinBlocks + 333, 128, 1500, 128, 1025},
		{BlocksPerGroup, 2, 9000, 32768, 1024},
		{BlocksPerGroup + 1, 2, 9000, 128, 1024},
		{BlocksPerGroup + 129, 3, 9000, 128, 2000},
		{3*BlocksPerGroup - 1, 3, 2 * BlocksPerGroup, 16384, 4096},
		{40 * BlocksPerGroup, 2, 2 * BlocksPerGroup, 8192, 32768},
		{100*BlocksPerGroup + 77, 100, 2 * BlocksPerGroup, 16384, 40_000},
		{200 * BlocksPerGroup, 405, 20 * BlocksPerGroup, 16384, MaxJournalBlocks},
		{1 << 28, 8000, 70_000, 4096, 1024},
	} {
		t.Run(fmt.Sprintf("%d blocks, low %d", test.blocks, test.low), func(t *testing.T) {
			c := testConfig()
			c.Blocks, c.Low, c.Meta = test.blocks, test.low, test.meta
			c.InodesPerGroup, c.JournalBlocks = test.inodes, test.journal
			root := randomTree(test.blocks, 25)
			disk := build(t, c, root, 0).file(t)
			fsck(t, disk)
			compareTree(t, mountDisk(t, disk, "ro,noload"), root)
		})
	}
}

// TestOverflow has nodes of the boot-loader inode in both the low and the high
// area.
func TestOverflow(t *testing.T) {
	for low := uint64(2); low < 20; low++ {
		c := testConfig()
		c.Low, c.Meta = low, 32768
		w, d := newTestWriter(t, c)
		must(t, w.AddDir(dirInode(RootInode), RootInode, nil))
		for i := range uint64(3000) {
			must(t, w.Reserve(Range{100 + 2*i, 1}))
		}
		must(t, w.Close())
		fsck(t, d.file(t))
	}
}

func TestOverflowInUse(t *testing.T) {
	c := testConfig()
	c.Blocks, c.Low = 4*BlocksPerGroup, 2
	w, _ := newTestWriter(t, c)
	must(t, w.AddDir(dirInode(RootInode), RootInode, nil))
	// Enough nodes to move the overflow down to blocks that are reserved.
	for b := w.alloc.high - 1; b > 100; b -= 2 {
		must(t, w.Reserve(Range{b, 1}))
	}
	if err := w.Close(); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
}

func TestDumpe2fs(t *testing.T) {
	out, err := tool(t, "dumpe2fs", "-h", build(t, testConfig(), directoryNode(), 0).file(t))
	if err != nil {
		t.Fatal(err, out)
	}
	for _, want := range []string{
		"Filesystem volume name:   rivulet\n",
		"Filesystem UUID:          01000000-0000-0000-0000-000000000002\n",
		"Filesystem features:      has_journal ext_attr dir_index sparse_super2 filetype extent 64bit flex_bg metadata_csum_seed large_file huge_file dir_nlink extra_isize metadata_csum\n",
		"Filesystem flags:         unsigned_directory_hash \n",
		"Filesystem state:         clean\n",
		"Errors behavior:          Continue\n",
		"Inode count:              4096\n",
		"Block count:              65536\n",
		"Reserved block count:     0\n",
		"Maximum mount count:      -1\n",
		"Default directory hash:   half_md4\n",
		"Directory Hash Seed:      03010401-0509-0206-0503-050809070903\n",
		"Journal inode:            8\n",
		"Journal backup:           inode blocks\n",
		"Checksum type:            crc32c\n",
		"Checksum seed:            0x12345678\n",
		"Total journal blocks:     1024\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
