package dir

import (
	"testing"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	origintest.TestStore(t, func(t *testing.T) origin.Store { return open(t, t.TempDir()) })
}

// TestTwoStores is about two processes with one directory: flock treats two
// open files of one process as it does those of two.
func TestTwoStores(t *testing.T) {
	path := t.TempDir()
	origintest.TestPointerRace(t, open(t, path), open(t, path))
}

func BenchmarkSource(b *testing.B) { chunktest.BenchmarkSource(b, open(b, b.TempDir())) }
func BenchmarkDoor(b *testing.B)   { chunktest.BenchmarkDoor(b, open(b, b.TempDir())) }
