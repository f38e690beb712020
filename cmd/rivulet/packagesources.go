package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/domain"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/packages"
	"github.com/rivuletfs/rivulet/packages/python"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/inherit"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/store"
)

// recordsAtOnce bounds the records of packages that are put at one time.
const recordsAtOnce = 16

// packageSources are those sources of a publication that are packages.
type packageSources struct{ cache *packages.Cache }

// openPackageSources returns nil if no source is a package; else it has o open them.
func (a *app) openPackageSources(srcs []string, f *publishFlags, o *publish.Options) (*packageSources, error) {
	if !slices.Contains(packages.Resolvers, f.resolver) {
		return nil, usagef("--resolver %q: want %s", f.resolver, strings.Join(packages.Resolvers, " or "))
	}
	if !slices.ContainsFunc(srcs, isPackage) {
		return nil, nil
	}
	cache, err := openPackages()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	tell := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		a.note("%s", line)
	}
	cache.Tell = tell
	p := &packages.Python{Cache: cache, TempDir: o.TempDir, Apart: f.apart, Resolver: f.resolver, Hosts: strings.Fields(os.Getenv(hostsEnvironment)), Tell: tell}
	o.Source.Extensions = map[string]source.Extension{packages.NodeScheme: &packages.Node{Cache: cache, TempDir: o.TempDir, Tell: tell}}
	for _, scheme := range packages.Schemes {
		o.Source.Extensions[scheme] = p
	}
	return &packageSources{cache: cache}, nil
}

// publishPackages is publish of sources that have packages: what the origin knows of them
// is asked for first, as a package that is known need not be installed.
func (a *app) publishPackages(ctx context.Context, srcs []string, f *publishFlags, o *publish.Options, open func(context.Context, store.Options) (origin.Origin, error)) (origin.Origin, *publish.Result, error) {
	place, err := open(ctx, store.Options{Create: true, Ahead: []string{generation.Pointer, domain.Pointer(f.domain)}})
	if err != nil {
		return nil, nil, err
	}
	if err := a.publishKeys(ctx, place, f, o); err != nil {
		return nil, nil, err
	}
	if !f.noRecords {
		notes, err := publish.OpenNotes(ctx, place, *o)
		if err != nil {
			return nil, nil, err
		}
		f.packages.cache.Records = notes
	}
	res, err := a.publishDraft(ctx, place, srcs, o)
	if errors.Is(err, packages.ErrRecord) {
		a.note("rivulet: %v: packages are installed here", err)
		f.packages.cache.Distrust()
		res, err = a.publishDraft(ctx, place, srcs, o)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := f.packages.tellRecords(ctx, place, o); err != nil { // it is published all the same
		a.note("rivulet: other hosts will install its packages again: %v", err)
	}
	if err := f.packages.cache.Trim(ctx); err != nil {
		a.note("rivulet: %v", err)
	}
	return place, res, nil
}

// publishDraft opens the sources and publishes them. Installing may have taken long, so
// which generation is published into is asked for again.
func (a *app) publishDraft(ctx context.Context, place origin.Origin, srcs []string, o *publish.Options) (*publish.Result, error) {
	d, err := publish.Open(ctx, srcs, o.Source, o.TempDir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	if o.Generations, err = generation.Enter(ctx, place); err != nil {
		return nil, err
	}
	into := o.Generations.Active()
	res, err := d.Publish(ctx, place, *o)
	if err != nil {
		return nil, err
	}
	return res, a.see(into)
}

// tellRecords puts records of the image's packages where it was published.
func (p *packageSources) tellRecords(ctx context.Context, place origin.Origin, o *publish.Options) error {
	again := *o
	again.Generations = nil
	notes, err := publish.OpenNotes(ctx, place, again)
	if err != nil {
		return err
	}
	records, err := p.cache.Used()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(recordsAtOnce)
	for _, r := range records {
		if len(r.Value) > publish.MaxNoteBytes {
			continue // too much to tell: it is installed again elsewhere
		}
		g.Go(func() error { return notes.Put(ctx, r.Kind, r.Of, r.Value) })
	}
	return g.Wait()
}

// importsAfter gives an image that was just published a plan of what imports of its packages
// read, until starts have said more, and returns of how many frames. What fails is told,
// and no failure.
func (a *app) importsAfter(ctx context.Context, o origin.Origin, r *publication, p *packageSources) int {
	if p == nil {
		return 0
	}
	ctx, cancel := context.WithTimeoutCause(ctx, inheritTime, fmt.Errorf("it took longer than %v", inheritTime))
	defer cancel()
	frames, err := a.planImports(ctx, o, r, p.cache.Imports())
	if err != nil && !errors.Is(err, inherit.ErrNothing) {
		a.note("rivulet: what imports of the packages read is not in the image's plan: %v", err)
	}
	return frames
}

func (a *app) planImports(ctx context.Context, o origin.Origin, r *publication, imports []*python.Import) (int, error) {
	reads := importReads(imports)
	if len(reads) == 0 {
		return 0, nil
	}
	view := a.view(o)
	inherited := slices.ContainsFunc(r.Inherited, func(i inherited) bool { return i.Workload == "" })
	as := *a
	as.silent, as.required = true, nil // nobody trusts this
	image, err := view.Open(ctx, r.BlockMap)
	if err != nil {
		return 0, err
	}
	var guess []*profile.Profile // what was predicted; starts know better
	if !inherited {
		p, err := view.Profile(ctx, image.Map.Digest(), "")
		switch {
		case err == nil && p.Predicted:
			guess = append(guess, p)
		case !errors.Is(err, chunk.ErrNotFound):
			return 0, err
		}
	}
	h := &heirs{app: &as, view: view}
	d, done := h.disk(image)
	defer done()
	plan, err := inherit.Reads(ctx, d, reads)
	if err != nil {
		return 0, err
	}
	frames := len(plan.Entries)
	if !inherited {
		plan = profile.Predict(append(guess, plan)...)
	}
	if _, err := generation.AddProfile(ctx, o, plan); err != nil {
		return 0, err
	}
	return frames, nil
}

// importReads returns what imports of packages read, one after the other.
func importReads(imports []*python.Import) []inherit.Read {
	var out []inherit.Read
	var begin time.Duration
	for _, i := range imports {
		for _, r := range i.Reads {
			at := begin + time.Duration(r.At*float64(time.Second))
			out = append(out, inherit.Read{Path: r.Path, At: at, Ranges: r.Ranges})
		}
		begin += time.Duration(i.Seconds * float64(time.Second))
	}
	return out
}
