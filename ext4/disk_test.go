package ext4

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// memDisk is a device in memory that keeps only the blocks written to, and
// tells of writes that a Writer should not make.
type memDisk struct {
	blocks map[int64]*[BlockSize]byte
	size   int64
	failAt int // number of the write that fails; 0 for none
	writes int
}

var errDisk = errors.New("disk failed")

func newMemDisk(blocks uint64) *memDisk {
	return &memDisk{blocks: make(map[int64]*[BlockSize]byte), size: int64(blocks) * BlockSize}
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	if d.writes++; d.writes == d.failAt {
		return 0, errDisk
	}
	if off < 0 || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("write of %d bytes at %d outside of %d", len(p), off, d.size)
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		b := d.blocks[at/BlockSize]
		if b == nil {
			b = new([BlockSize]byte)
			d.blocks[at/BlockSize] = b
		}
		n += copy(b[at%BlockSize:], p[n:])
	}
	return len(p), nil
}

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	if off >= d.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), d.size-off))
	clear(p[:n])
	for i := 0; i < n; {
		at := off + int64(i)
		k := min(n-i, int(BlockSize-at%BlockSize))
		if b := d.blocks[at/BlockSize]; b != nil {
			copy(p[i:i+k], b[at%BlockSize:])
		}
		i += k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// zeroBlocks counts the blocks written with nothing but zeros.
func (d *memDisk) zeroBlocks() int {
	n := 0
	for _, b := range d.blocks {
		if *b == [BlockSize]byte{} {
			n++
		}
	}
	return n
}

// sum is a digest of the whole device, holes as zeros.
func (d *memDisk) sum() string {
	h := sha256.New()
	var number [8]byte
	for i := range d.size / BlockSize {
		if b := d.blocks[i]; b != nil && *b != [BlockSize]byte{} {
			le.PutUint64(number[:], uint64(i))
			h.Write(number[:])
			h.Write(b[:])
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// file writes the device to a sparse file.
func (d *memDisk) file(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { must(t, f.Close()) }()
	if err := f.Truncate(d.size); err != nil {
		t.Fatal(err)
	}
	for i, b := range d.blocks {
		if _, err := f.WriteAt(b[:], i*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// tool runs a program of e2fsprogs and returns what it says.
func tool(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path = "/sbin/" + name; !exists(path) {
			t.Skipf("needs e2fsprogs: no %s", name)
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBUGFS_PAGER=__none__")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// fsck fails the test if e2fsck finds anything.
func fsck(t testing.TB, disk string) {
	t.Helper()
	out, err := tool(t, "e2fsck", "-fn", disk)
	if err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	// Beside version, passes and the summary nothing is said of a sound one.
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "e2fsck ") && !strings.HasPrefix(line, "Pass ") && !strings.Contains(line, " files (") {
			t.Fatalf("e2fsck: %s", out)
		}
	}
}
