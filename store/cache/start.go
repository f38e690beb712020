package cache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

// Names in the directory.
const (
	versionFile = "version" // locked while the cache is open
	version     = "rivulet cache 1\n"
	chunksDir   = "chunks"
	tempDir     = "tmp"
	indexFile   = "index"
	pinsFile    = "pins"
)

// ErrNoCache is returned (wrapped) by Open for a directory that holds something
// else, or a cache of another version.
var ErrNoCache = errors.New("not a cache directory of this version")

// Open opens the cache in a directory, or makes one. One process at a time may
// have it open. It looks at names only, not into chunks; what a crash left
// half-made is removed. ctx bounds Open, not the cache.
func Open(ctx context.Context, config Config) (*Cache, error) {
	c, err := newCache(config)
	if err == nil {
		if err = c.start(ctx); err != nil && c.lock != nil {
			err = errors.Join(err, c.lock.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", config.Dir, err)
	}
	c.done, c.stop = context.WithCancel(context.Background())
	c.running.Go(func() { c.housekeeping(c.done) })
	if config.ScrubRate > 0 {
		c.running.Go(func() { c.scrubForever(c.done, config.ScrubRate) })
	}
	return c, nil
}

func newCache(config Config) (*Cache, error) {
	if config.Dir == "" || config.MaxBytes <= 0 || config.MinFree < 0 || config.ScrubRate < 0 {
		return nil, errors.New("needs a directory, a positive cap, and no negative numbers")
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, err
	}
	c := &Cache{
		files:    files{dir: dir, group: config.Group, fault: config.fault},
		max:      config.MaxBytes,
		minFree:  config.MinFree,
		durable:  config.Sync,
		logger:   config.Logger,
		policy:   config.Policy,
		begun:    time.Now(),
		entries:  make(map[chunk.ID]*entry),
		deposits: make(map[chunk.ID]*Deposit),
		pins:     make(map[chunk.ID]int64),
	}
	c.gone.L = &c.mu
	if c.policy == nil {
		c.policy = evict.New()
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// start makes the directory what it should be, and reads it.
func (c *Cache) start(ctx context.Context) error {
	if err := c.claimDir(); err != nil {
		return err
	}
	if err := c.clearTemp(); err != nil {
		return err
	}
	if err := c.scan(ctx); err != nil {
		return err
	}
	if err := c.loadPins(); err != nil {
		return err
	}
	c.loadIndex()
	for c.used > c.max { // the cap was larger
		if err := ctx.Err(); err != nil {
			return err
		}
		c.mu.Lock()
		_, err := c.evictOne()
		c.mu.Unlock()
		if errors.Is(err, ErrFull) {
			return nil // pins
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// claimDir makes the directory and locks it.
func (c *Cache) claimDir() error {
	mode := os.FileMode(0o700)
	if c.group {
		mode = 0o750
	}
	if err := os.MkdirAll(c.dir, mode); err != nil {
		return err
	}
	if err := c.recognise(); err != nil {
		return err
	}
	var err error
	if c.lock, err = os.OpenFile(c.path(versionFile), os.O_RDWR|os.O_CREATE, mode&0o640); err != nil {
		return err
	}
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return os.NewSyscallError("flock", err)
	}
	if _, err := c.lock.WriteAt([]byte(version), 0); err != nil {
		return err
	}
	if err := os.Chmod(c.dir, mode); err != nil {
		return err
	}
	for _, name := range append(folders(), tempDir) {
		if err := os.MkdirAll(c.path(name), mode); err != nil {
			return err
		}
	}
	return nil
}

// folders returns the folders of chunks.
func folders() []string {
	list := make([]string, 256)
	for i := range list {
		list[i] = filepath.Join(chunksDir, hex.EncodeToString([]byte{byte(i)}))
	}
	return list
}

// recognise fails unless the directory is empty or a cache's. A power cut may
// have emptied the version file.
func (c *Cache) recognise() error {
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		switch e.Name() {
		case versionFile, chunksDir, tempDir, indexFile, pinsFile, "lost+found":
		default:
			return fmt.Errorf("%w: it has %s in it", ErrNoCache, e.Name())
		}
	}
	text, err := c.readFile(c.path(versionFile), int64(len(version)))
	if errors.Is(err, fs.ErrNotExist) && len(list) > 1 {
		return nil // a crash before it was written: the names are ours
	}
	if err == nil && len(text) > 0 && string(text) != version {
		return fmt.Errorf("%w: its %s file has %q", ErrNoCache, versionFile, text)
	}
	if errors.Is(err, errTooLong) {
		return fmt.Errorf("%w: %s: %w", ErrNoCache, versionFile, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// clearTemp removes what deposits left that a crash interrupted.
func (c *Cache) clearTemp() error {
	list, err := os.ReadDir(c.path(tempDir))
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := c.files.remove(c.path(tempDir, e.Name())); err != nil {
			return err
		}
		c.stats.Orphans++
	}
	return nil
}

// place returns the path of the file for an object of size bytes.
func (c *Cache) place(id chunk.ID, size int64) string {
	name := id.String()
	return c.dir + "/" + chunksDir + "/" + name[:2] + "/" + name + "." + strconv.FormatInt(size, 10)
}

// parseName is the inverse of place.
func parseName(folder, name string) (id chunk.ID, size int64, ok bool) {
	first, last, _ := strings.Cut(name, ".")
	id, err := chunk.ParseID(first)
	if err != nil || first[:2] != folder {
		return id, 0, false
	}
	size, err = strconv.ParseInt(last, 10, 64)
	ok = err == nil && size >= 1 && size <= chunk.MaxStoredSize && strconv.FormatInt(size, 10) == last
	return id, size, ok
}

// scan makes an entry for each file, by its name alone. What has no name of
// ours is damage, and removed; so is a second file of one chunk.
func (c *Cache) scan(ctx context.Context) error {
	for _, folder := range folders() {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := os.Open(c.path(folder))
		if err != nil {
			return err
		}
		names, err := d.Readdirnames(-1)
		_ = d.Close() // it was only read
		if err != nil {
			return err
		}
		for _, name := range names {
			id, size, ok := parseName(filepath.Base(folder), name)
			if ok && c.entries[id] == nil {
				c.entries[id] = &entry{id: id, size: size}
				c.used += Cost(size)
				continue
			}
			c.stats.Damaged++
			c.logger.Warn("cache: file without a chunk's name removed", "path", filepath.Join(folder, name))
			if err := c.files.remove(c.path(folder, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
