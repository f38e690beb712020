package domain

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store/memory"
)

// plant copies all pointers of a salt to where another domain has its own: what
// whoever may write to a store can do.
func plant(t testing.TB, o origin.Pointers, from, to string, s *seal.Salt) {
	t.Helper()
	err := o.ListPointers(ctx, saltPointer(from, s.ID()), func(key string) error {
		value, err := o.GetPointer(ctx, key)
		if err == nil {
			err = o.SwapPointer(ctx, strings.Replace(key, pointer(from), pointer(to), 1), nil, value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A recipient that whoever may write to the store has added is told apart from
// those that were granted, and gets no salt by a rotation.
func TestPlantedRecipientIsAStranger(t *testing.T) {
	o, alice, bob, mallory := memory.New(), newIdentity(t), newIdentity(t), newIdentity(t)
	s := mustCreate(t, o, "d", Coding{}, alice)
	other := mustCreate(t, o, "m", Coding{}, mallory)
	for _, proof := range []string{"", "xyz", strings.Repeat("00", 32)} {
		w := &wrap{kind: "age", recipient: to(mallory)[0].String(), proof: proof, data: []byte("nothing")}
		if proof == "" {
			w.proof = w.proofBy(other)
		}
		at := saltPointer("d", s.ID()) + "/" + w.who()
		old, _ := o.GetPointer(ctx, at)
		if err := o.SwapPointer(ctx, at, old, w.value()); err != nil {
			t.Fatal(err)
		}
		granted, strangers, err := Granted(ctx, o, s)
		if err != nil || !slices.Equal(granted, []string{to(alice)[0].String()}) || !slices.Equal(strangers, []string{w.recipient}) {
			t.Errorf("proof %q: granted %q, strangers %q, %v", proof, granted, strangers, err)
		}
	}
	// Garbage, or a name that is taken, keeps nobody out.
	w := &wrap{kind: "age", recipient: to(bob)[0].String()}
	for at, value := range map[string]string{"/0": "garbage", "/" + w.who(): "age\n" + w.recipient + "\n\nplanted"} {
		if err := o.SwapPointer(ctx, saltPointer("d", s.ID())+at, nil, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Grant(ctx, o, s, as(alice), to(bob)); err != nil {
		t.Fatal(err)
	}
	if got, _, err := Open(ctx, o, "d", as(bob)); err != nil || got.ID() != s.ID() {
		t.Errorf("granted over a planted pointer: %v, %v", got, err)
	}
}

// A salt of one domain that lies in another is not granted with that one's.
func TestGrantOfAPlantedSalt(t *testing.T) {
	o, alice, bob := memory.New(), newIdentity(t), newIdentity(t)
	present := mustCreate(t, o, "d", Coding{}, alice)
	secret := mustCreate(t, o, "tenant", Coding{}, alice)
	plant(t, o, "tenant", "d", secret)
	if got, err := Salt(ctx, o, "d", secret.ID(), as(alice)); !errors.Is(err, ErrFormat) {
		t.Errorf("Salt = %v, %v; want ErrFormat", got, err)
	}
	if err := Grant(ctx, o, present, as(alice), to(bob)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "tenant"} {
		if got, err := Salt(ctx, o, name, secret.ID(), as(bob)); err == nil {
			t.Errorf("in domain %s: the tenant's salt was granted: %v", name, got)
		}
	}
}

func TestDescends(t *testing.T) {
	o, alice, mallory := memory.New(), newIdentity(t), newIdentity(t)
	first := mustCreate(t, o, "d", Coding{}, alice)
	line := []*seal.Salt{first}
	for range 3 {
		next, _, err := Rotate(ctx, o, line[len(line)-1], to(alice))
		if err != nil {
			t.Fatal(err)
		}
		line = append(line, next)
	}
	last := line[3]
	for i, s := range line {
		if ok, err := Descends(ctx, o, last, s.ID(), as(alice)); err != nil || !ok {
			t.Errorf("epoch 4 from %d: %v, %v", i+1, ok, err)
		}
		if ok, err := Descends(ctx, o, s, last.ID(), as(alice)); err != nil || ok != (i == 3) {
			t.Errorf("epoch %d from 4: %v, %v", i+1, ok, err)
		}
	}
	// Mallory begins an epoch with a salt of her own, that Alice can open.
	l, err := load(ctx, o, "d")
	if err != nil {
		t.Fatal(err)
	}
	l.Epoch++
	for what, before := range map[string]*seal.Salt{"none": nil, "one of her own": mustCreate(t, o, "m", Coding{}, mallory)} {
		forged, state, err := begin(ctx, o, l, before, to(alice, mallory))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := Open(ctx, o, "d", as(alice)); err != nil || got.ID() != state.Salt {
			t.Fatalf("salt after %s: %v, %v", what, got, err)
		}
		if ok, err := Descends(ctx, o, forged, last.ID(), as(alice)); err != nil || ok {
			t.Errorf("salt after %s: descends %v, %v", what, ok, err)
		}
		l, _ = load(ctx, o, "d")
	}
	if _, err := Descends(ctx, o, last, blockmap.SaltID{1}, as(alice)); err != nil {
		t.Errorf("from an unknown one: %v", err)
	}
	if err := o.SwapPointer(ctx, saltPointer("d", last.ID()), mustGet(t, o, saltPointer("d", last.ID())), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Descends(ctx, o, last, first.ID(), as(alice)); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("without its pointer: %v; want ErrNotFound", err)
	}
}

func mustGet(t testing.TB, o origin.Pointers, name string) []byte {
	t.Helper()
	b, err := o.GetPointer(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
