package generation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish puts an image into a generation, with all that leads to it.
func publish(t *testing.T, o origin.Origin, g origin.GenerationID, name string, i *blockmaptest.Image) {
	t.Helper()
	s, info := o.Generation(g), i.Map.Info()
	check(t, i.Put(ctx, s))
	for _, key := range []string{catalog.DigestKey(info.Source), catalog.DigestKey(info.Disk), catalog.ChainPrefix(info.ChainID) + "1/0/default"} {
		_, err := catalog.Set(ctx, s, key, i.Digest())
		check(t, err)
	}
	_, err := catalog.SetName(ctx, s, name, i.Digest())
	check(t, err)
}

// renew makes a new generation and returns its id.
func renew(t *testing.T, o origin.Origin) origin.GenerationID {
	t.Helper()
	id, err := New(ctx, o, mustLoad(t, o).Active(), t0)
	check(t, err)
	return id
}

func advance(t *testing.T, o origin.Origin, id origin.GenerationID, states ...State) {
	t.Helper()
	for _, s := range states {
		check(t, Advance(ctx, o, id, s-1, s, t0))
	}
}

// wantName checks where a name leads; nil is nowhere.
func wantName(t *testing.T, v *View, name string, want *blockmaptest.Image) {
	t.Helper()
	d, err := v.Find(ctx, name)
	switch {
	case want == nil && !errors.Is(err, chunk.ErrNotFound):
		t.Errorf("%s leads to %v, %v; want ErrNotFound", name, d, err)
	case want != nil && (err != nil || d != want.Digest()):
		t.Errorf("%s leads to %v, %v; want %v", name, d, err, want.Digest())
	}
}

func TestViewShowsTheNewest(t *testing.T) {
	o := memory.New()
	a, b := blockmaptest.Small(1, 2), blockmaptest.Small(2, 2)
	publish(t, o, 1, "x", a)
	publish(t, o, 1, "old", a)
	g2 := renew(t, o)
	publish(t, o, g2, "x", b)
	v := NewView(o, Options{})
	wantName(t, v, "x", b)
	wantName(t, v, "old", a)
	wantName(t, v, "none", nil)

	names := map[string]origin.Digest{}
	check(t, v.Names(ctx, func(name string, d origin.Digest) error {
		names[name] = d
		return nil
	}))
	if want := map[string]origin.Digest{"x": b.Digest(), "old": a.Digest()}; !maps.Equal(names, want) {
		t.Errorf("names %v, want %v", names, want)
	}
	info := a.Map.Info()
	for _, d := range []origin.Digest{a.Digest(), info.Disk, info.Source} {
		wantName(t, v, d.String(), a)
		wantName(t, v, chunk.ID(d).String(), a)
	}
	wantName(t, v, origin.Sum(nil).String(), nil)
	if _, err := v.Find(ctx, "a//b"); err == nil || errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a name that cannot be: %v", err)
	}

	i, err := v.Open(ctx, "x")
	if err != nil || i.Generation() != g2 || i.Map.Digest() != b.Digest() {
		t.Errorf("Open = %v, %v", i, err)
	}
	check(t, v.Remove(ctx, "x")) // in both, so that the old one does not show
	wantName(t, v, "x", nil)
	if err := v.Remove(ctx, "x"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if err := v.Remove(ctx, "a//b"); err == nil || errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a name that cannot be: %v", err)
	}
}

func TestViewPassesOverBrokenNames(t *testing.T) {
	o := memory.New()
	a := blockmaptest.Small(1, 1)
	publish(t, o, 1, "good", a)
	check(t, o.Generation(1).SwapPointer(ctx, catalog.NameKey("bad"), nil, []byte("nonsense")))
	var names []string
	err := NewView(o, Options{}).Names(ctx, func(name string, _ origin.Digest) error {
		names = append(names, name)
		return nil
	})
	if !slices.Equal(names, []string{"good"}) || !errors.Is(err, catalog.ErrPointer) {
		t.Errorf("names %v, %v", names, err)
	}
}

// TestChain finds images by their chain ID, the newest generation's first.
func TestChain(t *testing.T) {
	o := memory.New()
	a, b := blockmaptest.Small(1, 1), blockmaptest.Small(2, 1)
	publish(t, o, 1, "a", a)
	chain := a.Map.Info().ChainID
	g2 := renew(t, o)
	set := func(g origin.GenerationID, name string, d origin.Digest) {
		t.Helper()
		_, err := catalog.Set(ctx, o.Generation(g), catalog.ChainPrefix(chain)+name, d)
		check(t, err)
	}
	set(g2, "1/0/default", b.Digest())
	set(g2, "1/0/again", b.Digest())
	v := NewView(o, Options{})
	got, err := v.Chain(ctx, chain)
	if want := []origin.Digest{b.Digest(), a.Digest()}; err != nil || !slices.Equal(got, want) {
		t.Errorf("found %v, %v, want %v", got, err, want)
	}
	if _, err := v.Chain(ctx, origin.Sum(nil)); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("an unknown chain ID: %v", err)
	}
	for n := range MaxChain + 1 {
		set(g2, fmt.Sprintf("2/%d", n), origin.Sum([]byte{byte(n)}))
	}
	if got, err := v.Chain(ctx, chain); err != nil || len(got) != MaxChain {
		t.Errorf("found %d, %v, want %d", len(got), err, MaxChain)
	}
}

// TestNameLeadsNowhere has a name whose image is not there: an older image of
// that name is not what is meant.
func TestNameLeadsNowhere(t *testing.T) {
	o := memory.New()
	publish(t, o, 1, "x", blockmaptest.Small(1, 1))
	g2 := renew(t, o)
	_, err := catalog.SetName(ctx, o.Generation(g2), "x", origin.Sum(nil))
	check(t, err)
	if i, err := NewView(o, Options{}).Open(ctx, "x"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Open = %v, %v", i, err)
	}
}

func TestImageIsASource(t *testing.T) {
	o := memory.New()
	img := blockmaptest.New(1, chunktest.Objects(1)[:6]...)
	publish(t, o, 1, "x", img)
	i, err := NewView(o, Options{}).Open(ctx, "x")
	check(t, err)
	// A chunk that is missing from an image that is there is worth an alarm.
	chunktest.TestSource(t, i, img.Chunks)
	alarms, err := Alarms(ctx, o)
	if err != nil || len(alarms) != 1 || alarms[0].Reason != ReasonMissing {
		t.Errorf("alarms %+v, %v", alarms, err)
	}
}

// A recorder counts what a view tells of alarms.
type recorder struct {
	mu     sync.Mutex
	alarms []Alarm
	log    strings.Builder
}

func (r *recorder) options(now *time.Time) Options {
	return Options{
		Who: "test", Look: time.Minute, Now: func() time.Time { return *now },
		Logger: slog.New(slog.NewTextHandler(&r.log, nil)),
		OnAlarm: func(a Alarm) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.alarms = append(r.alarms, a)
		},
	}
}

func readAll(i *Image, img *blockmaptest.Image) error {
	for _, c := range img.Chunks {
		b := make([]byte, len(c.Bytes))
		if _, err := i.Fetch(ctx, c.ID, b, 0); err != nil {
			return err
		}
		if _, err := chunk.Verify(c.ID, b); err != nil {
			return err
		}
		if _, err := i.Stat(ctx, c.ID); err != nil {
			return err
		}
		if _, err := i.Request(ctx, c.ID); !errors.Is(err, origin.ErrNoRequest) { // memory's answer, whichever generation's
			return fmt.Errorf("request: %w", err)
		}
	}
	return nil
}

// TestImageFollows takes the generation away that a reader reads.
func TestImageFollows(t *testing.T) {
	o, now := memory.New(), t0
	img := blockmaptest.Small(1, 3)
	publish(t, o, 1, "x", img)
	check(t, o.Generation(1).Attach(ctx, img.Digest(), "age", []byte("key")))
	var r recorder
	i, err := NewView(o, r.options(&now)).Attach(ctx, "x")
	check(t, err)
	g2 := renew(t, o)
	f := Forwarder{Origin: o}
	_, err = f.Forward(ctx, img.Digest(), 1, g2)
	check(t, err)
	check(t, readAll(i, img))
	if i.Generation() != 1 {
		t.Errorf("followed to %v before it was time", i.Generation())
	}
	now = now.Add(time.Minute)
	check(t, readAll(i, img))
	if i.Generation() != g2 {
		t.Errorf("did not follow when it was time: %v", i.Generation())
	}

	g3 := renew(t, o)
	_, err = f.Forward(ctx, img.Digest(), g2, g3)
	check(t, err)
	advance(t, o, 1, StateExpired, StateDeleted, StateErased)
	advance(t, o, g2, StateExpired, StateDeleted, StateErased)
	check(t, o.DeleteGeneration(ctx, g2, func(int) {}))
	check(t, readAll(i, img)) // by what is missing
	n := 0
	check(t, i.ListAttachments(ctx, "age", func([]byte) error { n++; return nil }))
	if i.Generation() != g3 || n != 1 {
		t.Errorf("in %v, %d attachments", i.Generation(), n)
	}
	if len(r.alarms) != 0 {
		t.Errorf("alarms %+v", r.alarms)
	}
}

func TestReadingExpiredRaisesAlarm(t *testing.T) {
	o, now := memory.New(), t0
	img := blockmaptest.Small(1, 3)
	publish(t, o, 1, "x", img)
	var r recorder
	v := NewView(o, r.options(&now))
	i, err := v.Open(ctx, "x")
	check(t, err)
	renew(t, o)
	advance(t, o, 1, StateExpired)
	now = now.Add(time.Hour)
	check(t, readAll(i, img))
	_, err = v.Open(ctx, "x") // again, by the same process
	check(t, err)
	_, err = NewView(o, Options{}).Open(ctx, "x") // and by another
	check(t, err)
	alarms, err := Alarms(ctx, o)
	check(t, err)
	if len(alarms) != 1 || alarms[0].Who != "test" || alarms[0].Generation != 1 || alarms[0].Reason != ReasonExpired || !alarms[0].Time.Equal(now) || alarms[0].Image != img.Digest().String() {
		t.Errorf("alarms at the origin: %+v", alarms)
	}
	if len(r.alarms) != 1 || strings.Count(r.log.String(), "ERROR") != 1 {
		t.Errorf("told %d times, log %s", len(r.alarms), r.log.String())
	}
	check(t, Clear(ctx, o, alarms[0].Name))
	if alarms, err := Alarms(ctx, o); err != nil || len(alarms) != 0 {
		t.Errorf("cleared: %+v, %v", alarms, err)
	}
	if err := Clear(ctx, o, "1/none"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("clear what is not there: %v", err)
	}
}

// TestImageInAClosedGeneration is read on while the collector takes its last
// look, which the alarm ends.
func TestImageInAClosedGeneration(t *testing.T) {
	o, now := memory.New(), t0
	img := blockmaptest.Small(1, 3)
	publish(t, o, 1, "x", img)
	var r recorder
	i, err := NewView(o, r.options(&now)).Open(ctx, "x")
	check(t, err)
	renew(t, o)
	advance(t, o, 1, StateExpired, StateDeleted)
	now = now.Add(time.Hour)
	check(t, readAll(i, img))
	if alarms, err := Alarms(ctx, o); err != nil || len(alarms) != 1 || alarms[0].Reason != ReasonExpired {
		t.Errorf("alarms %+v, %v", alarms, err)
	}
}

func TestImageThatIsGone(t *testing.T) {
	o, now := memory.New(), t0
	img := blockmaptest.Small(1, 1)
	publish(t, o, 1, "x", img)
	var r recorder
	i, err := NewView(o, r.options(&now)).Open(ctx, "x")
	check(t, err)
	renew(t, o)
	advance(t, o, 1, StateExpired, StateDeleted, StateErased)
	check(t, o.DeleteGeneration(ctx, 1, func(int) {}))
	if err := readAll(i, img); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("read: %v", err)
	}
	if len(r.alarms) != 1 || r.alarms[0].Reason != ReasonGone {
		t.Errorf("alarms %+v", r.alarms)
	}
}

func TestUnreadableAlarmIsOne(t *testing.T) {
	o := memory.New()
	check(t, o.SwapPointer(ctx, "alarms/1/x", nil, []byte("{")))
	alarms, err := Alarms(ctx, o)
	if err != nil || len(alarms) != 1 || alarms[0].Name != "1/x" {
		t.Errorf("alarms %+v, %v", alarms, err)
	}
}

// readOnly is an origin whose pointers cannot be changed.
type readOnly struct{ origin.Origin }

func (readOnly) SwapPointer(context.Context, string, []byte, []byte) error {
	return fmt.Errorf("swap pointer: %w", fs.ErrPermission)
}

func TestReaderThatCannotWrite(t *testing.T) {
	o, now := memory.New(), t0
	img := blockmaptest.Small(1, 1)
	publish(t, o, 1, "x", img)
	renew(t, o)
	advance(t, o, 1, StateExpired)
	var r recorder
	i, err := NewView(readOnly{o}, r.options(&now)).Attach(ctx, "x")
	check(t, err)
	check(t, readAll(i, img))
	for _, want := range []string{"not marked", "could not be kept"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log does not say %q: %s", want, r.log.String())
		}
	}
}

func marks(t *testing.T, o origin.Pointers) map[origin.Digest]time.Time {
	t.Helper()
	got := map[origin.Digest]time.Time{}
	check(t, Marks(ctx, o, t0, func(d origin.Digest, of time.Time) error {
		got[d] = of
		return nil
	}))
	return got
}

func TestMarks(t *testing.T) {
	counting := &swaps{Origin: memory.New()}
	d, midnight := origin.Sum([]byte("x")), t0.Truncate(24*time.Hour)
	for _, c := range []struct {
		at    time.Time
		day   time.Time
		swaps int
	}{
		{t0, midnight, 1},
		{t0.Add(time.Hour), midnight, 1},
		{t0.Add(24 * time.Hour), midnight.Add(24 * time.Hour), 2},
		{t0, midnight.Add(24 * time.Hour), 2}, // a clock that is behind
	} {
		check(t, Mark(ctx, counting, d, c.at))
		if got := marks(t, counting)[d]; !got.Equal(c.day) || counting.n != c.swaps {
			t.Errorf("marked at %v: %v after %d writes; want %v, %d", c.at, got, counting.n, c.day, c.swaps)
		}
	}
	check(t, Unmark(ctx, counting, d, midnight)) // it is newer
	if len(marks(t, counting)) != 1 {
		t.Error("a mark that was renewed is gone")
	}
	check(t, Unmark(ctx, counting, d, midnight.Add(24*time.Hour)))
	if len(marks(t, counting)) != 0 {
		t.Error("the mark is still there")
	}
	check(t, counting.SwapPointer(ctx, "marks/"+chunk.ID(d).String(), nil, []byte("nonsense")))
	check(t, counting.SwapPointer(ctx, "marks/nonsense", nil, []byte("nonsense")))
	if got := marks(t, counting); len(got) != 1 || !got[d].Equal(t0) {
		t.Errorf("a mark that cannot be understood: %v", got)
	}
}

// swaps counts the pointers that are written.
type swaps struct {
	origin.Origin
	n int
}

func (s *swaps) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	s.n++
	return s.Origin.SwapPointer(ctx, name, old, new)
}

func TestPins(t *testing.T) {
	o, now := memory.New(), t0
	img := blockmaptest.Small(1, 1)
	publish(t, o, 1, "x", img)
	var r recorder
	v := NewView(o, r.options(&now))
	for range 2 { // once more changes nothing
		_, err := v.Pin(ctx, "x")
		check(t, err)
		now = now.Add(time.Hour)
	}
	pins, err := Pins(ctx, o)
	if want := (Pin{Image: img.Digest(), Time: t0, Who: "test", Ref: "x"}); err != nil || !slices.Equal(pins, []Pin{want}) {
		t.Errorf("pins %+v, %v; want %+v", pins, err, want)
	}
	check(t, Unpin(ctx, o, img.Digest()))
	if err := Unpin(ctx, o, img.Digest()); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("unpin again: %v", err)
	}
	if _, err := v.Pin(ctx, "none"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("pin what is not there: %v", err)
	}
	if pins, err := Pins(ctx, o); err != nil || len(pins) != 0 {
		t.Errorf("pins %+v, %v", pins, err)
	}
}

// TestKeepMarksUntilTold also shows that Keep ends with its context.
func TestKeepMarksUntilTold(t *testing.T) {
	o, now := memory.New(), t0
	img := blockmaptest.Small(1, 1)
	publish(t, o, 1, "x", img)
	var r recorder
	i, err := NewView(o, r.options(&now)).Open(ctx, "x")
	check(t, err)
	kctx, cancel := context.WithCancel(ctx)
	cancel()
	i.Keep(kctx)
	done := make(chan struct{})
	kctx, cancel = context.WithCancel(ctx)
	go func() { defer close(done); i.Keep(kctx) }()
	for len(marks(t, o)) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
}
