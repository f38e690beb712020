package profile_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

var image = origin.Sum([]byte("image"))

// vector is the profile of doc/format/profile.md.
func vector() *profile.Profile {
	return &profile.Profile{
		Image: origin.Sum([]byte("image")), Workload: "redis-server --save ''", Starts: 4, Length: 2500 * time.Millisecond,
		Entries: []profile.Entry{
			{Frame: profile.Frame{Chunk: 0, Number: 0}, Starts: 4, At: 0, Waited: 31 * time.Millisecond},
			{Frame: profile.Frame{Chunk: 0, Number: 1}, Starts: 4, At: 2 * time.Millisecond},
			{Frame: profile.Frame{Chunk: 700, Number: 7}, Starts: 3, At: 64 * time.Millisecond, Waited: 1500 * time.Microsecond},
			{Frame: profile.Frame{Chunk: 699, Number: 0}, Starts: 1, At: 10 * time.Millisecond},
		},
	}
}

// predictedVector is the second one of the page.
func predictedVector() *profile.Profile {
	return &profile.Profile{
		Image: origin.Sum([]byte("image")), Starts: 1, Predicted: true,
		Entries: []profile.Entry{
			{Frame: profile.Frame{Chunk: 3, Number: 0}, Starts: 1},
			{Frame: profile.Frame{Chunk: 3, Number: 1}, Starts: 1, At: time.Microsecond},
		},
	}
}

func encode(t testing.TB, p *profile.Profile) []byte {
	t.Helper()
	b, err := p.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var hexLine = regexp.MustCompile(`(?m)^    ((?:[0-9a-f]{2,} ?)+)$`)

// TestVector compares with the bytes of the page.
func TestVector(t *testing.T) {
	page, err := os.ReadFile("../doc/format/profile.md")
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for _, line := range hexLine.FindAllStringSubmatch(string(page), -1) {
		digits.WriteString(strings.ReplaceAll(line[1], " ", ""))
	}
	recorded := encode(t, vector())
	predicted, headers := encode(t, predictedVector()), encode(t, headersVector())
	if want := hex.EncodeToString(slices.Concat(recorded, predicted, headers)); digits.String() != want {
		t.Fatalf("the page has\n%s, the code makes\n%s", &digits, want)
	}
	for b, want := range map[string]*profile.Profile{string(recorded): vector(), string(predicted): predictedVector(), string(headers): headersVector()} {
		p, err := profile.Parse([]byte(b))
		if err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("parsed: %+v, %v", p, err)
		}
	}
}

// TestMergePredicted: what was predicted is nothing beside starts, and the newest of
// its kind without.
func TestMergePredicted(t *testing.T) {
	guess := func(frame uint16) *profile.Profile {
		return &profile.Profile{Image: image, Starts: 1, Predicted: true, Entries: []profile.Entry{{Frame: profile.Frame{Number: frame}, Starts: 1}}}
	}
	start := (&profile.Recording{Image: image, Touches: []profile.Touch{{Frame: profile.Frame{Number: 7}}}}).Profile()
	for name, c := range map[string]struct {
		list []*profile.Profile
		want *profile.Profile
	}{
		"alone":  {[]*profile.Profile{guess(1)}, guess(1)},
		"two":    {[]*profile.Profile{guess(1), guess(2)}, guess(2)},
		"before": {[]*profile.Profile{guess(1), start}, start},
		"behind": {[]*profile.Profile{start, guess(1)}, start},
		"around": {[]*profile.Profile{guess(1), start, guess(2)}, start},
	} {
		if got, err := profile.Merge(c.list...); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	other := guess(1)
	other.Workload = "other"
	if _, err := profile.Merge(guess(1), other); !errors.Is(err, profile.ErrMismatch) {
		t.Errorf("of two workloads: %v", err)
	}
}

// TestExtremes: what lies at the bounds of the format is stored and read again.
func TestExtremes(t *testing.T) {
	p := &profile.Profile{Image: image, Workload: strings.Repeat("w", profile.MaxWorkloadBytes), Starts: profile.MaxStarts, Length: profile.MaxTime}
	for i := range uint32(profile.MaxEntries) {
		e := profile.Entry{Frame: profile.Frame{Chunk: i, Number: 1<<16 - 1}, Starts: 1, At: profile.MaxTime, Waited: profile.MaxTime}
		if i%2 == 0 {
			e.Chunk, e.At = 1<<23-1-i, 0
		}
		p.Entries = append(p.Entries, e)
	}
	b := encode(t, p)
	if len(b) > profile.MaxBytes {
		t.Fatalf("%d bytes, more than MaxBytes", len(b))
	}
	back, err := profile.Parse(b)
	if err != nil || !reflect.DeepEqual(back, p) {
		t.Errorf("not the same back, %v", err)
	}
}

func TestRefused(t *testing.T) {
	for name, change := range map[string]func(p *profile.Profile){
		"no starts":          func(p *profile.Profile) { p.Starts, p.Entries = 0, nil },
		"too many starts":    func(p *profile.Profile) { p.Starts = profile.MaxStarts + 1 },
		"control character":  func(p *profile.Profile) { p.Workload = "a\nb" },
		"no text":            func(p *profile.Profile) { p.Workload = "\xff" },
		"long name":          func(p *profile.Profile) { p.Workload = strings.Repeat("x", profile.MaxWorkloadBytes+1) },
		"negative length":    func(p *profile.Profile) { p.Length = -1 },
		"a part of a unit":   func(p *profile.Profile) { p.Entries[1].At = 1 },
		"negative time":      func(p *profile.Profile) { p.Entries[1].At = -time.Second },
		"waited too long":    func(p *profile.Profile) { p.Entries[1].Waited = profile.MaxTime + time.Second },
		"more than starts":   func(p *profile.Profile) { p.Entries[1].Starts = p.Starts + 1 },
		"in none":            func(p *profile.Profile) { p.Entries[1].Starts = 0 },
		"chunk out of range": func(p *profile.Profile) { p.Entries[1].Chunk = 1 << 23 },
		"frame twice":        func(p *profile.Profile) { p.Entries[1].Frame = p.Entries[0].Frame },
		"header twice": func(p *profile.Profile) {
			p.Headers = []profile.Header{{Chunk: 1, Header: header(1)}, {Chunk: 1, Header: header(2)}}
		},
		"header of no chunk": func(p *profile.Profile) { p.Headers = []profile.Header{{Chunk: 1 << 23, Header: header(1)}} },
		"no header":          func(p *profile.Profile) { p.Headers = []profile.Header{{Chunk: 1}} },
		"too many headers":   func(p *profile.Profile) { p.Headers = make([]profile.Header, profile.MaxHeaders+1) },
		"too many entries":   func(p *profile.Profile) { p.Entries = make([]profile.Entry, profile.MaxEntries+1) },
	} {
		p := vector()
		change(p)
		if b, err := p.AppendBinary([]byte("before")); !errors.Is(err, profile.ErrFormat) || string(b) != "before" {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	good := encode(t, vector())
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"something else":  []byte("rvprofX1" + strings.Repeat("x", 100)),
		"too long":        make([]byte, profile.MaxBytes+1),
		"a byte more":     append(slices.Clone(good), 0),
		"not shortest":    slices.Replace(slices.Clone(good), 41+22, 41+23, 0x84, 0),
		"billion entries": append(slices.Clone(good[:8+32]), 0, 1, 0, 0x80, 0x94, 0xeb, 0xdc, 3, 0, 0),
	} {
		if _, err := profile.Parse(b); !errors.Is(err, profile.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range good {
		if _, err := profile.Parse(good[:n]); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	other := slices.Clone(good)
	other[7] = '5'
	if _, err := profile.Parse(other); !errors.Is(err, profile.ErrVersion) {
		t.Errorf("version 5: %v", err)
	}
	other[7] = '3' // with headers, of which there are none
	if _, err := profile.Parse(other); !errors.Is(err, profile.ErrFormat) {
		t.Errorf("version 3: %v", err)
	}
	if _, err := profile.Parse(append(other, 0)); !errors.Is(err, profile.ErrFormat) {
		t.Errorf("no header in version 3: %v", err)
	}
	good = encode(t, headersVector())
	for n := range good {
		if _, err := profile.Parse(good[:n]); err == nil {
			t.Errorf("with headers, cut to %d bytes: accepted", n)
		}
	}
	if _, err := profile.Parse(append(slices.Clone(good), 0)); !errors.Is(err, profile.ErrFormat) {
		t.Errorf("a byte behind the headers: %v", err)
	}
	other[7] = '2' // predicted, of 4 starts
	if _, err := profile.Parse(other); !errors.Is(err, profile.ErrFormat) {
		t.Errorf("version 2: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	good, _ := vector().AppendBinary(nil)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(slices.Clone(good[:8+32]), 0, 1, 0, 0))
	f.Add(append(slices.Clone(good[:8+32]), 0, 1, 0, 1, 0, 0, 0, 0, 0))
	f.Add(append(slices.Clone(good[:8+32]), 0, 1, 0, 1, 0xfe, 0xff, 0xff, 7, 0xfe, 0xff, 7, 0, 0, 0))
	f.Add(append(slices.Clone(good[:8+32]), 0, 1, 0, 1, 1, 1, 0, 1, 0x80, 0))
	f.Add([]byte("rvprofl2"))
	guess, _ := predictedVector().AppendBinary(nil)
	f.Add(guess)
	headers, _ := headersVector().AppendBinary(nil)
	f.Add(headers)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := profile.Parse(b)
		if err != nil {
			return
		}
		again, err := p.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is encoded as %x, %v", b, again, err)
		}
		m, err := profile.Merge(p, p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.AppendBinary(nil); err != nil {
			t.Fatalf("merged with itself it cannot be stored: %v", err)
		}
	})
}

// recording is a start that reads the given frames of chunk 0, a millisecond after
// one another.
func recording(numbers ...uint16) *profile.Recording {
	r := &profile.Recording{Image: image, Workload: "w", Length: time.Second}
	for i, n := range numbers {
		r.Touches = append(r.Touches, profile.Touch{Frame: profile.Frame{Number: n}, At: time.Duration(i) * time.Millisecond})
	}
	return r
}

func numbers(p *profile.Profile) (list []uint16) {
	for i := range p.Entries {
		list = append(list, p.Entries[i].Number)
	}
	return list
}

func merge(t testing.TB, list ...*profile.Profile) *profile.Profile {
	t.Helper()
	m, err := profile.Merge(list...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRecording(t *testing.T) {
	r := recording(3, 1, 3, 2)
	r.Length, r.Touches[1].At, r.Touches[3].Waited = 100*time.Hour, -time.Second, 1500*time.Nanosecond
	p := r.Profile()
	want := &profile.Profile{Image: image, Workload: "w", Starts: 1, Length: profile.MaxTime, Entries: []profile.Entry{
		{Frame: profile.Frame{Number: 1}, Starts: 1}, // by time, then by place
		{Frame: profile.Frame{Number: 3}, Starts: 1},
		{Frame: profile.Frame{Number: 2}, Starts: 1, At: 3 * time.Millisecond, Waited: time.Microsecond},
	}}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v, want %+v", p, want)
	}
	encode(t, p)
	r = &profile.Recording{}
	for i := range profile.MaxEntries + 10 {
		r.Touches = append(r.Touches, profile.Touch{Frame: profile.Frame{Chunk: uint32(i)}})
	}
	if p := r.Profile(); len(p.Entries) != profile.MaxEntries {
		t.Errorf("%d entries", len(p.Entries))
	}
}

func TestMergeOrder(t *testing.T) {
	// 1 and 2 are always read, 9 at first in one of three.
	p := merge(t, recording(9, 1, 2).Profile(), recording(1, 2).Profile(), recording(2, 1).Profile())
	if got := numbers(p); !slices.Equal(got, []uint16{1, 2, 9}) {
		t.Errorf("order %v", got)
	}
	if e := p.Entries[0]; e.Starts != 3 || e.At != 666*time.Microsecond { // (1 + 0)/2, then (1 + 1)/3
		t.Errorf("entry %+v", e)
	}
	if p.Starts != 3 || !p.Rare(&p.Entries[2]) || p.Rare(&p.Entries[1]) {
		t.Errorf("profile %+v", p)
	}
}

// TestMergeForgets: a frame that few starts read goes, but one that starts read of
// late is learnt, however many there were before.
func TestMergeForgets(t *testing.T) {
	p := recording(1, 2, 77).Profile()
	for range 2 * profile.MaxStarts {
		p = merge(t, p, recording(1, 2).Profile())
		if p.Starts > profile.MaxStarts {
			t.Fatalf("%d starts", p.Starts)
		}
		encode(t, p)
	}
	if got := numbers(p); !slices.Equal(got, []uint16{1, 2}) {
		t.Errorf("of many starts: %v", got)
	}
	for range profile.MaxStarts {
		p = merge(t, p, recording(1, 5).Profile())
	}
	if got := numbers(p); len(got) < 2 || got[0] != 1 || got[1] != 5 {
		t.Errorf("what starts do now comes first: %v", got)
	}
	for range profile.MaxStarts {
		p = merge(t, p, recording(1, 5).Profile())
	}
	if got := numbers(p); !slices.Equal(got, []uint16{1, 5}) {
		t.Errorf("what they did long ago is still there: %v", got)
	}
}

// TestMergeOrderOfStarts merges the same starts in many orders and groups: the same
// frames come out, read as often, at about the same time.
func TestMergeOrderOfStarts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var list []*profile.Profile
	for range 7 {
		var read []uint16
		for n := range uint16(200) {
			if r.IntN(3) > 0 {
				read = append(read, n)
			}
		}
		list = append(list, recording(read...).Profile())
	}
	want := merge(t, list...)
	byFrame := map[profile.Frame]profile.Entry{}
	for _, e := range want.Entries {
		byFrame[e.Frame] = e
	}
	for range 20 {
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		cut := 1 + r.IntN(len(list)-1)
		got := merge(t, merge(t, list[:cut]...), merge(t, list[cut:]...))
		if got.Starts != want.Starts || len(got.Entries) != len(want.Entries) {
			t.Fatalf("%d starts, %d entries; want %d, %d", got.Starts, len(got.Entries), want.Starts, len(want.Entries))
		}
		for _, e := range got.Entries {
			w := byFrame[e.Frame]
			if d := e.At - w.At; e.Starts != w.Starts || d.Abs() > 10*time.Microsecond {
				t.Errorf("entry %+v, want %+v", e, w)
			}
		}
	}
}

func TestMergeOthers(t *testing.T) {
	a, b := recording(1).Profile(), recording(1).Profile()
	b.Workload = "other"
	c := recording(1).Profile()
	c.Image = origin.Sum(nil)
	for _, list := range [][]*profile.Profile{nil, {a, b}, {a, c}} {
		if _, err := profile.Merge(list...); !errors.Is(err, profile.ErrMismatch) {
			t.Errorf("merge of %d: %v", len(list), err)
		}
	}
	before := encode(t, a)
	merge(t, a, recording(1, 2, 3).Profile())
	if !bytes.Equal(encode(t, a), before) {
		t.Error("merging changed what was given")
	}
}

func TestScaled(t *testing.T) {
	p := merge(t, recording(1, 2).Profile(), recording(1).Profile(), recording(1).Profile(), recording(1).Profile(), recording(1).Profile())
	s := p.Scaled(2)
	if s.Starts != 2 || s.Entries[0].Starts != 2 || s.Entries[1].Starts != 1 || p.Starts != 5 {
		t.Errorf("scaled: %+v", s)
	}
	if s := p.Scaled(0); s.Starts != 1 {
		t.Errorf("scaled to none: %d starts", s.Starts)
	}
}

func TestFits(t *testing.T) {
	img := blockmaptest.New(1, chunktest.Random(1, 100, chunk.FrameSize), chunktest.Random(2, chunk.FrameSize+1, chunk.FrameSize))
	for _, c := range []struct {
		frame profile.Frame
		fits  bool
	}{
		{profile.Frame{Chunk: 0, Number: 0}, true},
		{profile.Frame{Chunk: 0, Number: 1}, false},
		{profile.Frame{Chunk: 1, Number: 1}, true},
		{profile.Frame{Chunk: 1, Number: 2}, false},
		{profile.Frame{Chunk: 2, Number: 0}, false},
		{profile.Frame{Chunk: 1<<32 - 1, Number: 0}, false},
	} {
		p := &profile.Profile{Image: img.Digest(), Starts: 1, Entries: []profile.Entry{{Frame: c.frame, Starts: 1}}}
		if err := p.Fits(img.Map); (err == nil) != c.fits || err != nil && !errors.Is(err, profile.ErrMismatch) {
			t.Errorf("%+v: %v", c.frame, err)
		}
	}
	if err := vector().Fits(img.Map); !errors.Is(err, profile.ErrMismatch) {
		t.Errorf("another image's: %v", err)
	}
}

// TestSize: a start of 5,000 frames is stored in some tens of KB.
func TestSize(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	rec := &profile.Recording{Image: image}
	at := time.Duration(0)
	for chunk := uint32(0); len(rec.Touches) < 5000; chunk = uint32(r.IntN(3000)) {
		for n := range uint16(1 + r.IntN(8)) {
			at += time.Duration(r.IntN(3000)) * time.Microsecond
			rec.Touches = append(rec.Touches, profile.Touch{Frame: profile.Frame{Chunk: chunk, Number: n}, At: at, Waited: time.Duration(r.IntN(40000)) * time.Microsecond})
		}
	}
	n := len(encode(t, rec.Profile()))
	t.Logf("%d frames: %d bytes", len(rec.Profile().Entries), n)
	if n > 60_000 {
		t.Errorf("%d bytes", n)
	}
}

// TestPredict puts one prediction behind another; it counts as no start.
func TestPredict(t *testing.T) {
	image := origin.Sum([]byte("image"))
	of := func(starts uint32, frames ...uint16) *profile.Profile {
		p := &profile.Profile{Image: image, Workload: "w", Starts: starts}
		for i, f := range frames {
			p.Entries = append(p.Entries, profile.Entry{Frame: profile.Frame{Number: f}, Starts: starts, At: time.Duration(i) * time.Second})
		}
		return p
	}
	p := profile.Predict(of(1, 5, 3), of(2, 1, 3, 2))
	if p.Image != image || p.Workload != "w" || !p.Predicted {
		t.Errorf("%+v", p)
	}
	var got []uint16
	back, err := profile.Parse(encode(t, p))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range back.Entries {
		got = append(got, e.Number)
	}
	if want := []uint16{5, 3, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("frames %v, want %v", got, want)
	}
}
