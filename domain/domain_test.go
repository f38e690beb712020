package domain

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/store/memory"
)

var ctx = context.Background()

func newIdentity(t testing.TB) *agewrap.Identities {
	t.Helper()
	ids, err := agewrap.CreateIdentity(filepath.Join(t.TempDir(), "identity"))
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func to(ids ...*agewrap.Identities) (list []seal.Recipient) {
	for _, i := range ids {
		list = append(list, i.Recipients()[0])
	}
	return list
}

func as(ids *agewrap.Identities) []seal.Unwrapper { return []seal.Unwrapper{ids} }

func mustCreate(t testing.TB, o origin.Pointers, name string, c Coding, who ...*agewrap.Identities) *seal.Salt {
	t.Helper()
	s, _, err := Create(ctx, o, name, c, to(who...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOpen(t *testing.T) {
	o, alice, eve := memory.New(), newIdentity(t), newIdentity(t)
	if _, _, err := Open(ctx, o, "default", as(alice)); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("an absent domain: %v; want ErrNotFound", err)
	}
	coding := Coding{Policy: seal.NeverCode}
	made := mustCreate(t, o, "default", coding, alice)
	got, state, err := Open(ctx, o, "default", as(alice))
	if err != nil || got.ID() != made.ID() || state != (State{"default", 1, made.ID(), coding}) {
		t.Errorf("Open = %v, %+v, %v; want %v", got, state, err, made)
	}
	if _, _, err := Open(ctx, o, "default", as(eve)); !errors.Is(err, ErrGranted) {
		t.Errorf("opened by somebody else: %v; want ErrGranted", err)
	}
	if _, _, err := Open(ctx, o, "default", nil); !errors.Is(err, ErrGranted) {
		t.Errorf("opened by nobody: %v; want ErrGranted", err)
	}
	if _, _, err := Create(ctx, o, "default", coding, to(alice)); !errors.Is(err, origin.ErrConflict) {
		t.Errorf("made again: %v; want ErrConflict", err)
	}
	if _, _, err := Create(ctx, o, "other", coding, nil); err == nil {
		t.Error("made for nobody")
	}
	if _, _, err := Create(ctx, o, "../x", coding, to(alice)); err == nil {
		t.Error("made by a name that is none")
	}
}

func TestRotateAndGrant(t *testing.T) {
	o, alice, bob := memory.New(), newIdentity(t), newIdentity(t)
	first := mustCreate(t, o, "d", Coding{}, alice)
	second, state, err := Rotate(ctx, o, first, to(alice))
	if err != nil || state.Epoch != 2 || second.Epoch() != 2 || second.ID() == first.ID() || state.Salt != second.ID() {
		t.Fatalf("Rotate = %v, %+v, %v", second, state, err)
	}
	for _, want := range []*seal.Salt{first, second} { // old ones go on being opened
		if got, err := Salt(ctx, o, "d", want.ID(), as(alice)); err != nil || got.ID() != want.ID() {
			t.Errorf("Salt = %v, %v; want %v", got, err, want)
		}
		if _, err := Salt(ctx, o, "d", want.ID(), as(bob)); !errors.Is(err, ErrGranted) {
			t.Errorf("before it was granted: %v; want ErrGranted", err)
		}
	}
	if _, _, err := Rotate(ctx, o, first, to(alice)); !errors.Is(err, origin.ErrConflict) {
		t.Errorf("rotated with the salt before: %v; want ErrConflict", err)
	}
	if err := Grant(ctx, o, second, as(bob), to(bob)); !errors.Is(err, ErrGranted) {
		t.Errorf("granted by somebody who cannot open it: %v; want ErrGranted", err)
	}
	for range 2 {
		if err := Grant(ctx, o, second, as(alice), to(bob)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []*seal.Salt{first, second} {
		if got, err := Salt(ctx, o, "d", want.ID(), as(bob)); err != nil || got.ID() != want.ID() {
			t.Errorf("after it was granted: %v, %v; want %v", got, err, want)
		}
		who, err := Recipients(ctx, o, "d", want.ID())
		granted, strangers, err2 := Granted(ctx, o, want)
		if err != nil || err2 != nil || len(who) != 2 || !slices.Contains(who, bob.Recipients()[0].String()) || !slices.Equal(who, granted) || strangers != nil {
			t.Errorf("recipients %q, %v; granted %q and %q, %v; want two", who, err, granted, strangers, err2)
		}
	}
	if list, err := Salts(ctx, o, "d"); err != nil || len(list) != 2 {
		t.Errorf("salts %x, %v; want two", list, err)
	}
}

// Of several that rotate at once, one has the epoch, and what it returned is the
// domain's salt.
func TestRotateAtOnce(t *testing.T) {
	o, alice := memory.New(), newIdentity(t)
	first := mustCreate(t, o, "d", Coding{}, alice)
	var wg sync.WaitGroup
	won := make(chan blockmap.SaltID, 8)
	for range cap(won) {
		wg.Go(func() {
			s, _, err := Rotate(ctx, o, first, to(alice))
			if err == nil {
				won <- s.ID()
			} else if !errors.Is(err, origin.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, state, err := Open(ctx, o, "d", as(alice))
	if err != nil || len(won) != 1 || state.Epoch != 2 || state.Salt != <-won {
		t.Errorf("%+v, %v after %d won; want one", state, err, len(won))
	}
}

// A store that puts another salt, or another key, in place of the right one gets
// an error, and no use of it.
func TestSwappedPointers(t *testing.T) {
	alice, mallory := newIdentity(t), newIdentity(t)
	for what, spoil := range map[string]func(o origin.Pointers, s *seal.Salt, swap func(name string, value []byte)){
		"salt of another domain": func(o origin.Pointers, s *seal.Salt, swap func(string, []byte)) {
			other := mustCreate(t, o, "m", Coding{}, alice, mallory)
			value, err := o.GetPointer(ctx, saltPointer("m", other.ID()))
			if err != nil {
				t.Fatal(err)
			}
			swap(saltPointer("d", s.ID()), value)
		},
		"state that names a salt of another domain": func(o origin.Pointers, _ *seal.Salt, swap func(string, []byte)) {
			other := mustCreate(t, o, "m", Coding{}, alice)
			swap(pointer("d"), State{Name: "d", Epoch: 1, Salt: other.ID()}.proved(other))
		},
		"salt of another domain, whole": func(o origin.Pointers, _ *seal.Salt, swap func(string, []byte)) {
			other := mustCreate(t, o, "m", Coding{}, alice, mallory)
			plant(t, o, "m", "d", other)
			swap(pointer("d"), State{Name: "d", Epoch: 1, Salt: other.ID()}.proved(other))
		},
		"state without its salt": func(_ origin.Pointers, s *seal.Salt, swap func(string, []byte)) {
			swap(pointer("d"), State{Name: "d", Epoch: 1, Salt: blockmap.SaltID{1}}.proved(s))
		},
		"another epoch": func(_ origin.Pointers, s *seal.Salt, swap func(string, []byte)) {
			swap(pointer("d"), State{Name: "d", Epoch: 2, Salt: s.ID()}.proved(s))
		},
		"another coding, by somebody without the salt": func(o origin.Pointers, s *seal.Salt, swap func(string, []byte)) {
			other := mustCreate(t, o, "m", Coding{}, mallory)
			swap(pointer("d"), State{Name: "d", Epoch: 1, Salt: s.ID(), Coding: Coding{Policy: seal.NeverCode}}.proved(other))
		},
		"garbage": func(_ origin.Pointers, _ *seal.Salt, swap func(string, []byte)) { swap(pointer("d"), []byte("x\n")) },
		"garbage for salt": func(_ origin.Pointers, s *seal.Salt, swap func(string, []byte)) {
			swap(saltPointer("d", s.ID()), []byte("x"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			o := memory.New()
			s := mustCreate(t, o, "d", Coding{}, alice)
			spoil(o, s, func(name string, value []byte) {
				old, err := o.GetPointer(ctx, name)
				if err == nil {
					err = o.SwapPointer(ctx, name, old, value)
				}
				if err != nil {
					t.Fatal(err)
				}
			})
			if got, _, err := Open(ctx, o, "d", as(alice)); err == nil || errors.Is(err, chunk.ErrNotFound) {
				t.Errorf("Open = %v, %v; want an error other than ErrNotFound, for the domain is there", got, err)
			}
		})
	}
}

func TestCoding(t *testing.T) {
	for text, want := range map[string]Coding{
		"raw": {Policy: seal.NeverCode}, "zstd": {}, "zstd fastest": {Level: zstd.SpeedFastest},
		"zstd default": {Level: zstd.SpeedDefault}, "zstd better": {Level: zstd.SpeedBetterCompression}, "zstd best": {Level: zstd.SpeedBestCompression},
	} {
		if got, err := ParseCoding(text); err != nil || got != want || got.String() != text {
			t.Errorf("ParseCoding(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "lz4", "zstd ", "zstd  best", "raw best", "zstd Best", "ZSTD", "zstd 3"} {
		if got, err := ParseCoding(bad); err == nil {
			t.Errorf("ParseCoding(%q) = %+v", bad, got)
		}
	}
	o, alice := memory.New(), newIdentity(t)
	s := mustCreate(t, o, "d", Coding{}, alice)
	if err := SetCoding(ctx, o, s, Coding{Policy: seal.NeverCode}); err != nil {
		t.Fatal(err)
	}
	if _, state, err := Open(ctx, o, "d", as(alice)); err != nil || state.Coding.Policy != seal.NeverCode || state.Salt != s.ID() {
		t.Errorf("after SetCoding: %+v, %v", state, err)
	}
}

func TestList(t *testing.T) {
	o, alice := memory.New(), newIdentity(t)
	mustCreate(t, o, "b", Coding{}, alice)
	mustCreate(t, o, "a", Coding{}, alice)
	var names []string
	if err := List(ctx, o, func(s State) error { names = append(names, s.Name); return nil }); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("List = %q, %v", names, err)
	}
}

// No pointer has the salt's secret in the clear.
func TestNothingInTheClear(t *testing.T) {
	o, alice := memory.New(), newIdentity(t)
	secret := string(mustCreate(t, o, "d", Coding{}, alice).Bytes()[28:60])
	n := 0
	err := o.ListPointers(ctx, "", func(name string) error {
		n++
		v, err := o.GetPointer(ctx, name)
		if strings.Contains(string(v), secret) {
			t.Errorf("pointer %s has the secret", name)
		}
		return err
	})
	if err != nil || n != 3 {
		t.Errorf("%d pointers, %v; want state, salt and one wrapped key", n, err)
	}
}

func FuzzParseState(f *testing.F) {
	s, _ := seal.NewSalt("d", 1)
	f.Add(State{Name: "d", Epoch: 1}.proved(s))
	f.Add([]byte("rivulet salt domain 1\nepoch 4294967295\nsalt 00\ncodec zstd best\nproof 00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, proof, err := parseState("d", b); err == nil && fmt.Sprintf("%sproof %x\n", s, proof) != string(b) {
			t.Errorf("%q parses and is written as %q", b, s)
		}
	})
}

func FuzzParseWrap(f *testing.F) {
	f.Add([]byte("age\nage1x\n00\ndata\nmore"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, ok := parseWrap(b); ok && string(w.value()) != string(b) {
			t.Errorf("%q parses and is written as %q", b, w.value())
		}
	})
}
