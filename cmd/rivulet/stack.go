package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store"
)

// openOrigin opens the origin that the user chose. With create, a missing one is
// made.
func (a *app) openOrigin(ctx context.Context, create bool) (origin.Origin, error) {
	url, err := a.chosenStore()
	if err != nil {
		return nil, err
	}
	return a.openURL(ctx, url, create)
}

// openURL opens the origin at a URL.
func (a *app) openURL(ctx context.Context, url string, create bool) (origin.Origin, error) {
	o, err := store.Open(ctx, url, store.Options{Create: create, Logger: a.logger()})
	return o, addressMistake(err)
}

// addressMistake makes an error about a store's address one of wrong use.
func addressMistake(err error) error {
	var mistake *store.URLError
	if errors.As(err, &mistake) {
		return usageError{err}
	}
	return err
}

// openView opens the origin that the user chose as readers see it.
func (a *app) openView(ctx context.Context) (*generation.View, error) {
	o, err := a.openOrigin(ctx, false)
	if err != nil {
		return nil, err
	}
	return generation.NewView(o, generation.Options{Logger: a.logger()}), nil
}

// chosenStore returns the store's URL: of --store, of RIVULET_STORE, or of the
// user's data folder.
func (a *app) chosenStore() (string, error) {
	if a.storeURL != "" {
		return a.storeURL, nil
	}
	if url := os.Getenv("RIVULET_STORE"); url != "" {
		return url, nil
	}
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no --store, no RIVULET_STORE, and no home folder to keep one in: %w", err)
		}
		data = filepath.Join(home, ".local", "share")
	}
	return "dir:" + filepath.Join(data, "rivulet"), nil
}

// absoluteStore returns the store's URL as a process in any folder can use it.
func (a *app) absoluteStore() (string, error) {
	url, err := a.chosenStore()
	if err != nil {
		return "", err
	}
	url, err = store.Absolute(url)
	return url, addressMistake(err)
}

// near reports whether reading a single frame from the chosen store costs little.
func (a *app) near() bool {
	url, err := a.chosenStore()
	return err == nil && store.Near(url)
}

// An openImage is an image that can be read: found, vouched for as far as was
// asked, and unlocked.
type openImage struct {
	*generation.Image               // its Map may be locked
	unlocked          *blockmap.Map // view of the same map whose keys are readable
}

// find finds the image that ref means, and checks that it is signed as was asked.
// A reader that stays says so, to have it kept.
func (a *app) find(ctx context.Context, v *generation.View, ref string, stays bool) (*generation.Image, error) {
	keys, err := publicKeys(a.required)
	if err != nil {
		return nil, err
	}
	open := v.Open
	if stays {
		open = v.Attach
	}
	i, err := openRef(ctx, open, ref)
	if err != nil || len(keys) == 0 {
		return i, err
	}
	if _, err := sign.Require(ctx, i.Map, v.Origin().Generation(i.Generation()), keys...); err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return i, nil
}

// open finds an image and unlocks it.
func (a *app) open(ctx context.Context, v *generation.View, ref string, stays bool) (*openImage, error) {
	i, err := a.find(ctx, v, ref, stays)
	if err != nil {
		return nil, err
	}
	m, err := a.unlock(ctx, v, i)
	if err == nil {
		err = seal.CheckReadable(m)
	}
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return &openImage{i, m}, nil
}

// unlock returns the block map of i, unlocked by the user's identity if it is
// locked.
func (a *app) unlock(ctx context.Context, v *generation.View, i *generation.Image) (*blockmap.Map, error) {
	if !i.Map.Locked() {
		return i.Map, nil
	}
	id, err := a.identity(ctx, false)
	if err != nil {
		return nil, err
	}
	return seal.UnlockFor(ctx, i.Map, v.Origin().Generation(i.Generation()), id.opens...)
}

// A stack is a disk with all that it is read through.
type stack struct {
	*disk.Disk
	image *openImage
}

// openDisk puts the layers of reading together, nearest first: memory, then
// the host cache, if there is one, then the checking door, the bound of what is
// asked of the store, then the image's generation. It is read by the frame if
// one of those is near.
func (a *app) openDisk(ctx context.Context, image *openImage, ref string, memory *disk.Memory) (*stack, error) {
	mode, near := disk.WholeChunks, a.near()
	src, err := a.origin.around(image, near, image.Map.Digest().String())
	if err != nil {
		return nil, err
	}
	reader, cache := a.throughCache(ctx, src, image)
	if cache != nil || near {
		mode = disk.SingleFrames
	}
	o := disk.Options{Memory: memory, Mode: mode, Logger: a.logger()}
	if cache != nil {
		o.Near = cache.Held()
	}
	d, err := disk.Open(image.unlocked, reader, o)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return &stack{Disk: d, image: image}, nil
}

// attach is open and openDisk for a reader that stays until ctx ends: the image
// is marked as in use meanwhile. done waits until that has ended too.
func (a *app) attach(ctx context.Context, v *generation.View, ref string, memory *disk.Memory) (s *stack, done func() error, err error) {
	image, err := a.open(ctx, v, ref, true)
	if err != nil {
		return nil, nil, err
	}
	if s, err = a.openDisk(ctx, image, ref, memory); err != nil {
		return nil, nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		image.Keep(ctx)
	}()
	return s, func() error {
		stop()
		<-kept
		return s.Close()
	}, nil
}

func (a *app) logger() *slog.Logger { return slog.New(slog.NewTextHandler(a.err, nil)) }

// openRef opens what ref means: a name or a digest, or an image reference in any
// of its spellings.
func openRef[T any](ctx context.Context, open func(context.Context, string) (T, error), ref string) (T, error) {
	i, err := open(ctx, ref)
	if err == nil || !errors.Is(err, chunk.ErrNotFound) {
		return i, err
	}
	for _, other := range spellings(ref) {
		if i, otherErr := open(ctx, other); !errors.Is(otherErr, chunk.ErrNotFound) {
			return i, otherErr
		}
	}
	return i, err
}
