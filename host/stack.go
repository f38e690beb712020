package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/seal"
)

// DefaultSample is how much of a cache's hits is looked for at the origin.
const DefaultSample = 1.0 / 1000

// A Cache is a cache of chunks between memory and the origin, such as the one of
// this machine.
type Cache interface {
	// Reader returns a reader that asks the cache, and origin, an image's checked
	// chunks, for what that does not have or cannot give in time. image makes
	// requests for them; nil: there are none.
	Reader(image origin.Requester, origin chunk.Reader) chunk.Reader
	// Held returns a reader of what is near at hand; see disk.Options.
	Held() chunk.Reader
	// Away reports whether the cache is known to be away at present, so that a read
	// of the chunk goes to the origin. It does not block.
	Away(id chunk.ID) bool
}

// A Stack is what disks are read through. It is shared by any number of disks;
// the zero value is usable.
type Stack struct {
	Memory *disk.Memory // nil: each disk's own
	Opener *seal.Opener // nil: each disk's own
	Cache  Cache        // nil: none
	Sample float64      // of the cache's hits, looked for at the origin; 0: DefaultSample
	Meter  *disk.Meter  // nil: each disk's own
	Logger *slog.Logger

	OnSlow func(*disk.SlowRead) // as in disk.Options; nil: nobody is told
	Slow   time.Duration        // 0: disk.DefaultSlow
}

// A Disk is a disk with all that it is read through.
type Disk struct {
	*disk.Disk

	reader   chunk.Reader // what it is read through
	door     *chunk.Door  // the checking one, under that
	followed atomic.Bool  // its start is, at present

	image    published
	sampler  *generation.Sampler // nil: there is no cache
	metadata *pack.Fetch         // nil: it has no metadata object, or does without
	ahead    *pack.Ahead         // nil: it has no start pack, or does without
}

// Disk puts the layers of reading together, nearest first: memory, the cache, the
// image's metadata object, the checking door, the bound of what is asked of the store,
// the image's generation.
// If the cache or the store is near, it reads by the frame; if only the cache is, and
// that is away, by the chunk. From a far store it reads by the chunk, but for frames of chunks
// whose headers are known while its start is followed. A near store is not asked for the metadata object; of
// another one it is fetched when a chunk of it has to come from there. bound is the
// Source's.
// The caller closes the disk.
func (s *Stack) Disk(image *Image, near bool, bound func(src chunk.Source, disk string) chunk.Source) (*Disk, error) {
	if near {
		return s.disk(image.Unlocked, image, nil, nil, near, bound)
	}
	return s.disk(image.Unlocked, image, newMetadata(image.Image, s.Logger), nil, near, bound)
}

// disk takes over metadata, and ahead, a start pack on its way: chunks that this has frames
// of are read by the frame.
func (s *Stack) disk(m *blockmap.Map, image published, metadata *pack.Fetch, ahead *pack.Ahead, near bool, bound func(src chunk.Source, disk string) chunk.Source) (*Disk, error) {
	d := &Disk{image: image, metadata: metadata, ahead: ahead}
	var src chunk.Source = image
	if bound != nil {
		src = bound(image, m.Digest().String())
	}
	d.door = chunk.NewDoor(src)
	o := disk.Options{Memory: s.Memory, Opener: s.Opener, Mode: disk.SingleFrames, Meter: s.Meter, Logger: s.Logger, OnSlow: s.OnSlow, Slow: s.Slow}
	if !near && s.Cache == nil {
		o.Far = true
		o.Whole = func(id chunk.ID) bool {
			return (ahead == nil || !ahead.Has(id)) && (!d.followed.Load() || !d.door.Knows(id))
		}
	}
	var reader chunk.Reader = d.door
	var requests origin.Requester = image
	if metadata != nil {
		reader, requests = metadata.Reader(reader), unpacked{image, metadata}
	}
	if ahead != nil {
		reader = ahead.Reader(reader)
	}
	reader = chunk.Traced(reader, chunk.Origin)
	if s.Cache != nil {
		rate := s.Sample
		if rate == 0 {
			rate = DefaultSample
		}
		// The image raises the alarm itself when it finds a chunk missing.
		d.sampler = generation.NewSampler(image, rate, func(chunk.ID) {})
		reader = watched{s.Cache.Reader(requests, witness{reader}), d.sampler}
		o.Near = watched{s.Cache.Held(), d.sampler}
		if !near {
			o.Whole = s.Cache.Away
		}
	}
	d.reader = reader
	var err error
	if d.Disk, err = disk.Open(m, reader, o); err != nil {
		return nil, errors.Join(err, d.closeUnder())
	}
	return d, nil
}

// follow says that the start is followed, by who knows these headers: what is missed is then
// one frame of a chunk, as a rule.
func (d *Disk) follow(headers []profile.Header) {
	for i := range headers {
		d.door.Learn(&headers[i].Header)
	}
	d.followed.Store(true)
}

// headers returns those that are known of the chunks that a profile names.
func (d *Disk) headers(p *profile.Profile) []profile.Header {
	places := make([]uint32, 0, len(p.Entries))
	for i := range p.Entries {
		places = append(places, p.Entries[i].Chunk)
	}
	slices.Sort(places)
	var list []profile.Header
	for _, place := range slices.Compact(places) {
		if h, ok := d.door.Header(d.Map().Chunk(int(place)).ID); ok {
			list = append(list, profile.Header{Chunk: place, Header: h})
		}
	}
	return list
}

// headersAtOnce is how many headers are read at a time.
const headersAtOnce = 64

// Headers returns the headers of the chunks at those places, in their order, but for chunks of
// the metadata object; it reads those that are not known.
func (d *Disk) Headers(ctx context.Context, places []uint32) ([]profile.Header, error) {
	if packed := d.packed(); packed != nil {
		places = slices.DeleteFunc(slices.Clone(places), func(place uint32) bool {
			return int64(place) < int64(d.Map().Len()) && packed(d.Map().Chunk(int(place)).ID)
		})
	}
	return ReadHeaders(ctx, d.Map(), d.reader, places)
}

// ReadHeaders reads the headers of the chunks of a disk at those places, in their order.
func ReadHeaders(ctx context.Context, m *blockmap.Map, r chunk.Reader, places []uint32) ([]profile.Header, error) {
	list := make([]profile.Header, len(places))
	var g errgroup.Group
	g.SetLimit(headersAtOnce)
	for i, place := range places {
		if int64(place) >= int64(m.Len()) {
			return nil, errors.Join(fmt.Errorf("header of chunk %d: the disk has %d", place, m.Len()), g.Wait())
		}
		c := m.Chunk(int(place))
		g.Go(func() error {
			frames := (int64(c.Size) + 1<<m.Info().FrameLog2 - 1) >> m.Info().FrameLog2
			b := make([]byte, chunk.HeaderLen(int(frames)))
			n, err := r.ReadChunk(ctx, c.ID, b, 0)
			if err == nil {
				list[i].Chunk = place
				err = list[i].ParseAs(c.ID, b[:n])
			}
			if err != nil {
				return fmt.Errorf("header of chunk %d: %w", place, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return list, nil
}

// packed reports which chunks come with the metadata object; nil: there is none.
func (d *Disk) packed() func(chunk.ID) bool {
	if d.metadata == nil {
		return nil
	}
	return d.metadata.Has
}

// Close closes the disk and what lies under it.
func (d *Disk) Close() error { return errors.Join(d.Disk.Close(), d.closeUnder()) }

func (d *Disk) closeUnder() error {
	if d.metadata != nil {
		d.metadata.Close()
	}
	if d.ahead != nil {
		d.ahead.Close()
	}
	if d.sampler == nil {
		return nil
	}
	return d.sampler.Close()
}
