package profile_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/profile"
)

// headersVector is the third one of the page.
func headersVector() *profile.Profile {
	p := predictedVector()
	p.Headers = []profile.Header{{Chunk: 3, Header: header(1)}, {Chunk: 5, Header: header(2)}}
	return p
}

// header is that of a chunk which chunktest makes.
func header(seed uint64) chunk.Header {
	return chunktest.Random(seed, 20000, chunk.MinFrameSize).Header
}

// TestHeaders: profiles that are merged keep the headers of all, within bounds, and those of
// another chunk fit no block map.
func TestHeaders(t *testing.T) {
	with := func(starts uint32, places ...uint32) *profile.Profile {
		p := &profile.Profile{Image: image, Starts: starts, Predicted: starts == 0, Entries: []profile.Entry{{Starts: max(starts, 1)}}}
		p.Starts = max(starts, 1)
		for _, place := range places {
			p.Headers = append(p.Headers, profile.Header{Chunk: place, Header: header(uint64(place))})
		}
		return p
	}
	for name, c := range map[string]struct {
		list []*profile.Profile
		want []uint32
	}{
		"starts":    {[]*profile.Profile{with(1, 2, 4), with(1, 1, 4, 7)}, []uint32{1, 2, 4, 7}},
		"predicted": {[]*profile.Profile{with(0, 2), with(1, 3)}, []uint32{2, 3}},
		"behind":    {[]*profile.Profile{with(1, 3), with(0, 2)}, []uint32{2, 3}},
		"none":      {[]*profile.Profile{with(1, 3), with(1)}, []uint32{3}},
	} {
		var got []uint32
		m := merge(t, c.list...)
		for i := range m.Headers {
			got = append(got, m.Headers[i].Chunk)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: headers of %v, want %v", name, got, c.want)
		}
		if back, err := profile.Parse(encode(t, m)); err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%s: %+v, %v", name, back, err)
		}
	}
	many := make([]profile.Header, profile.MaxHeaders+10)
	for i := range many {
		many[i] = profile.Header{Chunk: uint32(i), Header: header(1)}
	}
	p := with(1)
	p.AddHeaders(many)
	if len(p.Headers) != profile.MaxHeaders {
		t.Errorf("%d headers, want %d", len(p.Headers), profile.MaxHeaders)
	}
	encode(t, p)

	img := blockmaptest.Small(7, 3)
	q := &profile.Profile{Image: img.Digest(), Starts: 1, Headers: []profile.Header{{Chunk: 1, Header: header(1)}}}
	if err := q.Fits(img.Map); !errors.Is(err, profile.ErrMismatch) {
		t.Errorf("another chunk's header: %v", err)
	}
}
