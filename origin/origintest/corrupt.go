package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// TestCorruptPointers damages pointers where they are stored, in files below dir
// at their places: whoever reads them gets an error with their name, and never a
// value. fill is empty; read is the same origin, perhaps read in another way.
func TestCorruptPointers(t *testing.T, fill, read origin.Origin, dir string) {
	const name = "names/Some/image"
	for _, p := range []origin.Pointers{fill, fill.Generation(1)} {
		mustSwap(t, p, name, nil, []byte("right"))
		mustSwap(t, p, "names/Other", nil, []byte("right"))
	}
	for in, p := range map[origin.GenerationID]origin.Pointers{0: read, 1: read.Generation(1)} {
		file := filepath.Join(dir, pointerPlace(in, name))
		good := load(t, file)
		bad := map[string][]byte{
			"empty": {}, "cut": good[:len(good)-1], "its end": good[len(good)/2:], "longer": append(bytes.Clone(good), '\n'),
			"a line more": append([]byte("\n"), good...), "very long": bytes.Repeat(good, 2+origin.MaxPointerBytes/len(good)),
			"another pointer": load(t, filepath.Join(dir, pointerPlace(in, "names/Other"))), "of another generation": load(t, filepath.Join(dir, pointerPlace(1-in, name))),
		}
		for i := range good {
			flipped := bytes.Clone(good)
			flipped[i] ^= 1 << (i % 8)
			bad[fmt.Sprint("a bit of byte ", i)] = flipped
		}
		for what, b := range bad {
			save(t, file, b)
			v, err := p.GetPointer(context.Background(), name)
			if err == nil || !strings.Contains(err.Error(), name) || what != "very long" && !errors.Is(err, origin.ErrCorrupt) {
				t.Errorf("%s: %q, %v; want ErrCorrupt and the name", what, v, err)
			}
			err = p.SwapPointer(context.Background(), name, []byte("right"), []byte("new"))
			if !errors.Is(err, origin.ErrCorrupt) && !errors.Is(err, origin.ErrReadOnly) && what != "very long" {
				t.Errorf("%s: SwapPointer: %v; want ErrCorrupt", what, err)
			}
			if now := load(t, file); !bytes.Equal(now, b) {
				t.Errorf("%s: it has changed to %q", what, now)
			}
		}
		save(t, file, good)
		wantPointer(t, p, name, []byte("right"))
		testReplaceDamaged(t, p, name, file)
	}
}

// testReplaceDamaged replaces and removes a pointer that is damaged, and never one
// that is sound.
func testReplaceDamaged(t *testing.T, p origin.Pointers, name, file string) {
	swap := func(new []byte) error { return p.SwapPointer(context.Background(), name, origin.Damaged(), new) }
	if err := swap([]byte("new")); errors.Is(err, origin.ErrReadOnly) {
		return
	} else if !errors.Is(err, origin.ErrConflict) {
		t.Errorf("a sound pointer is replaced as damaged: %v; want ErrConflict", err)
	}
	wantPointer(t, p, name, []byte("right"))
	save(t, file, []byte("damaged"))
	if err := swap([]byte("new")); err != nil {
		t.Errorf("replace a damaged pointer: %v", err)
	}
	wantPointer(t, p, name, []byte("new"))
	save(t, file, []byte("damaged again"))
	if err := swap(nil); err != nil {
		t.Errorf("remove a damaged pointer: %v", err)
	}
	wantPointer(t, p, name, nil)
	for _, new := range [][]byte{[]byte("new"), nil} {
		if err := swap(new); !errors.Is(err, origin.ErrConflict) {
			t.Errorf("an absent pointer is replaced as damaged: %v; want ErrConflict", err)
		}
	}
	mustSwap(t, p, name, nil, []byte("right"))
}

// TestDamagedIndex damages the index of attachments where it is stored, in a file
// below dir at its place: whoever attaches next mends it, and none of the others is
// lost by that. o is empty.
func TestDamagedIndex(t *testing.T, o origin.Origin, dir string) {
	s, subject := o.Generation(1), origin.Sum([]byte("subject"))
	for _, data := range []string{"a", "b", "c"} {
		attach(t, s, subject, "note", data)
	}
	WantIndex(t, dir, subject, 3)
	for i, data := range []string{"b", "d"} { // one that is there, one that is not
		save(t, filepath.Join(dir, indexPlace(subject)), []byte("damaged"))
		attach(t, s, subject, "note", data)
		WantIndex(t, dir, subject, 3+i)
	}
}

// WantIndex wants n attachments in the index of kind note of an object in generation
// 1, which is stored in a file below dir.
func WantIndex(t *testing.T, dir string, subject origin.Digest, n int) {
	t.Helper()
	at := indexPlace(subject)
	index, err := place.ParseCell(at, load(t, filepath.Join(dir, at)))
	if err != nil {
		t.Fatal(err)
	}
	if list, err := place.ParseIndex(index); err != nil || len(list) != n {
		t.Errorf("the index has %d, %v; want %d", len(list), err, n)
	}
}

func indexPlace(subject origin.Digest) string {
	return place.Generation(1) + "/" + place.Attached(subject, "note") + "/" + place.Index
}

// pointerPlace returns the place of a pointer of a generation, or of the origin
// if in is 0.
func pointerPlace(in origin.GenerationID, name string) string {
	if in == 0 {
		return place.Pointer(name)
	}
	return place.Generation(in) + "/" + place.Pointer(name)
}

func load(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func save(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o666); err != nil {
		t.Fatal(err)
	}
}
