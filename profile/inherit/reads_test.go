package inherit_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/inherit"
)

// TestReads makes a profile of files that are read whole, in part, and not there.
func TestReads(t *testing.T) {
	const small, large = firstForData, firstForData + 4*frameBlocks
	d := makeDisk(t, placed{"small", 20, small, 2, 1}, placed{"large", 21, large, 8 * frameBlocks, 2})
	const frame = frameBlocks * 4096
	read := func(reads ...inherit.Read) *profile.Profile {
		t.Helper()
		p, err := inherit.Reads(context.Background(), d.Disk, reads)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.AppendBinary(nil); err != nil {
			t.Errorf("it cannot be stored: %v", err)
		}
		return p
	}
	for _, c := range []struct {
		name  string
		reads []inherit.Read
		want  []profile.Frame
	}{
		{"whole", []inherit.Read{{Path: "lib/small"}}, []profile.Frame{d.frame(t, small)}},
		{"in part", []inherit.Read{{Path: "lib/large", Ranges: [][2]int64{{2 * frame, frame}, {5*frame + 1, 1}}}}, []profile.Frame{d.frame(t, large+2*frameBlocks), d.frame(t, large+5*frameBlocks)}},
		{"beyond its end", []inherit.Read{{Path: "lib/large", Ranges: [][2]int64{{7 * frame, 1 << 60}, {1 << 61, 1 << 61}}}}, []profile.Frame{d.frame(t, large+7*frameBlocks)}},
		{"in order", []inherit.Read{{Path: "lib/small", At: time.Second}, {Path: "lib/none"}, {Path: "lib/large", At: time.Millisecond, Ranges: [][2]int64{{0, 1}}}}, []profile.Frame{d.frame(t, large), d.frame(t, small)}},
		{"twice", []inherit.Read{{Path: "lib/small", At: time.Second}, {Path: "lib/small", At: -time.Second}}, []profile.Frame{d.frame(t, small)}},
	} {
		p := read(c.reads...)
		if got := frames(p); !slices.Equal(got, c.want) {
			t.Errorf("%s: frames %v, want %v", c.name, got, c.want)
		}
		if p.Starts != inherit.Starts || p.Workload != "" || p.Image != d.Map.Digest() || len(p.Plan()) == 0 {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
	for _, reads := range [][]inherit.Read{nil, {{Path: "lib/none"}}, {{Path: "../x"}}} {
		if _, err := inherit.Reads(context.Background(), d.Disk, reads); !errors.Is(err, inherit.ErrNothing) {
			t.Errorf("%v: %v, want ErrNothing", reads, err)
		}
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := inherit.Reads(over, d.Disk, []inherit.Read{{Path: "lib/small"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
