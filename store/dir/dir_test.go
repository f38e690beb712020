package dir

import (
	"testing"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
)

func openOrigin(t testing.TB, path string) *Origin {
	t.Helper()
	o, err := Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// open returns the first generation of the origin at path.
func open(t testing.TB, path string) *Store {
	t.Helper()
	return openOrigin(t, path).generation(1)
}

func TestOrigin(t *testing.T) {
	origintest.TestOrigin(t, func(t *testing.T) origin.Origin { return openOrigin(t, t.TempDir()) })
}

func TestCorruptPointers(t *testing.T) {
	path := t.TempDir()
	o := openOrigin(t, path)
	origintest.TestCorruptPointers(t, o, o, path)
}

func TestDamagedIndex(t *testing.T) {
	path := t.TempDir()
	origintest.TestDamagedIndex(t, openOrigin(t, path), path)
}

// TestTwoStores is about two processes with one directory: flock treats two
// open files of one process as it does those of two.
func TestTwoStores(t *testing.T) {
	path := t.TempDir()
	origintest.TestPointerRace(t, open(t, path), open(t, path))
}

func BenchmarkSource(b *testing.B) { chunktest.BenchmarkSource(b, open(b, b.TempDir())) }
func BenchmarkDoor(b *testing.B)   { chunktest.BenchmarkDoor(b, open(b, b.TempDir())) }
