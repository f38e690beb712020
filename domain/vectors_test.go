package domain

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/store/memory"
)

var update = flag.Bool("update", false, "write the vectors of testdata anew")

// TestVectors opens the vectors of doc/format/origin.md: the pointers of a domain
// in its second epoch, whose first salt is that of seal/testdata. They have random
// numbers in them, so they are made once; seal's TestVectorScript has them checked
// by other programs.
func TestVectors(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	seals := filepath.Join("..", "seal", "testdata")
	first, err := seal.ParseSalt(read(filepath.Join(seals, "salt")))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := agewrap.ParseIdentities("identity", read(filepath.Join(seals, "identity")), nil)
	if err != nil {
		t.Fatal(err)
	}
	const state, locked, wrapped = "testdata/state", "testdata/salt", "testdata/wrap"
	names := func(id [16]byte) map[string]string {
		at := saltPointer(seal.DefaultDomain, id)
		return map[string]string{state: pointer(seal.DefaultDomain), locked: at, wrapped: at + "/" + wrapOf(to(ids)[0]).who()}
	}
	if *update {
		o := memory.New()
		s, _, err := begin(ctx, o, loaded{State: State{Name: seal.DefaultDomain, Epoch: 2}}, first, to(ids))
		if err != nil {
			t.Fatal(err)
		}
		for file, name := range names(s.ID()) {
			if err := os.WriteFile(file, mustGet(t, o, name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	parsed, _, err := parseState(seal.DefaultDomain, read(state))
	if err != nil {
		t.Fatal(err)
	}
	o := memory.New()
	for file, name := range names(parsed.Salt) {
		if err := o.SwapPointer(ctx, name, nil, read(file)); err != nil {
			t.Fatal(err)
		}
	}
	s, got, err := Open(ctx, listless{o}, seal.DefaultDomain, as(ids), to(ids)...)
	if err != nil || got != parsed || s.Epoch() != 2 {
		t.Fatalf("Open = %v, %v, %v", s, got, err)
	}
	if seal.Before(read(locked)) != first.ID() || !s.Succeeds(first, read(locked)) {
		t.Error("does not come after the first salt")
	}
	if granted, strangers, err := Granted(ctx, o, s); err != nil || len(granted) != 1 || len(strangers) != 0 {
		t.Errorf("granted to %v, strangers %v, %v", granted, strangers, err)
	}
}

// listless cannot list: one's own wrapped key is found by its name.
type listless struct{ *memory.Origin }

func (listless) ListPointers(context.Context, string, func(string) error) error {
	return origin.ErrNoListing
}
