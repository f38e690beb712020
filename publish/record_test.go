package publish

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/layout"
)

func sampleRecord() *record {
	r := &record{Layer: flatten.Layer{
		DiffID:    v1.Hash{Algorithm: "sha256", Hex: "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"},
		Whiteouts: []string{"a", "etc/b"},
		Opaques:   []string{"var"},
	}}
	for i, path := range []string{".", "etc", "etc/passwd", "etc/passwd-", "usr", "usr/bin", "usr/bin/ls"} {
		e := flatten.Entry{Path: path, Attr: flatten.Attr{Kind: flatten.Dir, Mode: uint16(0o755 + i), UID: 1 << 31, GID: 7, MTime: flatten.Time{Sec: -5, Nsec: 999_999_999}}}
		if strings.ContainsAny(path, "pl") {
			e.Kind, e.Size = flatten.File, int64(i)<<33
			e.Xattrs = []flatten.Xattr{{Name: "security.capability", Value: "\x00\x01"}, {Name: "user.x", Value: ""}}
		}
		e.Implied = i == 1
		r.Layer.Entries = append(r.Layer.Entries, e)
	}
	r.Chunks = []stored{{}, {Stored: 77, Size: 5}, {}}
	r.Chunks[1].ID[3], r.Chunks[1].Key[4], r.Chunks[1].Sum[5] = 1, 2, 3
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	want := sampleRecord()
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// Whatever happens to a record's bytes, decoding ends, with a record or an
// error.
func TestDamagedRecords(t *testing.T) {
	good, err := sampleRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := bytes.Clone(good)
		b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
		_, _ = decodeRecord(b)
		_, _ = decodeRecord(good[:rng.IntN(len(good))])
	}
	for _, b := range [][]byte{nil, []byte("rvseg"), []byte("rvseg\x02"), good[:len(recordMagic)]} {
		if _, err := decodeRecord(b); err == nil {
			t.Errorf("%d bytes were accepted", len(b))
		}
	}
}

func FuzzRecord(f *testing.F) {
	w := &recordWriter{}
	r := sampleRecord()
	for i := range r.Layer.Entries {
		w.entry(&r.Layer.Entries[i], "")
	}
	f.Add(w.b)
	f.Fuzz(func(t *testing.T, body []byte) {
		rd := &recordReader{b: body}
		var e flatten.Entry
		rd.entry(&e, "etc/passwd")
		if rd.bad {
			return
		}
		out := &recordWriter{}
		out.entry(&e, "etc/passwd")
		again := &recordReader{b: out.b}
		var e2 flatten.Entry
		again.entry(&e2, "etc/passwd")
		if again.bad || !reflect.DeepEqual(e, e2) {
			t.Fatalf("entry %+v became %+v", e, e2)
		}
	})
}

// A record of entries that flatten would never give is refused, since merging
// and laying out rely on them.
func TestPoisonedRecords(t *testing.T) {
	file := flatten.Attr{Kind: flatten.File}
	dir := flatten.Attr{Kind: flatten.Dir}
	for name, l := range map[string]flatten.Layer{
		"root is a file":       {Entries: []flatten.Entry{{Path: ".", Attr: file}}},
		"twice":                {Entries: []flatten.Entry{{Path: "a", Attr: file}, {Path: "a", Attr: file}}},
		"out of order":         {Entries: []flatten.Entry{{Path: "b", Attr: file}, {Path: "a", Attr: file}}},
		"root comes last":      {Entries: []flatten.Entry{{Path: "a", Attr: file}, {Path: ".", Attr: dir}}},
		"no parent":            {Entries: []flatten.Entry{{Path: "a/b", Attr: file}}},
		"parent is a file":     {Entries: []flatten.Entry{{Path: "a", Attr: file}, {Path: "a/b", Attr: file}}},
		"dot dot":              {Entries: []flatten.Entry{{Path: "..", Attr: dir}, {Path: "../a", Attr: file}}},
		"absolute":             {Entries: []flatten.Entry{{Path: "/a", Attr: file}}},
		"slash at the end":     {Entries: []flatten.Entry{{Path: "a/", Attr: file}}},
		"NUL":                  {Entries: []flatten.Entry{{Path: "a\x00b", Attr: file}}},
		"long name":            {Entries: []flatten.Entry{{Path: strings.Repeat("x", 256), Attr: file}}},
		"implied file":         {Entries: []flatten.Entry{{Path: "a", Attr: file, Implied: true}}},
		"sized directory":      {Entries: []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.Dir, Size: 1}}}},
		"link without target":  {Entries: []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.Symlink}}}},
		"link that goes up":    {Entries: []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.Link, Target: "../b"}}}},
		"file with target":     {Entries: []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.File, Target: "b"}}}},
		"device number":        {Entries: []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.Char, Major: 1 << 12}}}},
		"attribute twice":      {Entries: []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.File, Xattrs: []flatten.Xattr{{Name: "user.a"}, {Name: "user.a"}}}}}},
		"more than any layer":  {Entries: []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.File, Size: 1 << 41}}}},
		"whiteout that leaves": {Whiteouts: []string{"../a"}},
		"opaque without name":  {Opaques: []string{""}},
	} {
		r := sampleRecord()
		r.Layer.Entries, r.Layer.Whiteouts, r.Layer.Opaques = l.Entries, l.Whiteouts, l.Opaques
		b, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRecord(b); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Lists that claim to be longer than their bytes, or than any layer's, take no
// memory.
func TestRecordsThatClaimMuch(t *testing.T) {
	w := &recordWriter{}
	w.string(sampleRecord().Layer.DiffID.String())
	w.uint(0)
	w.uint(0)
	w.uint(0)
	w.uint(1 << 23)
	w.b = append(w.b, make([]byte, 1<<23)...) // holes
	if _, err := decodeBody(w.b); !errors.Is(err, errRecord) {
		t.Errorf("a segment of 4 TiB: %v", err)
	}
}

// nowhere is a disk that is not kept.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// FuzzPoison makes disks from whatever records decode.
func FuzzPoison(f *testing.F) {
	for _, r := range []*record{sampleRecord(), {Layer: flatten.Layer{DiffID: sampleRecord().Layer.DiffID}}} {
		if b, err := r.body(); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		rec, err := decodeBody(body)
		if err != nil {
			return
		}
		again, err := rec.body()
		if err != nil {
			t.Fatal(err)
		}
		if rec2, err := decodeBody(again); err != nil || !reflect.DeepEqual(rec, rec2) {
			t.Fatalf("record %+v became %+v, %v", rec, rec2, err)
		}
		bytes := int64(0)
		for i := range rec.Layer.Entries {
			bytes += rec.Layer.Entries[i].Size
		}
		if bytes > 1<<30 {
			return // such disks take long
		}
		plan, err := layout.PlanSegment(rec.Layer.Entries, layout.Default)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := flatten.Merge([]*flatten.Layer{&rec.Layer})
		if err != nil {
			return
		}
		img := &layout.Image{Tree: tree, Layers: []layout.Layer{{Entries: rec.Layer.Entries, Segment: plan, Stored: make([]bool, plan.Chunks)}}}
		_, _ = layout.Build(img, nowhere{})
	})
}
