package publish

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// runBytes is the length of what must not be found of a file.
const runBytes = 16

// everything calls fn for all that a store holds.
func everything(t *testing.T, s origin.Store, fn func(what string, b []byte)) {
	t.Helper()
	ctx := context.Background()
	err := s.List(ctx, func(id chunk.ID, size int64) error {
		b := make([]byte, size)
		n, err := s.Fetch(ctx, id, b, 0)
		fn("chunk "+id.String(), b[:n])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.ListObjects(ctx, func(d origin.Digest, size int64) error {
		b, err := s.GetObject(ctx, d, size)
		fn("object "+d.String(), b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.ListPointers(ctx, "", func(name string) error {
		b, err := s.GetPointer(ctx, name)
		fn("pointer "+name, append([]byte(name), b...))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// secretTree is a folder of files that compress and files that do not.
func secretTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range 6 {
		var body []byte
		for k := 0; len(body) < 100_000; k++ {
			if i%2 == 0 {
				body = fmt.Appendf(body, "line %d of file %d: %x\n", k, i, rng.Uint32())
			} else {
				body = append(body, byte(rng.Uint32()))
			}
		}
		if err := os.WriteFile(filepath.Join(root, fmt.Sprintf("a file with a long name %d", i)), body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestNothingIsReadable looks in every stored byte for any run of any file, and
// for the files' names.
func TestNothingIsReadable(t *testing.T) {
	tree, place := secretTree(t), memory.New()
	publishAs(t, place, newPerson(t).options(t, "a"), "dir:"+tree)
	runs := map[[runBytes]byte]string{}
	add := func(name string, b []byte) {
		for i := 0; i+runBytes <= len(b); i++ {
			runs[[runBytes]byte(b[i:])] = name
		}
	}
	err := fs.WalkDir(os.DirFS(tree), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(tree, path))
		add(path, b)
		add("name of "+path, []byte(path))
		return err
	})
	if err != nil || len(runs) < 500_000 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	stored := 0
	everything(t, place.Generation(1), func(what string, b []byte) {
		stored += len(b)
		for i := 0; i+runBytes <= len(b); i++ {
			if name, ok := runs[[runBytes]byte(b[i:])]; ok {
				t.Errorf("%s has %d bytes of %s at %d", what, runBytes, name, i)
				return
			}
		}
	})
	if stored < 300_000 {
		t.Errorf("searched %d bytes only", stored)
	}
}
