package plot_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/plot"
)

// draw returns the picture of p, the paths in it by colour, and all of its text.
func draw(t *testing.T, p *profile.Profile) (svg string, paths map[string]string, text string) {
	t.Helper()
	var b, again bytes.Buffer
	if err := errors.Join(plot.SVG(&b, p), plot.SVG(&again, p)); err != nil {
		t.Fatal(err)
	}
	if b.String() != again.String() {
		t.Error("drawn twice, it looks otherwise")
	}
	paths = map[string]string{}
	dec := xml.NewDecoder(strings.NewReader(b.String()))
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return b.String(), paths, text
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		switch x := token.(type) {
		case xml.CharData:
			text += string(x)
		case xml.StartElement:
			attrs := map[string]string{}
			for _, a := range x.Attr {
				attrs[a.Name.Local] = a.Value
			}
			switch x.Name.Local {
			case "path":
				paths[attrs["fill"]] += attrs["d"]
			case "script", "image", "a":
				t.Errorf("there is an element %s", x.Name.Local)
			}
		}
	}
}

var corner = regexp.MustCompile(`M(\d+) (\d+)`)

func TestSVG(t *testing.T) {
	p := &profile.Profile{Workload: `<script>"&`, Starts: 4, Length: 10 * time.Second, Entries: []profile.Entry{
		{Frame: profile.Frame{Chunk: 0}, Starts: 4, At: 0},
		{Frame: profile.Frame{Chunk: 999}, Starts: 4, At: 10*time.Second - 1, Waited: time.Second},
		{Frame: profile.Frame{Chunk: 500}, Starts: 1, At: 5 * time.Second},
		{Frame: profile.Frame{Chunk: 500, Number: 1}, Starts: 1, At: 5 * time.Second},
	}}
	if got, want := plot.Summarize(p), (plot.Summary{Hits: 1, Waits: 1, Rare: 2, Waited: time.Second}); got != want {
		t.Errorf("summary %+v, want %+v", got, want)
	}
	_, paths, text := draw(t, p)
	for _, want := range []string{`<script>"&: 4 frames, 4 starts`, "1 at hand", "1 waited for", "2 read by fewer"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q: %s", want, text)
		}
	}
	// Hit at the top left, wait at the bottom right with a bar below it, rare between.
	at := func(color string, i int) (x, y int) {
		all := corner.FindAllStringSubmatch(paths[color], -1)
		if i >= len(all) {
			t.Fatalf("%s: no mark %d in %q", color, i, paths[color])
		}
		x, _ = strconv.Atoi(all[i][1])
		y, _ = strconv.Atoi(all[i][2])
		return x, y
	}
	hx, hy := at("#2b6cb0", 0)
	wx, wy := at("#dd6b20", 0)
	bx, by := at("#dd6b20", 1)
	rx, ry := at("#b0b0b0", 0)
	if hx >= rx || rx >= wx || hy >= ry || ry >= wy || bx != wx || by <= wy {
		t.Errorf("marks at %d,%d %d,%d %d,%d, bar at %d,%d", hx, hy, rx, ry, wx, wy, bx, by)
	}
	if n := strings.Count(paths["#b0b0b0"], "M"); n != 1 {
		t.Errorf("two frames of one chunk at one time are %d marks", n)
	}
}

// TestExtremes: neither nothing nor all that a profile can have is too much.
func TestExtremes(t *testing.T) {
	draw(t, &profile.Profile{Workload: "\x00\xff\ufffe"})
	p := &profile.Profile{Starts: 2, Length: profile.MaxTime}
	for i := range profile.MaxEntries {
		p.Entries = append(p.Entries, profile.Entry{
			Frame: profile.Frame{Chunk: uint32(i * 64)}, Starts: uint32(i%2 + 1), At: profile.MaxTime / profile.MaxEntries * time.Duration(i*7919%profile.MaxEntries),
			Waited: time.Duration(i % 3),
		})
	}
	if svg, _, _ := draw(t, p); len(svg) > 1<<20 {
		t.Errorf("%d bytes", len(svg))
	}
}

func TestWriteFails(t *testing.T) {
	full := errors.New("full")
	r, w := io.Pipe()
	_ = r.CloseWithError(full)
	if err := plot.SVG(w, &profile.Profile{}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}
