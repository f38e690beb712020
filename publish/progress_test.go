package publish

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// An unreadable store does not give out objects.
type unreadable struct{ origin.Store }

var errAway = errors.New("no route to host")

func (unreadable) GetObject(context.Context, origin.Digest, int64) ([]byte, error) {
	return nil, errAway
}

// TestUnreadIsTold: what is remembered and cannot be read counts as none, and is told once;
// what is not there is not.
func TestUnreadIsTold(t *testing.T) {
	ctx, place := context.Background(), memory.New()
	a, b := "dir:"+makeTree(t, 71, 5), "dir:"+makeTree(t, 72, 5)
	var said []string
	with := func(name string) Options {
		o := options(t, name)
		o.Progress = func(e Event) {
			if e.Note != "" {
				said = append(said, e.Note)
			}
		}
		return o
	}
	publishAs(t, place, with("a"), a, b)
	n := openNotes(t, place, with(""))
	if err := n.Put(ctx, "kind", "a", []byte("value")); err != nil {
		t.Fatal(err)
	}
	if got, _ := found(t, n, "none"); got != "" || said != nil {
		t.Fatalf("nothing is wrong: found %q, said %q", got, said)
	}

	away := wrapped{place, unreadable{place.Generation(1)}}
	if r := publishAs(t, away, with("b"), b, a); r.LayersKnown != 0 {
		t.Errorf("%d layers are known by records that cannot be read", r.LayersKnown)
	}
	n = openNotes(t, away, with(""))
	for range 2 {
		if got, _ := found(t, n, "a"); got != "" {
			t.Errorf("found %q in a note that cannot be read", got)
		}
	}
	if len(said) != 2 || !strings.HasPrefix(said[0], "the record of a layer") || !strings.HasPrefix(said[1], "what a publisher has noted") || !strings.Contains(said[1], errAway.Error()) {
		t.Errorf("said %q", said)
	}
}
