package place

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// The example of doc/format/origin.md, which check-cells.sh computes too.
const exampleCell = "sha256:00\nsha256 9bf9d759b0a81be672b9c3d6145872fd38215a030225ccedd154b9533ee6ce09\n"

func TestCell(t *testing.T) {
	const at = "generations/1/pointers/names/a="
	if got := AppendCell(nil, at, []byte("sha256:00\n")); string(got) != exampleCell {
		t.Errorf("the example is %q", got)
	}
	for _, value := range []string{"", "x", "sha256:00\n", strings.Repeat("y", origin.MaxPointerBytes), string(Tombstone())} {
		cell := AppendCell([]byte("before"), at, []byte(value))[len("before"):]
		if len(cell) != len(value)+CellBytes || (len(cell) == TombstoneBytes) != (value == string(Tombstone())) {
			t.Errorf("%d bytes are %d as a cell", len(value), len(cell))
		}
		if got, err := ParseCell(at, cell); err != nil || got == nil || string(got) != value {
			t.Errorf("%d bytes come back as %d, %v", len(value), len(got), err)
		}
		if _, err := ParseCell("generations/2/pointers/names/a=", cell); !errors.Is(err, origin.ErrCorrupt) {
			t.Errorf("of another place: %v; want ErrCorrupt", err)
		}
		for i := range min(len(cell), 300) { // from the end, where the line is
			i = len(cell) - 1 - i
			for bit := range 8 {
				bad := bytes.Clone(cell)
				bad[i] ^= 1 << bit
				if _, err := ParseCell(at, bad); !errors.Is(err, origin.ErrCorrupt) {
					t.Errorf("bit %d of byte %d is another: %v; want ErrCorrupt", bit, i, err)
				}
			}
			for _, bad := range [][]byte{cell[:i], cell[len(cell)-i:]} {
				if _, err := ParseCell(at, bad); !errors.Is(err, origin.ErrCorrupt) {
					t.Errorf("%d bytes of %d: %v; want ErrCorrupt", len(bad), len(cell), err)
				}
			}
		}
	}
}

func TestPointerValue(t *testing.T) {
	for _, c := range []struct {
		value []byte
		want  error
	}{
		{[]byte{}, nil},
		{make([]byte, origin.MaxPointerBytes), nil},
		{Tombstone(), chunk.ErrNotFound},
	} {
		if v, err := PointerValue(c.value); !errors.Is(err, c.want) || err == nil && !bytes.Equal(v, c.value) {
			t.Errorf("%d bytes: %d, %v; want %v", len(c.value), len(v), err, c.want)
		}
	}
	if _, err := PointerValue(make([]byte, origin.MaxPointerBytes+1)); err == nil || errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a value that is too long: %v", err)
	}
}

func FuzzCell(f *testing.F) {
	f.Add("pointers/a=", []byte(exampleCell))
	f.Add("", AppendCell(nil, "", nil))
	f.Fuzz(func(t *testing.T, at string, data []byte) {
		v, err := ParseCell(at, data)
		if err == nil && !bytes.Equal(AppendCell(nil, at, v), data) {
			t.Fatalf("%q is read, and written as another", data)
		}
		if v, err := ParseCell(at, AppendCell(nil, at, data)); err != nil || !bytes.Equal(v, data) {
			t.Fatalf("%q is written, and read as %q, %v", data, v, err)
		}
	})
}
