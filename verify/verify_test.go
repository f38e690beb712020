package verify_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/verify"
)

// published returns a store with one image, and its block map.
func published(t *testing.T) (origin.Store, *blockmap.Map) {
	t.Helper()
	tree := t.TempDir()
	rng := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"a", "b", "c"} {
		body := make([]byte, 700<<10)
		for i := range body {
			body[i] = byte(rng.IntN(90))
		}
		if err := os.WriteFile(filepath.Join(tree, name), body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	place := memory.New()
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	o := publish.Options{Salt: salt, Signer: signer, Open: true, Name: "x", TempDir: t.TempDir()}
	if _, err := publish.Image(context.Background(), place, []string{"dir:" + tree}, o); err != nil {
		t.Fatal(err)
	}
	store := place.Generation(1)
	m, err := catalog.Open(context.Background(), store, "x")
	if err != nil {
		t.Fatal(err)
	}
	return store, m
}

// A bent source damages what it returns of one chunk, or of all.
type bent struct {
	chunk.Source
	only chunk.ID
	bend func(b []byte) (int, error)
}

func (s *bent) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	n, err := s.Source.Fetch(ctx, id, dst, off)
	if err == nil && (s.only == chunk.ID{} || s.only == id) {
		return s.bend(dst[:n])
	}
	return n, err
}

func TestChunks(t *testing.T) {
	store, m := published(t)
	ctx := context.Background()
	calls := 0
	if err := verify.Chunks(ctx, m, store, func(done, total int) { calls++ }); err != nil || calls != m.Len() {
		t.Fatalf("a good disk, after %d of %d chunks: %v", calls, m.Len(), err)
	}
	victim := m.Chunk(m.Len() / 2).ID
	for name, bend := range map[string]func(b []byte) (int, error){
		"flipped":   func(b []byte) (int, error) { b[len(b)-1] ^= 1; return len(b), nil },
		"header":    func(b []byte) (int, error) { b[20] ^= 1; return len(b), nil },
		"truncated": func(b []byte) (int, error) { return len(b) - 1, nil },
		"empty":     func(b []byte) (int, error) { return 0, nil },
		"missing":   func(b []byte) (int, error) { return 0, chunk.ErrNotFound },
	} {
		err := verify.Chunks(ctx, m, &bent{Source: store, only: victim, bend: bend}, nil)
		if err == nil || !strings.Contains(err.Error(), victim.String()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one error that names %v", name, err, victim)
		}
	}
	all := verify.Chunks(ctx, m, &bent{Source: store, bend: func(b []byte) (int, error) { return 0, chunk.ErrNotFound }}, nil)
	if n := strings.Count(all.Error(), "\n") + 1; n != min(m.Len(), verify.MaxFaults) {
		t.Errorf("%d faults reported of %d chunks", n, m.Len())
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := verify.Chunks(ended, m, store, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A map whose chunks are all sound and make another disk than it says.
func TestDigest(t *testing.T) {
	store, m := published(t)
	info := m.Info()
	var chunks []blockmap.Chunk
	for i := range m.Len() - 1 {
		chunks = append(chunks, m.Chunk(i))
	}
	b, err := blockmap.Encode(&info, chunks)
	if err != nil {
		t.Fatal(err)
	}
	less, err := blockmap.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.Chunks(context.Background(), less, store, nil); !errors.Is(err, verify.ErrDigest) {
		t.Errorf("a disk without its last chunk: %v", err)
	}
	info.SaltID = blockmap.SaltID{}
	unsealed, err := seal.LockOpen(&info, chunks)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.Chunks(context.Background(), unsealed, store, nil); !errors.Is(err, seal.ErrUnsealed) {
		t.Errorf("a disk without encryption: %v", err)
	}
	if _, err := verify.NewPlain(context.Background(), unsealed, store); !errors.Is(err, seal.ErrUnsealed) {
		t.Errorf("a disk without encryption, read plain: %v", err)
	}
	if err := verify.SameDisk(m, m); err != nil {
		t.Error(err)
	}
}

// wrong is a device that answers one byte wrong.
type wrong struct {
	io.ReaderAt
	at int64
}

func (w *wrong) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.ReaderAt.ReadAt(p, off)
	if off <= w.at && w.at < off+int64(n) {
		p[w.at-off] ^= 0xff
	}
	return n, err
}

func TestReads(t *testing.T) {
	store, m := published(t)
	ctx := context.Background()
	d, err := disk.Open(m, chunk.NewDoor(store), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	plain, err := verify.NewPlain(ctx, m, store)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	if err := verify.Reads(ctx, m, d, plain, 200, 1); err != nil {
		t.Errorf("a good device: %v", err)
	}
	info := m.Info()
	at := int64(m.Chunk(m.Len()-1).Index)*info.ChunkSize() + 7
	if err := verify.Reads(ctx, m, &wrong{d, at}, plain, 2000, 1); err == nil || !strings.Contains(err.Error(), "differ") {
		t.Errorf("a device with a wrong byte: %v", err)
	}
	if err := verify.Reads(ctx, m, bytes.NewReader(nil), plain, 10, 1); err == nil {
		t.Error("a device that ends early passed")
	}
}
