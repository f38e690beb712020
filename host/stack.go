package host

import (
	"errors"
	"log/slog"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/seal"
)

// DefaultSample is how much of a cache's hits is looked for at the origin.
const DefaultSample = 1.0 / 1000

// A Cache is a cache of chunks between memory and the origin, such as the one of
// this machine.
type Cache interface {
	// Reader returns a reader that asks the cache, and origin, the image's checked
	// chunks, for what that does not have or cannot give in time. hit is told of
	// what was read without the origin; it does not block. close frees the reader,
	// once nobody uses it.
	Reader(image *generation.Image, origin chunk.Reader, hit func(chunk.ID)) (r chunk.Reader, close func() error, err error)
}

// A Stack is what disks are read through. It is shared by any number of disks;
// the zero value is usable.
type Stack struct {
	Memory *disk.Memory // nil: each disk's own
	Opener *seal.Opener // nil: each disk's own
	Cache  Cache        // nil: none
	Sample float64      // of the cache's hits, looked for at the origin; 0: DefaultSample
	Logger *slog.Logger
}

// A Disk is a disk with all that it is read through.
type Disk struct {
	*disk.Disk
	Image *Image

	under []func() error // ends what lies under the disk, in order
}

// Disk puts the layers of reading together, nearest first: memory, the machine's
// cache, the checking door, the image's generation. From a store that is near it
// reads by the frame. The caller closes the disk.
func (s *Stack) Disk(image *Image, near bool) (*Disk, error) {
	d := &Disk{Image: image}
	var reader chunk.Reader = chunk.NewDoor(image)
	mode := disk.WholeChunks
	if near {
		mode = disk.SingleFrames
	}
	if s.Cache != nil {
		rate := s.Sample
		if rate == 0 {
			rate = DefaultSample
		}
		// The image raises the alarm itself when it finds a chunk missing.
		sampler := generation.NewSampler(image, rate, func(chunk.ID) {})
		cached, closeCached, err := s.Cache.Reader(image.Image, reader, sampler.Hit)
		if err != nil {
			return nil, errors.Join(err, sampler.Close())
		}
		reader = cached
		d.under = append(d.under, closeCached, sampler.Close)
	}
	var err error
	d.Disk, err = disk.Open(image.Unlocked, reader, disk.Options{Memory: s.Memory, Opener: s.Opener, Mode: mode, Logger: s.Logger})
	if err != nil {
		return nil, errors.Join(err, d.closeUnder())
	}
	return d, nil
}

// Close closes the disk and what lies under it.
func (d *Disk) Close() error { return errors.Join(d.Disk.Close(), d.closeUnder()) }

func (d *Disk) closeUnder() error {
	var errs []error
	for _, end := range d.under {
		errs = append(errs, end())
	}
	d.under = nil
	return errors.Join(errs...)
}
