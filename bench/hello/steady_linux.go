package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// steadyImage has many files, and large ones.
const steadyImage = "python3-sci"

// steady measures a container that has been running for a while: whatever it reads has been read
// before. Both kinds of container take turns, in each round a new one of each.
func (b *bench) steady(ctx context.Context, p *plan) error {
	if err := b.net.connect(ctx, links[0]); err != nil {
		return err
	}
	cs := slices.DeleteFunc(slices.Clone(p.contenders), func(c contender) bool { return c.Name != plain && c.Name != rivuletProfile })
	for round := 1; round <= p.rounds; round++ {
		for i := range cs {
			left := p.steadyLeft(&cs[i], round)
			if len(left) == 0 {
				continue
			}
			if err := b.onHost(ctx, &cs[i], func(h *host) error { return b.steadyOnce(ctx, p, &cs[i], h, left) }); err != nil {
				return fmt.Errorf("%s, round %d: %w", cs[i].Name, round, err)
			}
		}
	}
	return nil
}

// steadyLeft returns what is to be measured of a round: a result without a rate for each work that
// the file lacks.
func (p *plan) steadyLeft(c *contender, round int) (left []result) {
	for _, w := range steadyWorks {
		r := result{Kind: kindSteady, Image: steadyImage, Contender: c.Name, Round: round, Work: w.name}
		if !p.has(&r) {
			left = append(left, r)
		}
	}
	return left
}

// idle is a workload that is ready at once, and stays.
var idle = workload{Name: "idle", Image: steadyImage, Mode: modeLine, Want: "idle", Args: []string{"sh", "-c", "echo idle; exec sleep 1000"}}

func (b *bench) steadyOnce(ctx context.Context, p *plan, c *contender, h *host, left []result) (err error) {
	s, err := b.start(ctx, h, startRequest{Snapshotter: c.Snapshotter, Reference: c.reference(steadyImage), Pull: true, Workload: idle, Keep: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	tree := fmt.Sprintf("/proc/%d/root", s.PID)
	if _, _, err := readTree(tree); err != nil { // from now on everything is here
		return err
	}
	for _, r := range left {
		if r.Rate, err = steadyRate(r.Work, tree); err != nil {
			return fmt.Errorf("%s: %w", r.Work, err)
		}
		if err := writeResult(p.out, &r); err != nil {
			return err
		}
		b.say("steady %s %s %d: %.0f", r.Contender, r.Work, r.Round, r.Rate)
	}
	return nil
}

// steadyRate does one of steadyWorks, and returns its rate: the best of some, so that what else
// the kernel does at that time counts for little.
func steadyRate(work, tree string) (float64, error) {
	best := 0.0
	for range 3 {
		if work == "cold" {
			if err := dropCaches(); err != nil {
				return 0, err
			}
		}
		begun := time.Now()
		var amount float64
		var err error
		if work == "stat" {
			var n int
			n, err = statTree(tree)
			amount = float64(n)
		} else {
			var n int64
			_, n, err = readTree(tree)
			amount = float64(n) / 1e6
		}
		if err != nil {
			return 0, err
		}
		best = max(best, amount/time.Since(begun).Seconds())
	}
	return best, nil
}

// notImage are folders of a container that are not its image's.
var notImage = []string{"proc", "sys", "dev", "run", "tmp"}

// walkTree calls do with all regular files of an image.
func walkTree(tree string, do func(name string) error) error {
	return filepath.WalkDir(tree+"/", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && filepath.Dir(name) == tree && slices.Contains(notImage, d.Name()):
			return fs.SkipDir
		case d.Type().IsRegular():
			return do(name)
		}
		return nil
	})
}

func statTree(tree string) (n int, err error) {
	err = walkTree(tree, func(name string) error {
		n++
		_, err := os.Lstat(name)
		return err
	})
	return n, err
}

func readTree(tree string) (files int, bytes int64, err error) {
	buffer := make([]byte, 256<<10)
	err = walkTree(tree, func(name string) (err error) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		files++
		for {
			n, err := f.Read(buffer)
			bytes += int64(n)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return files, bytes, err
}
