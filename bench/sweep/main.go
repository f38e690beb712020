// Sweep measures how other measures of a segment would deduplicate: chunk size,
// what counts as a large file, how bins end.
//
//	sweep [-plot FILE] [-touched FILE] [-sample N] OCI-DIR
//
// It reads each layer of an OCI layout once and keeps a digest of each 4 KiB of
// each file. With those, and layout.PlanSegment, the chunks of any other layout
// are known without reading again: two chunks are equal if the blocks at equal
// places in them are. It prints Markdown tables, and -plot writes the first of
// them as an SVG picture.
//
// Images NAME and NAME-old are taken for one image before and after an update.
// -touched names a file with the pages that real starts read, as touched.sh
// makes it. -sample N also codes one of N chunks as package seal does, to
// compare frame sizes.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/rivuletfs/rivulet/bench/touched"
	"github.com/rivuletfs/rivulet/layout"
)

type options struct {
	dir, plot, touched, temp string
	sample                   int
}

func main() {
	var o options
	flag.StringVar(&o.plot, "plot", "", "write the plot to this `file`")
	flag.StringVar(&o.touched, "touched", "", "`file` of the pages that starts read")
	flag.StringVar(&o.temp, "temp", os.TempDir(), "`folder` for the layers' data")
	flag.IntVar(&o.sample, "sample", 0, "code one of so many chunks to compare frame sizes; 0: none")
	flag.Parse()
	o.dir = flag.Arg(0)
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "sweep:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.dir == "" {
		return errors.New("want an OCI layout")
	}
	set, err := readAll(ctx, o)
	if err != nil {
		return err
	}
	defer set.close()
	if o.touched != "" {
		if set.starts, err = touched.Read(o.touched); err != nil {
			return err
		}
	}
	out := bufio.NewWriter(os.Stdout)
	printSet(out, set)
	measured := make([][]figures, len(tables))
	for i, t := range tables {
		if measured[i], err = set.measureAll(t.points()); err != nil {
			return err
		}
		printTable(out, t.title, measured[i])
	}
	if o.sample > 0 {
		if err := set.printFrames(out, o.sample); err != nil {
			return err
		}
	}
	if o.plot != "" {
		if err := writePlot(o.plot, measured); err != nil {
			return err
		}
	}
	return out.Flush()
}

// tables are what is printed, and drawn.
var tables = []struct {
	title  string
	colour string
	points func() []point
}{
	{"Large files and bins, in chunks of 512 KiB", "#b2182b", gridPoints},
	{"Chunk sizes", "#888888", chunkPoints},
	{"Other rules for the end of a bin", "#1b7837", rulePoints},
}

// A point is one layout to be measured.
type point struct {
	layout.Params
	rule rule
}

// gridPoints are layouts with the default chunk size.
func gridPoints() []point {
	var out []point
	for _, large := range []int{64, 128, 192, 256, 512} {
		for _, bin := range []int{64, 128, 192, 256, 320, 384} {
			out = append(out, point{layout.Params{Chunk: layout.Default.Chunk, Large: large << 10, MinBin: bin << 10}, rules[0]})
		}
	}
	return out
}

// chunkPoints are chunk sizes with the other measures in proportion, and for
// large chunks also as they are by default.
func chunkPoints() []point {
	var out []point
	for size := 64 << 10; size <= 4<<20; size *= 2 {
		scale := func(n int) int { return n * (size >> 10) / (layout.Default.Chunk >> 10) }
		out = append(out, point{layout.Params{Chunk: size, Large: scale(layout.Default.Large), MinBin: scale(layout.Default.MinBin)}, rules[0]})
		if size > layout.Default.Chunk {
			p := layout.Default
			p.Chunk = size
			out = append(out, point{p, rules[0]})
		}
	}
	return out
}

func rulePoints() []point {
	var out []point
	for _, r := range rules {
		out = append(out, point{layout.Default, r})
	}
	return out
}
