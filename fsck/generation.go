package fsck

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// one is a generation as it is checked.
type one struct {
	*checker
	id      origin.GenerationID
	store   origin.Store
	donors  []origin.Store             // other places with good bytes
	led     map[origin.Digest][]string // object → pointers that lead to it
	damaged map[string]origin.Digest   // damaged pointers → where they led, if that is known elsewhere
	objects map[origin.Digest]bool     // those that are there and whole
	broken  map[origin.Digest]int      // those that are there and damaged → their problem
	loose   []origin.Digest            // objects to which no pointer leads, other than block maps
	images  []*blockmap.Map            // of them, the block maps
	needed  map[chunk.ID]need          // chunks that the images need
	held    map[chunk.ID]int64         // chunks that are there, stored bytes

	profiles     []*remembered
	packPointers []*packed
	packs        map[origin.Digest][]*packed   // by their parts
	versions     map[origin.Digest]*remembered // objects that those lead to
	unfit        map[origin.Digest]error       // of them, those that are no profile of theirs
}

// need is what an image says of a chunk.
type need struct {
	stored int64
	image  origin.Digest
}

// generation checks one generation, and adds the images that it has to found.
func (c *checker) generation(ctx context.Context, id origin.GenerationID, found map[origin.Digest]bool) error {
	g := &one{
		checker: c, id: id, store: c.origin.Generation(id), led: map[origin.Digest][]string{}, objects: map[origin.Digest]bool{}, broken: map[origin.Digest]int{},
		needed: map[chunk.ID]need{}, held: map[chunk.ID]int64{}, damaged: map[string]origin.Digest{},
		versions: map[origin.Digest]*remembered{}, packs: map[origin.Digest][]*packed{}, unfit: map[origin.Digest]error{},
	}
	l, err := generation.Load(ctx, c.origin)
	if err != nil {
		return err
	}
	for _, other := range l.Readable() {
		if other != id {
			g.donors = append(g.donors, c.origin.Generation(other))
		}
	}
	g.donors = append(g.donors, c.donors...)
	for _, step := range []func(context.Context) error{g.pointers, g.listObjects, g.leads, g.checkProfiles, g.checkPacks, g.attachments, g.chunks, g.deep, g.mendPointers} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("generation %v: %w", id, err)
		}
	}
	for _, m := range g.images {
		found[m.Digest()] = true
	}
	if c.opt.Repair {
		return g.store.Flush(ctx)
	}
	return nil
}

// pointers reads where the pointers lead that have to lead somewhere.
func (g *one) pointers(ctx context.Context) error {
	return g.store.ListPointers(ctx, "", func(name string) error {
		g.report.Pointers++
		kind, _, _ := strings.Cut(name, "/")
		switch kind {
		case "names", "digests", "chains", "segments", "notes":
		case "profiles":
			return g.profilePointer(ctx, name)
		case "packs":
			return g.packPointer(ctx, name)
		default:
			return nil
		}
		d, err := catalog.Get(ctx, g.store, name)
		switch {
		case errors.Is(err, chunk.ErrNotFound):
			return nil // removed meanwhile, or reserved
		case errors.Is(err, catalog.ErrPointer), errors.Is(err, origin.ErrCorrupt):
			g.damaged[name] = origin.Digest{}
			g.problem(Problem{Generation: g.id, Kind: Damaged, What: "pointer", Name: name, Reason: err.Error()})
			return nil
		case err != nil:
			return err
		}
		g.led[d] = append(g.led[d], name)
		return nil
	})
}

// listObjects reads all objects.
func (g *one) listObjects(ctx context.Context) error {
	return g.store.ListObjects(ctx, func(d origin.Digest, _ int64) error {
		g.report.Objects++
		b, err := g.store.GetObject(ctx, d, origin.MaxObjectBytes)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			p := Problem{Generation: g.id, Kind: Damaged, What: "object", Name: d.String(), Reason: err.Error()}
			if b, p.Repaired = g.mendObject(ctx, d, true); !p.Repaired {
				g.broken[d] = len(g.report.Problems)
				g.dropVersion(ctx, &p, d)
				g.dropPack(ctx, &p, d)
				g.problem(p)
				g.objects[d] = true // not missing as well
				return nil
			}
			g.problem(p)
		}
		g.object(d, b)
		return nil
	})
}

// object notes an object that is whole.
func (g *one) object(d origin.Digest, b []byte) {
	g.objects[d] = true
	g.remember(d, b)
	g.rememberPack(d, b)
	m, err := blockmap.Parse(b)
	if err != nil {
		if len(g.led[d]) == 0 && g.versions[d] == nil && g.packs[d] == nil {
			g.loose = append(g.loose, d)
		}
		return
	}
	g.report.Images++
	g.images = append(g.images, m)
	if len(g.led[d]) == 0 && !g.claims[d] {
		g.report.OrphanObjects = append(g.report.OrphanObjects, d.String())
	}
	for i := range m.Len() {
		c := m.Chunk(i)
		if _, ok := g.needed[c.ID]; !ok {
			g.needed[c.ID] = need{int64(c.Stored), d}
		}
	}
}

// leads checks that what pointers and block maps lead to is there.
func (g *one) leads(ctx context.Context) error {
	for name := range g.damaged {
		g.damaged[name] = g.leadsElsewhere(ctx, name)
	}
	for d, names := range g.led {
		if g.objects[d] {
			continue
		}
		mended := g.bringObject(ctx, d)
		for _, name := range names {
			p := Problem{Generation: g.id, Kind: Dangling, What: "pointer", Name: name, Reason: "no object " + d.String()}
			p.Repaired = mended || g.dropShortcut(ctx, name, d)
			g.problem(p)
		}
	}
	g.metadata(ctx)
	return ctx.Err()
}

// metadata checks that the metadata objects that block maps name are there. Other
// objects to which nothing leads are orphans.
func (g *one) metadata(ctx context.Context) {
	named := map[origin.Digest]bool{}
	for _, m := range g.images {
		meta := m.Info().Metadata
		if meta == (origin.Digest{}) {
			continue
		}
		named[meta] = true
		if i, ok := g.broken[meta]; ok && !g.report.Problems[i].Repaired {
			p := &g.report.Problems[i]
			p.Needed, p.Repaired = m.Digest().String(), g.makeMetadata(ctx, m, true)
		}
		if !g.objects[meta] {
			p := Problem{Generation: g.id, Kind: Missing, What: "object", Name: meta.String(), Needed: m.Digest().String()}
			p.Repaired = g.bringObject(ctx, meta) || g.makeMetadata(ctx, m, false)
			g.problem(p)
		}
	}
	for _, d := range g.loose {
		if !named[d] {
			g.report.OrphanObjects = append(g.report.OrphanObjects, d.String())
		}
	}
}

// bringObject brings an object that is missing, if it can.
func (g *one) bringObject(ctx context.Context, d origin.Digest) bool {
	b, ok := g.mendObject(ctx, d, false)
	if ok {
		g.object(d, b)
	}
	return ok
}

// attachments reads what is said of the objects. An attachment of something
// that is not there cannot be found.
func (g *one) attachments(ctx context.Context) error {
	orphans := map[string]bool{}
	for _, d := range g.report.OrphanObjects {
		orphans[d] = true
	}
	for d := range g.objects {
		for _, kind := range generation.Kinds {
			n := 0
			count := func([]byte) error { n++; return nil }
			err := g.store.ListAttachments(ctx, d, kind, count)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				p := Problem{Generation: g.id, Kind: Damaged, What: "attachments", Name: kind + " of " + d.String(), Reason: err.Error()}
				p.Repaired = g.mendAttachments(ctx, d, kind)
				g.problem(p)
			}
			g.report.Attachments += n
			if orphans[d.String()] {
				g.report.OrphanNotes += n
			}
		}
	}
	return nil
}

// chunks compares what is there with what is needed.
func (g *one) chunks(ctx context.Context) error {
	err := g.store.List(ctx, func(id chunk.ID, size int64) error {
		g.held[id] = size
		g.report.Chunks++
		g.report.Bytes += size
		if _, ok := g.needed[id]; !ok {
			g.report.OrphanChunks++
			g.report.OrphanBytes += size
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, n := range g.needed {
		size, ok := g.held[id]
		if ok && size == n.stored {
			continue
		}
		p := Problem{Generation: g.id, Kind: Missing, What: "chunk", Name: id.String(), Needed: n.image.String()}
		if ok {
			p.Kind, p.Reason = Damaged, fmt.Sprintf("%d bytes instead of %d", size, n.stored)
		}
		g.badChunk(ctx, id, n, p)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// badChunk reports a chunk that is not as it should be. It is not looked at
// again.
func (g *one) badChunk(ctx context.Context, id chunk.ID, n need, p Problem) {
	p.Repaired = g.mendChunk(ctx, id, n.stored)
	g.problem(p)
	delete(g.needed, id)
}

// deep reads the chunks that are needed and checks their bytes.
func (g *one) deep(ctx context.Context) error {
	if !g.opt.Deep {
		return nil
	}
	ids := make(chan chunk.ID)
	var mu sync.Mutex // guards bad and the report
	bad := map[chunk.ID]error{}
	e, ectx := errgroup.WithContext(ctx)
	e.Go(func() error {
		defer close(ids)
		for id := range g.needed {
			select {
			case ids <- id:
			case <-ectx.Done():
				return nil
			}
		}
		return nil
	})
	for range g.opt.Workers {
		e.Go(func() error {
			buf := make([]byte, blockmap.MaxStored(chunk.MaxSize)+1)
			for id := range ids {
				_, err := readChunk(ectx, g.store.Fetch, id, g.needed[id].stored, buf)
				if ectx.Err() != nil {
					return context.Cause(ectx)
				}
				mu.Lock()
				g.report.Read++
				if err != nil {
					bad[id] = err
				}
				if g.opt.Tell != nil {
					g.opt.Tell(g.report.Read)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	if err := e.Wait(); err != nil {
		return err
	}
	for id, err := range bad {
		n := g.needed[id]
		g.badChunk(ctx, id, n, Problem{
			Generation: g.id, Kind: Damaged, What: "chunk", Name: id.String(), Needed: n.image.String(), Reason: err.Error(),
		})
	}
	return ctx.Err()
}

// fetch is chunk.Source's, or chunk.Reader's, whose check is not relied on.
type fetch func(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error)

// readChunk reads a chunk of the given stored size into buf and checks it.
func readChunk(ctx context.Context, from fetch, id chunk.ID, stored int64, buf []byte) ([]byte, error) {
	if stored >= int64(len(buf)) {
		return nil, fmt.Errorf("chunk %v: %d bytes stored: too large", id, stored)
	}
	n, err := from(ctx, id, buf[:stored+1], 0)
	if err != nil {
		return nil, err
	}
	if int64(n) != stored {
		return nil, &chunk.CorruptError{ID: id, Reason: fmt.Sprintf("%d bytes instead of %d", n, stored)}
	}
	_, err = chunk.Verify(id, buf[:n])
	return buf[:n], err
}
