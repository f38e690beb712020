package generation

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

var (
	ctx = context.Background()
	t0  = time.Date(2026, 11, 26, 9, 57, 19, 0, time.UTC)
)

const smallList = `rivulet generations 1
3 erased 2026-01-01T00:00:00Z 2026-03-01T00:00:00Z
4 expired 2026-02-01T00:00:00Z 2026-03-08T00:00:00Z
6 retired 2026-03-01T00:00:00Z 2026-04-01T00:00:00Z
7 active 2026-04-01T00:00:00Z 2026-04-01T00:00:00Z
`

func TestParse(t *testing.T) {
	l, err := Parse([]byte(smallList))
	if err != nil {
		t.Fatal(err)
	}
	if l.String() != smallList {
		t.Errorf("encodes to\n%s", l)
	}
	if l.Active() != 7 || !slices.Equal(l.Readable(), []origin.GenerationID{7, 6, 4}) {
		t.Errorf("active %v, readable %v", l.Active(), l.Readable())
	}
	for id, want := range map[origin.GenerationID]State{
		0: 0, 1: StateErased, 2: StateErased, 3: StateErased, 4: StateExpired, 5: 0, 6: StateRetired, 7: StateActive, 8: 0,
	} {
		if got := l.State(id); got != want {
			t.Errorf("state of %v is %v, want %v", id, got, want)
		}
	}
	if want := time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC); !l[1].Since.Equal(want) {
		t.Errorf("since %v, want %v", l[1].Since, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const line = "2026-04-01T00:00:00Z 2026-04-01T00:00:00Z\n"
	head := firstLine + "\n"
	for name, text := range map[string]string{
		"nothing":              "",
		"no generations":       head,
		"another version":      "rivulet generations 2\n1 active " + line,
		"no newline":           strings.TrimSuffix(smallList, "\n"),
		"too much":             smallList + "\n",
		"none active":          head + "1 retired " + line,
		"two active":           head + "1 active " + line + "2 active " + line,
		"active not last":      head + "1 active " + line + "2 retired " + line,
		"unknown state":        head + "1 frozen " + line,
		"id 0":                 head + "0 active " + line,
		"ids fall":             head + "2 retired " + line + "1 active " + line,
		"an id twice":          head + "1 retired " + line + "1 active " + line,
		"a younger one ahead":  head + "1 retired " + line + "2 expired " + line + "3 active " + line,
		"a field too many":     head + "1 active x " + line,
		"no date":              head + "1 active yesterday 2026-04-01T00:00:00Z\n",
		"another time zone":    head + "1 active 2026-04-01T00:00:00+01:00 2026-04-01T00:00:00Z\n",
		"parts of seconds":     head + "1 active 2026-04-01T00:00:00.5Z 2026-04-01T00:00:00Z\n",
		"longer than can be":   head + strings.Repeat("x", origin.MaxPointerBytes),
		"more than are listed": head + strings.Repeat("1 active "+line, MaxListed+1),
	} {
		if l, err := Parse([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
}

func TestListFits(t *testing.T) {
	l := make(List, MaxListed)
	for i := range l {
		l[i] = Entry{ID: 4_294_967_000 + origin.GenerationID(i), State: StateRetired, Created: t0, Since: t0}
	}
	l[MaxListed-1].State = StateActive
	if n := len(l.String()); n > origin.MaxPointerBytes {
		t.Errorf("the longest list has %d bytes, a pointer at most %d", n, origin.MaxPointerBytes)
	}
	if _, err := Parse([]byte(l.String())); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(smallList))
	f.Add([]byte(first(t0).String()))
	f.Add([]byte(firstLine + "\n1 active 0000-01-01T00:00:00Z 9999-12-31T23:59:59Z\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil {
			return
		}
		if l.String() != string(b) {
			t.Errorf("encodes to %q", l.String())
		}
		if l.State(l.Active()) != StateActive || len(l.Readable()) == 0 {
			t.Error("no active generation")
		}
	})
}

func mustLoad(t *testing.T, o origin.Pointers) List {
	t.Helper()
	l, err := Load(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestActiveMakesTheFirst(t *testing.T) {
	o := memory.New()
	if l := mustLoad(t, o); l.Active() != 1 {
		t.Errorf("without a list, %v is active", l.Active())
	}
	if _, err := o.GetPointer(ctx, Pointer); err == nil {
		t.Error("reading has written")
	}
	for range 2 {
		if id, err := Active(ctx, o); id != 1 || err != nil {
			t.Fatalf("Active = %v, %v", id, err)
		}
	}
	if v, err := o.GetPointer(ctx, Pointer); err != nil || !strings.HasPrefix(string(v), firstLine+"\n1 active ") {
		t.Errorf("list %q, %v", v, err)
	}
}

// TestNewOnce has many notice at once that a generation is old.
func TestNewOnce(t *testing.T) {
	o := memory.New()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if id, err := New(ctx, o, 1, t0); id != 2 || err != nil {
				t.Errorf("New = %v, %v", id, err)
			}
		})
	}
	wg.Wait()
	if l := mustLoad(t, o); len(l) != 2 || l.State(1) != StateRetired || l[0].Since != t0 {
		t.Errorf("list %v", l)
	}
}

func TestAdvance(t *testing.T) {
	for _, c := range []struct {
		id       origin.GenerationID
		from, to State
		ok       bool
	}{
		{6, StateRetired, StateExpired, true},
		{4, StateExpired, StateDeleted, true},
		{7, StateActive, StateRetired, false}, // New does that
		{7, StateRetired, StateExpired, false},
		{6, StateExpired, StateDeleted, false},
		{4, StateDeleted, StateErased, false},
		{4, StateExpired, StateErased, false},
		{3, StateErased, StateDeleted, false},
		{1, StateRetired, StateExpired, false},
		{9, StateRetired, StateExpired, false},
	} {
		o := memory.New()
		if err := o.SwapPointer(ctx, Pointer, nil, []byte(smallList)); err != nil {
			t.Fatal(err)
		}
		err := Advance(ctx, o, c.id, c.from, c.to, t0)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrState) {
			t.Errorf("%v from %v to %v: %v", c.id, c.from, c.to, err)
		}
		if l := mustLoad(t, o); c.ok && l.State(c.id) != c.to || !c.ok && l.String() != smallList {
			t.Errorf("%v from %v to %v: list %v", c.id, c.from, c.to, l)
		}
	}
}

// TestLife takes generations through all states, and tries each step out of
// turn.
func TestLife(t *testing.T) {
	o := memory.New()
	advance := func(id origin.GenerationID, from, to State) error { return Advance(ctx, o, id, from, to, t0) }
	for id := origin.GenerationID(1); id <= 3; id++ {
		if _, err := New(ctx, o, id, t0); err != nil {
			t.Fatal(err)
		}
	}
	if err := advance(2, StateRetired, StateExpired); !errors.Is(err, ErrState) {
		t.Errorf("2 expired before 1: %v", err)
	}
	for _, s := range []struct {
		id       origin.GenerationID
		from, to State
	}{
		{1, StateRetired, StateExpired}, {2, StateRetired, StateExpired}, {1, StateExpired, StateDeleted},
		{1, StateDeleted, StateExpired}, {1, StateExpired, StateDeleted},
	} {
		if err := advance(s.id, s.from, s.to); err != nil {
			t.Fatal(err)
		}
	}
	if err := advance(2, StateExpired, StateDeleted); !errors.Is(err, ErrState) {
		t.Errorf("2 deleted before 1 is erased: %v", err)
	}
	if err := advance(1, StateDeleted, StateErased); err != nil {
		t.Fatal(err)
	}
	if err := advance(2, StateExpired, StateDeleted); err != nil {
		t.Fatal(err)
	}
	if err := Forget(ctx, o, t0); err != nil {
		t.Fatal(err)
	}
	if l := mustLoad(t, o); len(l) != 4 {
		t.Errorf("forgot too soon: %v", l)
	}
	if err := Forget(ctx, o, t0.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if l := mustLoad(t, o); len(l) != 3 || l.State(1) != StateErased || l.State(2) != StateDeleted {
		t.Errorf("after forgetting: %v", l)
	}
}

func TestListIsBounded(t *testing.T) {
	o := memory.New()
	for id := origin.GenerationID(1); id < MaxListed; id++ {
		if _, err := New(ctx, o, id, t0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := New(ctx, o, MaxListed, t0); err == nil || !strings.Contains(err.Error(), "gc run") {
		t.Errorf("one generation too many: %v", err)
	}
	for _, s := range []State{StateExpired, StateDeleted, StateErased} {
		if err := Advance(ctx, o, 1, s-1, s, t0); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := New(ctx, o, MaxListed, t0); err != nil || id != MaxListed+1 {
		t.Errorf("when one is erased: %v, %v", id, err)
	}
	if l := mustLoad(t, o); len(l) != MaxListed || l.State(1) != StateErased {
		t.Errorf("%d listed, 1 is %v", len(l), l.State(1))
	}
}

func TestListIsReadOnlyByItsOwn(t *testing.T) {
	o := memory.New()
	text := []byte("rivulet generations 2\nwhatever that means\n")
	if err := o.SwapPointer(ctx, Pointer, nil, text); err != nil {
		t.Fatal(err)
	}
	_, errLoad := Load(ctx, o)
	_, errActive := Active(ctx, o)
	_, errNew := New(ctx, o, 1, t0)
	for _, err := range []error{errLoad, errActive, errNew, Forget(ctx, o, t0)} {
		if !errors.Is(err, ErrFormat) {
			t.Errorf("a list of another version: %v", err)
		}
	}
}
