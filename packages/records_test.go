package packages

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
)

// noted is a publisher's notes in a store that has all layers, or none.
type noted struct {
	*publish.Notes
	whole bool
}

func (n noted) Has(context.Context, v1.Hash) (bool, error) { return n.whole, nil }

func newNotes(t *testing.T, place origin.Origin, salt *seal.Salt, own *sign.Key, trusted ...*sign.Key) *publish.Notes {
	t.Helper()
	o := publish.Options{Salt: salt, Signer: own, Open: true, TempDir: t.TempDir()}
	for _, k := range trusted {
		o.Trusted = append(o.Trusted, k.Public())
	}
	n, err := publish.OpenNotes(context.Background(), place, o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRecords publishes from a host that has nothing: it learns of packages by the records of
// somebody whom it trusts, and installs what nobody trusted has a whole layer of.
func TestRecords(t *testing.T) {
	ctx := context.Background()
	first := newPython(t, t.TempDir())
	x := newIndex(t)
	img, err := first.Open(ctx, []string{"pip:aa"}, below)
	if err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(t.TempDir(), "pylock.toml")
	if err := os.WriteFile(lock, []byte(img.Labels[Label]), 0o600); err != nil {
		t.Fatal(err)
	}
	used, err := first.Cache.Used()
	if err != nil || len(used) != 4 { // aa, bb, cc and the interpreter
		t.Fatalf("%d records: %v", len(used), err)
	}
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		t.Fatal(err)
	}
	var keys [2]*sign.Key
	for i := range keys {
		if keys[i], err = sign.NewKey(); err != nil {
			t.Fatal(err)
		}
	}
	place, lied := memory.New(), memory.New()
	for _, r := range used {
		if err := newNotes(t, place, salt, keys[0]).Put(ctx, r.Kind, r.Of, r.Value); err != nil {
			t.Fatal(err)
		}
		if r.Kind == installationKind {
			var in Installed
			if err := json.Unmarshal(r.Value, &in); err != nil {
				t.Fatal(err)
			}
			in.DiffID = "sha256:" + strings.Repeat("12", 32)
			if r.Value, err = json.Marshal(&in); err != nil {
				t.Fatal(err)
			}
		}
		if err := newNotes(t, lied, salt, keys[0]).Put(ctx, r.Kind, r.Of, r.Value); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		records Records
		here    bool   // it is installed here
		told    string // part of it
	}{
		{"one's own", noted{newNotes(t, place, salt, keys[0]), true}, false, ""},
		{"of somebody trusted", noted{newNotes(t, place, salt, keys[1], keys[0]), true}, false, ""},
		{"of somebody else", noted{newNotes(t, place, salt, keys[1]), true}, true, "not trusted"},
		{"of a layer that is gone", noted{newNotes(t, place, salt, keys[0]), false}, true, "not whole there"},
		{"none", nil, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cold := newPython(t, t.TempDir())
			var told []string
			cold.Cache.Records, cold.Cache.Tell = c.records, func(line string) { told = append(told, line) }
			before := x.downloads.Load()
			got, err := cold.Open(ctx, []string{"pylock:" + lock}, below)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(diffIDs(got), diffIDs(img)) {
				t.Errorf("layers %v, want %v", diffIDs(got), diffIDs(img))
			}
			here, err := cold.Cache.List()
			if err != nil || (len(here) == 3) != c.here || (x.downloads.Load() > before) != c.here {
				t.Errorf("%d packages are installed here, %d files were downloaded: %v", len(here), x.downloads.Load()-before, err)
			}
			if text := strings.Join(told, "\n"); (text == "") != (c.told == "") || !strings.Contains(text, c.told) {
				t.Errorf("told %q, want %q", text, c.told)
			}
			if imports := cold.Cache.Imports(); len(imports) != 3 {
				t.Errorf("%d imports are known", len(imports))
			}
			// A layer that is read all the same is made then.
			if files := read(t, got.Layers[1]); len(files) == 0 {
				t.Error("a layer without files")
			}
		})
	}
	// What others have recorded is not signed anew.
	trusting := newPython(t, t.TempDir())
	trusting.Cache.Records = noted{newNotes(t, place, salt, keys[1], keys[0]), true}
	if _, err := trusting.Open(ctx, []string{"pylock:" + lock}, below); err != nil {
		t.Fatal(err)
	}
	if used, err := trusting.Cache.Used(); err != nil || len(used) != 1 { // the interpreter, which newPython has asked
		t.Errorf("by others' word it would tell: %d records, %v", len(used), err)
	}
	cold := newPython(t, t.TempDir())
	cold.Cache.Records = noted{newNotes(t, lied, salt, keys[0]), true}
	got, err := cold.Open(ctx, []string{"pylock:" + lock}, below)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.Layers[0].Stream(ctx, nil); !errors.Is(err, ErrRecord) {
		t.Errorf("a record of other bytes: %v, want ErrRecord", err)
	}
	cold.Cache.Distrust()
	if got, err = cold.Open(ctx, []string{"pylock:" + lock}, below); err != nil || !slices.Equal(diffIDs(got), diffIDs(img)) {
		t.Errorf("without it: %v, %v", diffIDs(got), err)
	}
	if used, err := cold.Cache.Used(); err != nil || len(used) != 4 || strings.Contains(string(used[1].Value), "sha256:1212") {
		t.Errorf("what it would tell: %d records, %v", len(used), err)
	}
}

// TestRecordsAreChecked: a record that a trusted publisher signed is still checked.
func TestRecordsAreChecked(t *testing.T) {
	good := Installed{Key: "k", Name: "n", DiffID: "sha256:" + strings.Repeat("0", 64), Size: 512}
	for what, spoil := range map[string]func(*Installed){
		"":                  func(*Installed) {},
		"another key":       func(in *Installed) { in.Key = "x" },
		"no size":           func(in *Installed) { in.Size = 0 },
		"too large":         func(in *Installed) { in.Size = maxLayerBytes + 1 },
		"no name":           func(in *Installed) { in.Name = "" },
		"an import's paths": func(in *Installed) { in.Import = importOf("../x") },
		"an absolute path":  func(in *Installed) { in.Import = importOf("/x") },
	} {
		in := good
		spoil(&in)
		b, err := json.Marshal(&in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRecord(b, "k"); (err == nil) != (what == "") {
			t.Errorf("%q: %v", what, err)
		}
	}
	if _, err := parseRecord([]byte("{"), "k"); err == nil {
		t.Error("what is no JSON was taken")
	}
}
