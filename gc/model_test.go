package gc_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

var ctx = context.Background()

// The images of the model: of some chunks that they share.
var images = makeImages(5)

func makeImages(n int) []*blockmaptest.Image {
	list := make([]*blockmaptest.Image, n)
	for i := range list {
		list[i] = blockmaptest.New(uint64(i), chunktest.Random(uint64(i), 100, chunk.FrameSize),
			chunktest.Random(uint64((i+1)%n), 100, chunk.FrameSize))
	}
	return list
}

var imageNames = []string{"a", "b", "c"}

// policy moves generations fast, so that a reader that is slow to mark what it has
// found can find it gone.
var policy = gc.Policy{New: 12 * time.Hour, Retired: 6 * time.Hour, Soak: 6 * time.Hour, Forget: 72 * time.Hour, Recent: 4 * 24 * time.Hour}

// markLag is how long ago a reader's last mark may be: what Policy.Recent leaves
// when a mark is cut to its day and clocks differ by a day.
const markLag = 2 * 24 * time.Hour

// faults are the mistakes that tests of the model make on purpose.
type faults struct {
	skipSettle  bool  // publishers do not read the states again
	skipClaim   bool  // readers mark without reading the states again
	newestFirst bool  // names are removed from new generations before old ones
	collector   *bend // what collectors see wrongly
	stale       bool  // collectors do not look at a name a second time

	// What makes a mistake show sooner.
	slow string // actors that are seldom let go on, by the beginning of what they do
	mix  []int  // what else happens, by the numbers of world.event
}

// world is the model: what must hold, beside an origin where it has to.
type world struct {
	draw   func(n int) int // a number below n
	faults faults
	origin *memory.Origin
	now    time.Time
	actors []*actor
	steps  int
	failed error
	names  map[string]*nameState
	pins   map[origin.Digest]*pinState
	reads  map[*actor]*reading
	grants [][]byte // attached to images[0], which is always pinned
}

// nameState is what is known of a name.
type nameState struct {
	must     bool                   // a publication has succeeded, and nobody removes it
	mustNot  bool                   // it was removed, and nobody has published it since
	may      map[origin.Digest]bool // where it may lead if it must
	running  map[*int]origin.Digest // publications under way
	started  int                    // publications begun, ever
	removing int                    // removals under way
	removals int                    // removals begun or ended, ever
}

type pinState struct {
	must    bool
	changes int // unpinnings begun or ended
	busy    int // unpinnings under way
}

// reading is an attached reader, or one that is about to be.
type reading struct {
	image  *blockmaptest.Image // nil until attached
	marked time.Time
}

func newWorld(draw func(int) int, f faults) *world {
	w := &world{draw: draw, faults: f, origin: memory.New(), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := generation.New(ctx, w.origin, 0, w.now); err != nil {
		w.fail("%v", err)
	}
	w.names, w.pins, w.reads = map[string]*nameState{}, map[origin.Digest]*pinState{}, map[*actor]*reading{}
	for _, n := range imageNames {
		w.names[n] = &nameState{may: map[origin.Digest]bool{}, running: map[*int]origin.Digest{}, mustNot: true}
	}
	for _, i := range images {
		w.pins[i.Digest()] = &pinState{}
	}
	return w
}

func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf("step %d: "+format, append([]any{w.steps}, args...)...)
	}
}

// add starts an actor and lets it run to its first operation.
func (w *world) add(what string, body func(a *actor) error, ended func(err error)) {
	var a *actor
	a = start(what, body, func(err error) {
		delete(w.reads, a)
		if a.dead {
			err = errCrash // whatever it made of that
		}
		ended(err)
	})
	if a.wait() {
		w.actors = append(w.actors, a)
	}
}

// clock is the world's time as one process has it: up to half a day off.
func (w *world) clock() func() time.Time {
	skew := time.Duration(w.draw(25)-12) * time.Hour
	return func() time.Time { return w.now.Add(skew) }
}

func view(o origin.Origin, clock func() time.Time) *generation.View {
	return generation.NewView(o, generation.Options{Who: "model", Look: time.Hour, Now: clock})
}

// collected judges how a collector ended: it may be overtaken by others.
func (w *world) collected(err error) {
	if err != nil && !errors.Is(err, errCrash) && !errors.Is(err, generation.ErrState) && !errors.Is(err, chunk.ErrNotFound) {
		w.fail("collector: %v", err)
	}
}

// age lets time pass, unless a reader would be late with its mark.
func (w *world) age(d time.Duration) {
	for _, r := range w.reads {
		if w.now.Add(d).Sub(r.marked) > markLag {
			return
		}
	}
	w.now = w.now.Add(d)
}

// clear is a person who has looked at the alarms.
func (w *world) clear() {
	alarms, err := generation.Alarms(ctx, w.origin)
	if err != nil {
		w.fail("alarms: %v", err)
	}
	for _, a := range alarms {
		if a.Reason == generation.ReasonMissing || a.Reason == generation.ReasonGone {
			w.fail("alarm: %+v", a)
		}
		if err := generation.Clear(ctx, w.origin, a.Name); err != nil {
			w.fail("clear: %v", err)
		}
	}
}

// How long a world is played, and by how many at once.
const (
	events    = 300
	maxActors = 9
)

// event lets something happen: mostly a few steps of somebody, else something
// new.
func (w *world) event() {
	if len(w.actors) > 0 && (w.draw(4) > 0 || len(w.actors) >= maxActors) {
		k, burst := w.draw(len(w.actors)), 12
		switch {
		case w.faults.slow != "" && strings.HasPrefix(w.actors[k].what, w.faults.slow):
			if burst = 2; w.draw(4) > 0 {
				return
			}
		case w.draw(4) == 0:
			burst = 200
		}
		w.run(k, 1+w.draw(burst), w.draw(40) == 0)
		return
	}
	name := imageNames[w.draw(len(imageNames))]
	i := images[w.draw(len(images))]
	what := w.draw(16)
	if len(w.faults.mix) > 0 {
		what = w.faults.mix[w.draw(len(w.faults.mix))]
	}
	switch what {
	case 0, 1, 2:
		w.publish(name, i)
	case 3, 4:
		w.remove(name)
	case 5:
		w.read(name)
	case 6:
		w.read(i.Digest().String())
	case 7:
		w.pin(name)
	case 8:
		if i != images[0] {
			w.unpin(i)
		}
	case 9:
		w.grant()
	case 10:
		w.retire()
	case 11, 12:
		w.collect()
	case 13, 14:
		w.age(time.Duration(1+w.draw(30)) * time.Hour)
	case 15:
		w.clear()
	}
}

// run lets actor k do n operations, or, if crash, n-1 and then be killed.
func (w *world) run(k, n int, crash bool) {
	a := w.actors[k]
	for i := range n {
		w.steps++
		parked := a.step(crash && i == n-1)
		w.check()
		if !parked {
			w.actors = append(w.actors[:k], w.actors[k+1:]...)
			return
		}
		if w.failed != nil {
			return
		}
	}
}

// finish lets all actors go on to their end, or kills them.
func (w *world) finish(crash bool) {
	for n := 0; len(w.actors) > 0; n++ {
		w.run(n%len(w.actors), 1, crash)
	}
}

// play runs the model for a number of events and judges it.
func (w *world) play(events int) error {
	defer w.finish(true) // nobody is left behind, also when drawing panics
	w.publish("a", images[0])
	w.finish(false)
	w.pin("a")
	w.finish(false)
	for range events {
		if w.event(); w.failed != nil {
			break
		}
	}
	if w.failed == nil {
		w.finish(w.draw(2) == 0)
		w.settle()
	}
	return w.failed
}

func check(t interface {
	Helper()
	Fatalf(string, ...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// What happens when much is read, and when much is published: numbers of
// world.event.
var (
	muchRead      = []int{0, 3, 6, 6, 11, 11, 13, 13}
	muchPublished = []int{0, 0, 3, 10, 11, 11, 13, 15}
)

// TestModel plays publishers, readers, people and collectors that run at once,
// are slow, and are killed anywhere, against the model.
func TestModel(t *testing.T) {
	total := 0
	if underRace {
		if err := flag.Set("rapid.checks", "10"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		slow := rapid.SampledFrom([]string{"", "publish", "read", "gc", "rm", "pin", "grant"}).Draw(rt, "slow")
		mix := rapid.SampledFrom([][]int{nil, nil, muchRead, muchPublished}).Draw(rt, "mix")
		w := newWorld(func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }, faults{slow: slow, mix: mix})
		err := w.play(events)
		total += w.steps
		check(rt, err)
	})
	t.Logf("%d steps", total)
	if want := 100_000; total < want && !underRace && !testing.Short() && !t.Failed() {
		t.Errorf("%d steps, want at least %d", total, want)
	}
}

// TestModelNotices breaks a rule at a time, and expects the model to say so.
func TestModelNotices(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("a test of the test")
	}
	for _, c := range []struct {
		name string
		faults
	}{
		{"a publisher that does not read the states again", faults{skipSettle: true, slow: "publish", mix: muchPublished}},
		{"a reader that does not read the states again", faults{skipClaim: true, slow: "read", mix: muchRead}},
		{"names removed from new generations first", faults{newestFirst: true}},
		{"a name that is not looked at again", faults{stale: true}},
		{"a collector that sees no names", faults{collector: &bend{hide: hasPrefix("names/")}}},
		{"a collector that sees no marks", faults{collector: &bend{hide: hasPrefix("marks/")}, mix: muchRead}},
		{"a collector that sees no pins", faults{collector: &bend{hide: hasPrefix("pins/")}}},
		{"chunks that are not copied", faults{collector: &bend{noCopy: true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const worlds = 400
			for seed := range uint64(worlds) {
				rng := rand.New(rand.NewPCG(seed, 0))
				if err := newWorld(rng.IntN, c.faults).play(events); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("the model did not notice in %d worlds", worlds)
		})
	}
}

func hasPrefix(p string) func(origin.GenerationID, string) bool {
	return func(_ origin.GenerationID, name string) bool { return strings.HasPrefix(name, p) }
}
