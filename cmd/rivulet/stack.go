package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/dir"
)

// openStore opens the store that the user chose. With create, a missing one is
// made.
func (a *app) openStore(create bool) (origin.Store, error) {
	url, err := a.chosenStore()
	if err != nil {
		return nil, err
	}
	path, ok := strings.CutPrefix(url, "dir:")
	if !ok {
		return nil, usagef("store %q: want dir:PATH", url)
	}
	if path == "" {
		return nil, usagef("store %q: the path is missing", url)
	}
	s, err := dir.Open(path, create)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", url, err)
	}
	return s.Generation(1), nil
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
	path, ok := strings.CutPrefix(url, "dir:")
	if !ok || path == "" {
		return url, nil // openStore has the complaint
	}
	path, err = filepath.Abs(path)
	return "dir:" + path, err
}

// A stack is a disk with all that it is read through.
type stack struct {
	*disk.Disk
	blocks *blockmap.Map
}

// openDisk puts the layers of reading together, nearest first: memory, then
// the checking door, then the store, which is near and so read by the frame.
func (a *app) openDisk(ctx context.Context, store origin.Store, ref string, memory *disk.Memory) (*stack, error) {
	m, err := openMap(ctx, store, ref)
	if err != nil {
		return nil, err
	}
	d, err := disk.Open(m, chunk.NewDoor(store), disk.Options{Memory: memory, Mode: disk.SingleFrames, Logger: a.logger()})
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return &stack{Disk: d, blocks: m}, nil
}

func (a *app) logger() *slog.Logger { return slog.New(slog.NewTextHandler(a.err, nil)) }
