package publish

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/flatten"
)

func sampleRecord() *record {
	r := &record{Layer: flatten.Layer{
		DiffID:    v1.Hash{Algorithm: "sha256", Hex: "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"},
		Whiteouts: []string{"a", "etc/b"},
		Opaques:   []string{"var"},
	}}
	for i, path := range []string{".", "etc", "etc/passwd", "etc/passwd-", "usr/bin/ls"} {
		e := flatten.Entry{Path: path, Attr: flatten.Attr{Kind: flatten.Dir, Mode: uint16(0o755 + i), UID: 1 << 31, GID: 7, MTime: flatten.Time{Sec: -5, Nsec: 999_999_999}}}
		if i >= 2 {
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
