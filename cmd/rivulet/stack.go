package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store"
)

// openOrigin opens the origin that the user chose. With create, a missing one is
// made.
func (a *app) openOrigin(ctx context.Context, create bool) (origin.Origin, error) {
	return a.openChosen(ctx, store.Options{Create: create})
}

// openChosen is openOrigin with more to say.
func (a *app) openChosen(ctx context.Context, opts store.Options) (origin.Origin, error) {
	url, err := a.chosenStore()
	if err != nil {
		return nil, err
	}
	return a.openURL(ctx, url, opts)
}

// openURL opens the origin at a URL.
func (a *app) openURL(ctx context.Context, url string, opts store.Options) (origin.Origin, error) {
	opts.Logger, opts.Keychain = a.logger(), a.keychain
	o, err := store.Open(ctx, url, opts)
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
	return a.view(o), nil
}

func (a *app) view(o origin.Origin) *generation.View {
	return generation.NewView(o, generation.Options{Logger: a.logger()})
}

// chosenStore returns the store's URL: of --store, of RIVULET_STORE, or of the
// user's data folder.
func (a *app) chosenStore() (string, error) {
	if a.instead != "" {
		return a.instead, nil
	}
	if a.storeURL != "" {
		return a.storeURL, nil
	}
	if url := os.Getenv("RIVULET_STORE"); url != "" {
		return url, nil
	}
	data, err := dataDir()
	if err != nil {
		return "", fmt.Errorf("no --store, no RIVULET_STORE, and no home folder to keep one in: %w", err)
	}
	return "dir:" + filepath.Join(data, "rivulet"), nil
}

// noStoreChosen reports whether the store is the user's own because no other was chosen.
func (a *app) noStoreChosen() bool { return a.storeURL == "" && os.Getenv("RIVULET_STORE") == "" }

// dataDir is where programs keep what is the user's.
func dataDir() (string, error) {
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		data = filepath.Join(home, ".local", "share")
	}
	return data, nil
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

// reader is the user as who reads images.
func (a *app) reader() (*host.Reader, error) {
	keys, err := publicKeys(a.required)
	return &host.Reader{Required: keys, Spellings: spellings, Identity: func(ctx context.Context) ([]seal.Unwrapper, error) {
		id, err := a.identity(ctx, false)
		if err != nil {
			return nil, err
		}
		return id.opens, nil
	}}, err
}

// find finds the image that ref means, and checks that it is signed as was asked.
// A reader that stays says so, to have it kept.
func (a *app) find(ctx context.Context, v *generation.View, ref string, stays bool) (*generation.Image, error) {
	r, err := a.reader()
	if err != nil {
		return nil, err
	}
	return r.Find(ctx, v, ref, stays)
}

// open finds an image and unlocks it.
func (a *app) open(ctx context.Context, v *generation.View, ref string) (*host.Image, error) {
	r, err := a.reader()
	if err != nil {
		return nil, err
	}
	return r.Open(ctx, v, ref, false)
}

// unlock returns the block map of i, unlocked by the user's identity if it is
// locked.
func (a *app) unlock(ctx context.Context, v *generation.View, i *generation.Image) (*blockmap.Map, error) {
	r, err := a.reader()
	if err != nil {
		return nil, err
	}
	return r.Unlock(ctx, v, i)
}

// oneShotMemory is what a command keeps of a disk that it reads once, in bytes.
const oneShotMemory = 64 << 20

// openDisk opens the disk of an image for a command that reads it once.
func (a *app) openDisk(ctx context.Context, image *host.Image, ref string) (*host.Disk, error) {
	return a.openDiskIn(ctx, image, ref, oneShotMemory)
}

// openDiskIn is openDisk with a bound of what is kept of the disk, in bytes.
func (a *app) openDiskIn(ctx context.Context, image *host.Image, ref string, memory int64) (*host.Disk, error) {
	near := a.near()
	bound, err := a.origin.share(near)
	if err != nil {
		return nil, err
	}
	stack := host.Stack{Memory: disk.NewMemory(memory), Cache: a.diskCache(ctx), Logger: a.logger()}
	d, err := stack.Disk(image, near, bound)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return d, nil
}

func (a *app) logger() *slog.Logger {
	var o slog.HandlerOptions
	if a.quiet {
		o.Level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(a.err, &o))
}

// openRef opens what ref means: a name or a digest, or an image reference in any
// of its spellings.
func openRef[T any](ctx context.Context, open func(context.Context, string) (T, error), ref string) (T, error) {
	return host.Lookup(ctx, open, ref, spellings)
}
