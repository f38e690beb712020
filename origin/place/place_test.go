package place

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
)

func TestPlaces(t *testing.T) {
	d := origin.Sum(nil)
	const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for want, got := range map[string]string{
		"generations/12":                      Generation(12),
		"chunks/e3/" + hex:                    Hashed(Chunks, d),
		"objects/sha256/e3/" + hex:            Hashed(Objects, d),
		"attachments/" + hex + "/age":         Attached(d, "age"),
		"pointers/names/library/python:3.12=": Pointer("names/library/python:3.12"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if id, ok := ParseHashed(Hashed(Chunks, d)); !ok || id != d {
		t.Errorf("ParseHashed = %x, %v", id, ok)
	}
	for _, bad := range []string{"", "index", hex[1:], "chunks/" + strings.ToUpper(hex)} {
		if _, ok := ParseHashed(bad); ok {
			t.Errorf("%q passes for a name of 64 digits", bad)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	if err := CheckVersion([]byte(VersionText)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "rivulet store 2\n", VersionText + "\n"} {
		if err := CheckVersion([]byte(bad)); !errors.Is(err, origin.ErrVersion) {
			t.Errorf("%q: %v; want ErrVersion", bad, err)
		}
	}
}

func TestIndex(t *testing.T) {
	var index []byte
	var want []origin.Digest
	for i := range origin.MaxAttachments {
		d := origin.Sum([]byte{byte(i), byte(i >> 8)})
		want = append(want, d)
		for _, wantAdded := range []bool{true, false} {
			var added bool
			var err error
			if index, added, err = AddToIndex(index, d); err != nil || added != wantAdded {
				t.Fatalf("adding %d: %v, %v; want %v", i, added, err, wantAdded)
			}
		}
	}
	got, err := ParseIndex(index)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d digests, %v; want %d", len(got), err, len(want))
	}
	if _, _, err := AddToIndex(index, origin.Sum([]byte("one more"))); err == nil {
		t.Error("an index takes more than it may")
	}
	d := origin.Sum([]byte("x"))
	if index, added, err := AddToIndex([]byte("damaged"), d); err != nil || !added || !bytes.Equal(index, AppendIndex(nil, []origin.Digest{d})) {
		t.Errorf("a damaged index becomes %q, %v, %v", index, added, err)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(AppendIndex(nil, []origin.Digest{{}, {1}}))
	f.Add(bytes.Repeat([]byte("0"), indexLine))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseIndex(data)
		if err == nil && !bytes.Equal(AppendIndex(nil, list), data) {
			t.Fatalf("%q is read, and written as another", data)
		}
	})
}

func FuzzPointer(f *testing.F) {
	f.Add("a/B=c%", "a/%42%3dc%25=")
	f.Add(strings.Repeat("Xy", 200), strings.Repeat("x", 200)+"~/x=")
	f.Fuzz(func(t *testing.T, name, path string) {
		if origin.ValidName(name) == nil {
			coded := Pointer(name)
			got, ok := ParsePointer(coded)
			if !ok || got != name || coded != strings.ToLower(coded) {
				t.Fatalf("%q is %q, which is %q, %v", name, coded, got, ok)
			}
			for element := range strings.SplitSeq(coded, "/") {
				if len(element) > 255 || element == "" || element == ".." {
					t.Fatalf("%q: path element %q", name, element)
				}
			}
			folder, ok := PrefixFolder(name)
			if !ok || !strings.HasPrefix(coded, folder+"/") {
				t.Fatalf("%q is not below the folder of its prefixes, %q", coded, folder)
			}
		}
		path = Pointers + "/" + path
		if got, ok := ParsePointer(path); ok && Pointer(got) != path {
			t.Fatalf("%q and its own path both name %q", path, got)
		}
	})
}
