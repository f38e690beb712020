package dir

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// unnamed makes a file that has no name, or skips the test where there are none.
func unnamed(t *testing.T, dir string) unnamedFile {
	t.Helper()
	f := createUnnamed(dir, directWorth)
	if f == nil {
		t.Skipf("needs a file system with unnamed and direct files, which that of %s is not", dir)
	}
	return f.(unnamedFile)
}

// TestUnnamed writes files whose ends lie about that of a page, onto nothing and onto
// another file, past the page cache and through it.
func TestUnnamed(t *testing.T) {
	dir := t.TempDir()
	for i, size := range []int{1, directAlign - 1, directAlign, directAlign + 1, directWorth, 700_001} {
		data := chunktest.Random(uint64(i), size, chunk.FrameSize).Bytes
		path := filepath.Join(dir, "file")
		for _, write := range []func(unnamedFile, []byte) (int, error){unnamedFile.Write, unnamedFile.writeCached} {
			f := unnamed(t, dir)
			if n, err := write(f, data); n != len(data) || err != nil {
				t.Fatalf("write %d bytes: %d, %v", len(data), n, err)
			}
			if err := f.Place(path); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes: %d other ones came back, %v", len(data), len(got), err)
			}
		}
	}
	f := unnamed(t, dir)
	if err := f.Drop(); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left: %v, %v; want one file", list, err)
	}
}
