package host

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// TestStats reads two attachments of one disk; what they counted stays when they, and
// the disk, are gone.
func TestStats(t *testing.T) {
	s := newSite(t)
	h := s.start()
	first := s.attach(h, spec("tree", "a"))
	second := s.attach(h, spec("tree", "b"))
	a, _ := s.front.last("a")
	b, _ := s.front.last("b")
	buf := make([]byte, 100)
	for range 3 {
		if _, err := a.Device.ReadAt(buf, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := b.Device.ReadAt(buf, b.Device.Size()-5); n != 5 || err != io.EOF {
		t.Fatal(n, err)
	}
	if _, err := b.Device.ReadAt(buf, -1); err == nil {
		t.Fatal("a read at -1 has worked")
	}
	infos := h.List()
	if got := infos[0].Served; got != (Served{Reads: 3, Bytes: 300}) {
		t.Errorf("the first: %+v", got)
	}
	if got := infos[1].Served; got != (Served{Reads: 2, Bytes: 5, Errors: 1}) {
		t.Errorf("the second: %+v", got)
	}
	check := func(when string) {
		t.Helper()
		// A reader is answered a moment before its fetch is counted.
		eventually(t, when+": all is counted", func() bool {
			st := h.Stats()
			return st.Served[ServedKey{spec("", "").Frontend, "tree"}] == (Served{5, 305, 1, 0}) && len(st.Served) == 1 &&
				st.Disks.Reads == 4 && st.Disks.Bytes == 305 && st.Tiers[chunk.Origin].Had > 0 && st.Tiers[chunk.Origin].Reads.Total() > 0
		})
	}
	check("attached")
	for _, i := range append(first, second...) {
		if err := h.Detach(t.Context(), i.ID, true); err != nil {
			t.Fatal(err)
		}
		check("detached")
	}
	s.close(h)
}

// TestUnwell says what is not well of a host whose store is away.
func TestUnwell(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"))
	if list := h.Unwell(); len(list) != 0 {
		t.Errorf("unwell: %q", list)
	}
	s.close(h)
	s.broken.Store(-1)
	h = s.start()
	eventually(t, "the problem is told", func() bool { return len(h.Unwell()) == 1 && h.List()[0].Problem != "" })
	d := newDevice("x", 4096, 1)
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, errNotOpen) || d.served.served() != (Served{1, 0, 1, 1}) {
		t.Errorf("%v counts as %+v, want a hung read", err, d.served.served())
	}
	s.close(h)
}

// TestServedKeys counts apart what was attached first, by names of bounded length.
func TestServedKeys(t *testing.T) {
	g := gone{served: make(map[ServedKey]Served), images: make(map[string]bool)}
	seen := make(map[ServedKey]bool)
	for i := range 2 * MaxServedImages {
		seen[g.key(&Spec{Image: fmt.Sprint(i), Frontend: "x"})] = true
	}
	if len(seen) != MaxServedImages+1 || !seen[ServedKey{"x", OtherImages}] || !seen[ServedKey{"x", "0"}] {
		t.Errorf("%d keys", len(seen))
	}
	if k := g.key(&Spec{Image: "0", Frontend: "y"}); k != (ServedKey{"y", "0"}) {
		t.Errorf("an image that is known: %+v", k)
	}
	g.images = make(map[string]bool)
	if k := g.key(&Spec{Image: strings.Repeat("x", maxImageName-1) + "\u00e9\xff"}); k.Image != strings.Repeat("x", maxImageName-1) {
		t.Errorf("a long name: %q", k.Image)
	}
}
