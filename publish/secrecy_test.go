package publish

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
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
		for _, kind := range generation.Kinds {
			if err == nil {
				err = s.ListAttachments(ctx, d, kind, func(b []byte) error { fn(kind+" of "+d.String(), b); return nil })
			}
		}
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

// runs are what must not be found: each run of some bytes, and what they are.
type runs map[[runBytes]byte]string

func (r runs) add(name string, b []byte) {
	for i := 0; i+runBytes <= len(b); i++ {
		r[[runBytes]byte(b[i:])] = name
	}
}

// readable returns what of r can be read in a store, and how many bytes it holds.
func (r runs) readable(t *testing.T, s origin.Store) (found []string, stored int) {
	t.Helper()
	everything(t, s, func(what string, b []byte) {
		stored += len(b)
		for i := 0; i+runBytes <= len(b); i++ {
			if name, ok := r[[runBytes]byte(b[i:])]; ok {
				found = append(found, fmt.Sprintf("%s has %d bytes of %s at %d", what, runBytes, name, i))
				return
			}
		}
	})
	return found, stored
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
	secret := runs{}
	err := fs.WalkDir(os.DirFS(tree), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(tree, path))
		secret.add(path, b)
		secret.add("name of "+path, []byte(path))
		return err
	})
	if err != nil || len(secret) < 500_000 {
		t.Fatalf("%d runs, %v", len(secret), err)
	}
	found, stored := secret.readable(t, place.Generation(1))
	for _, what := range found {
		t.Error(what)
	}
	if stored < 300_000 {
		t.Errorf("searched %d bytes only", stored)
	}
}

// TestConfigurationIsNotReadable looks for what an image's configuration says,
// which the block map alone has.
func TestConfigurationIsNotReadable(t *testing.T) {
	config := v1.Config{
		Env:        []string{"TOKEN=correct horse battery staple"},
		Entrypoint: []string{"/usr/bin/a-server", "--listen-at=the-back-door"},
		Labels:     map[string]string{"com.example.who-may-know": "nobody but the readers"},
	}
	src := writeImage(t, config, layerOf(t, sortedMembers(8, 20)))
	secret := runs{}
	for _, s := range append(config.Entrypoint, config.Env[0], "com.example.who-may-know", "nobody but the readers") {
		secret.add(s, []byte(s))
	}
	alice := newPerson(t)
	for _, open := range []bool{true, false} {
		place, o := memory.New(), alice.options(t, "a")
		if o.Open = open; open {
			o.Recipients = nil
		}
		publishAs(t, place, o, src)
		if found, _ := secret.readable(t, place.Generation(1)); (len(found) > 0) != open {
			t.Errorf("open %v: found %q", open, found)
		}
		got := alice.config(t, place, "a")
		for _, s := range append(config.Env, config.Entrypoint...) {
			if !strings.Contains(got, s) {
				t.Errorf("open %v: the reader has no %q in %s", open, s, got)
			}
		}
	}
}
