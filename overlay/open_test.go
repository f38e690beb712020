package overlay_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/overlay/overlaytest"
)

// TestOpenChecks has what Open and Create refuse.
func TestOpenChecks(t *testing.T) {
	dir := t.TempDir()
	base := blockdevtest.NewMemory(make([]byte, 1<<20), nil)
	o, err := overlay.Create(dir, base, overlay.Options{BaseID: "sha256:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := overlay.Open(dir, base, overlay.Options{BaseID: "sha256:1"}); !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("open twice: %v", err)
	}
	if err := overlay.Destroy(dir, overlay.Options{}); !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("destroyed while it is open: %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := o.ReadAt(make([]byte, 1), 0); !errors.Is(err, overlay.ErrClosed) {
		t.Errorf("read when closed: %v", err)
	}
	if _, err := overlay.Create(dir, base, overlay.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over one that is there: %v", err)
	}
	if _, err := overlay.Open(filepath.Join(dir, "no"), base, overlay.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what is not there: %v", err)
	}
	if _, err := overlay.Create(filepath.Join(dir, "no"), base, overlay.Options{BaseID: strings.Repeat("x", 257)}); err == nil {
		t.Error("a base's name of 257 bytes: no error")
	}
	for _, size := range []int64{1<<20 - 512, 1<<20 + 1, 1<<46 + 512, -512} {
		if _, err := overlay.Create(filepath.Join(dir, "no"), base, overlay.Options{Size: size}); err == nil {
			t.Errorf("create with size %d: no error", size)
		}
	}
	for name, c := range map[string]struct {
		base blockdev.Device
		opts overlay.Options
		want error
	}{
		"another base":         {base, overlay.Options{BaseID: "sha256:2"}, overlay.ErrBase},
		"base of another size": {blockdevtest.NewMemory(make([]byte, 2<<20), nil), overlay.Options{BaseID: "sha256:1"}, overlay.ErrBase},
		"smaller":              {base, overlay.Options{BaseID: "sha256:1", Size: 1<<20 - 4096}, nil},
		"no key":               {base, overlay.Options{BaseID: "sha256:1", Keys: &memoryKeys{}}, overlay.ErrKey},
		"wrong key":            {base, overlay.Options{BaseID: "sha256:1", Keys: &memoryKeys{make([]byte, 32)}}, overlay.ErrKey},
		"short key":            {base, overlay.Options{BaseID: "sha256:1", Keys: &memoryKeys{make([]byte, 16)}}, overlay.ErrKey},
	} {
		if _, err := overlay.Open(dir, c.base, c.opts); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	info, err := overlay.Inspect(dir, nil)
	if want := (overlay.Info{BaseID: "sha256:1", BaseSize: 1 << 20, Size: 1 << 20, Layers: 1, Clean: true}); err != nil || info != want {
		t.Errorf("Inspect = %+v, %v; want %+v", info, err, want)
	}
}

// memoryKeys is a key in memory.
type memoryKeys struct{ key []byte }

func (k *memoryKeys) Load() ([]byte, error) {
	if k.key == nil {
		return nil, fs.ErrNotExist
	}
	return k.key, nil
}
func (k *memoryKeys) Store(key []byte) error { k.key = slices.Clone(key); return nil }
func (k *memoryKeys) Erase() error           { k.key = nil; return nil }

// TestKeys checks that the key is where the caller wants it and nowhere else, that
// nothing written is readable in the files, and that nothing opens them when the
// key is gone.
func TestKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "o")
	base := blockdevtest.NewMemory(make([]byte, 1<<20), nil)
	keys := &memoryKeys{}
	opts := overlay.Options{Keys: keys}
	o, err := overlay.Create(dir, base, opts)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("a secret of the guest, all on one line")
	for off := int64(0); off < 1<<20; off += 40_000 {
		write(t, o, off, secret)
	}
	if _, err := o.Snapshot(); err != nil {
		t.Fatal(err)
	}
	write(t, o, 5000, secret)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range [][]byte{secret[:16], keys.key[:16], []byte(hex.EncodeToString(keys.key[:8]))} {
			if bytes.Contains(b, s) {
				t.Errorf("%s has %q", e.Name(), s)
			}
		}
	}
	if o, err = overlay.Open(dir, base, opts); err != nil {
		t.Fatal(err)
	}
	expect(t, o, 5000, secret)
	if err := o.Destroy(); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if keys.key != nil {
		t.Error("the key outlived the overlay")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there still: %v", err)
	}
	if err := overlay.Destroy(dir, opts); err != nil {
		t.Errorf("destroyed twice: %v", err)
	}
}

// TestDestroyErasesFirst cuts the power in every call of Destroy: when it has begun
// to remove files, the key is gone already.
func TestDestroyErasesFirst(t *testing.T) {
	for cut := 1; cut < 30; cut++ {
		o, m := onMedium(t, 1<<20, overlay.Options{})
		write(t, o, 0, ones(4096))
		flush(t, o)
		m.Cut(cut)
		if err := o.Destroy(); err == nil {
			return
		}
		m.Crash(rand.New(rand.NewPCG(uint64(cut), 1)))
		names, _ := m.ReadDir("d")
		files := 0
		for _, n := range names {
			if n == "index" || n == "journal" || strings.HasPrefix(n, "layer-") {
				files++
			}
		}
		if slices.Contains(names, "key") && files < 3 && !bytes.Equal(m.Bytes("d/key"), make([]byte, 32)) {
			t.Fatalf("power cut in call %d: left %v", cut, names)
		}
		if err := overlay.Destroy("d", overlay.Options{FS: m}); err != nil {
			t.Fatalf("Destroy after a crash in call %d: %v", cut, err)
		}
		if names, err := m.ReadDir("d"); err == nil {
			t.Fatalf("left %v", names)
		}
	}
	t.Error("Destroy takes more than 30 calls")
}

// TestGrow opens an overlay with a larger size.
func TestGrow(t *testing.T) {
	want := blockdevtest.Pattern(1<<20+512, 7)
	base := blockdevtest.NewMemory(bytes.Clone(want), nil)
	dir := t.TempDir()
	o, err := overlay.Create(dir, base, overlay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, o, 1<<20, ones(512)) // a block that the disk has a part of
	copy(want[1<<20:], ones(512))
	for _, size := range []int64{3<<20 + 1024, 20 << 20} {
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		if o, err = overlay.Open(dir, base, overlay.Options{Size: size}); err != nil {
			t.Fatal(err)
		}
		want = append(want, make([]byte, size-int64(len(want)))...)
		if o.Size() != size {
			t.Errorf("size %d, want %d", o.Size(), size)
		}
		expect(t, o, 0, want)
		write(t, o, size-700, ones(700))
		copy(want[size-700:], ones(700))
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if o, err = overlay.Open(dir, base, overlay.Options{}); err != nil {
		t.Fatal(err)
	}
	expect(t, o, 0, want)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDamage flips bits of index, journal and key, and cuts files short. What is
// damaged is reported, or reads as if nothing had been.
func TestDamage(t *testing.T) {
	const size = 1 << 20
	base := blockdevtest.NewMemory(make([]byte, size), nil)
	m := overlaytest.NewMedium()
	opts := overlay.Options{FS: m, BaseID: "base"}
	o, err := overlay.Create("d", base, opts)
	if err != nil {
		t.Fatal(err)
	}
	want := blockdevtest.Pattern(size, 8)
	for i := range 40 {
		off := i * 20_000
		write(t, o, int64(off), want[off:off+20_000])
		if i == 20 {
			if _, err := o.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		flush(t, o)
	}
	clear(want[40*20_000:])
	m.Kill()
	r := rand.New(rand.NewPCG(3, 3))
	for name, length := range map[string]int{"d/index": len(m.Bytes("d/index")), "d/journal": 20 * 512, "d/key": 32} {
		good := m.Bytes(name)
		for i := range 30 {
			bad := bytes.Clone(good)
			if i%10 == 9 {
				bad = bad[:r.IntN(length)]
			} else {
				bad[r.IntN(length)] ^= 1 << r.IntN(8)
			}
			m.Replace(name, bad)
			o, err := overlay.Open("d", base, opts)
			if err == nil {
				t.Errorf("%s, damage %d: opened", name, i)
				expect(t, o, 0, want)
				m.Kill()
				continue
			}
			if !errors.Is(err, overlay.ErrCorrupt) && !errors.Is(err, overlay.ErrKey) {
				t.Errorf("%s, damage %d: %v", name, i, err)
			}
		}
		m.Replace(name, good)
	}
	if o, err = overlay.Open("d", base, opts); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	expect(t, o, 0, want)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := m.ReadDir("d")
	if err != nil {
		t.Fatal(err)
	}
	frozen := names[slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "layer-") })]
	if err := m.Rename("d/"+frozen, "d/elsewhere"); err != nil {
		t.Fatal(err)
	}
	if _, err := overlay.Open("d", base, opts); !errors.Is(err, overlay.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), frozen) {
		t.Errorf("without a layer's file: %v", err)
	}
	if err := m.Rename("d/elsewhere", "d/"+frozen); err != nil {
		t.Fatal(err)
	}
	index := m.Bytes("d/index")
	m.Replace("d/index", bytes.Replace(index, []byte("rvo1"), []byte("rvo2"), 1))
	if _, err := overlay.Open("d", base, opts); !errors.Is(err, overlay.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "rvo2") {
		t.Errorf("another version: %v", err)
	}
}
