package cache

import (
	"context"
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
	version     = "rivulet cache 2\n"
	lastVersion = "rivulet cache 1\n" // had no extracts, and is taken over
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
		err = c.run(ctx, config.ScrubRate)
	}
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", config.Dir, err)
	}
	return c, nil
}

// run takes the directory and starts the work in the background.
func (c *Cache) run(ctx context.Context, scrubRate int64) error {
	if err := c.start(ctx); err != nil {
		if c.lock != nil {
			err = errors.Join(err, c.lock.Close())
		}
		return err
	}
	done, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.running.Go(func() { c.housekeeping(done) })
	if scrubRate > 0 {
		c.running.Go(func() { c.scrubForever(done, scrubRate) })
	}
	return nil
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
		files:     files{dir: dir, group: config.Group, fault: config.fault},
		max:       config.MaxBytes,
		maxChunks: int(max(leastChunks, config.MaxBytes/bytesPerChunk)),
		minFree:   config.MinFree,
		logger:    config.Logger,
		policy:    config.Policy,
		begun:     time.Now(),
		entries:   make(map[chunk.ID]*entry),
		deposits:  make(map[chunk.ID]*Deposit),
		pins:      make(map[chunk.ID]int64),
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
	records := c.readIndex()
	c.entries = make(map[chunk.ID]*entry, len(records)/recordLen)
	if err := c.scan(ctx); err != nil {
		return err
	}
	c.loadPins()
	c.restore(records)
	for c.over(0) { // the cap was larger
		if err := ctx.Err(); err != nil {
			return err
		}
		c.mu.Lock()
		_, err := c.evictOne()
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// claimDir makes the directory and locks it.
func (c *Cache) claimDir() error {
	mode := c.dirMode()
	if err := os.MkdirAll(c.dir, mode); err != nil {
		return err
	}
	marked, current, err := c.recognise()
	if err != nil {
		return err
	}
	if c.lock, err = os.OpenFile(c.path(versionFile), os.O_RDWR|os.O_CREATE, mode&0o640); err != nil {
		return err
	}
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return os.NewSyscallError("flock", err)
	}
	if !marked || !current { // before anything else is there to be taken for
		if err := c.writeAt(c.lock, []byte(version), 0); err != nil {
			return err
		}
		if err := errors.Join(c.sync(c.lock), c.syncDir()); err != nil {
			return err
		}
	}
	if err := os.Chmod(c.dir, mode); err != nil {
		return err
	}
	for _, name := range []string{tempDir, chunksDir} {
		if err := c.mkdir(c.path(name)); err != nil {
			return err
		}
	}
	return nil
}

// recognise fails unless the directory is empty or a cache's, and reports
// whether it has the mark of one, and of one of this version. The mark is there before anything else is, but
// a crash may have cut it.
func (c *Cache) recognise() (marked, current bool, err error) {
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return false, false, err
	}
	text, err := c.readFile(c.path(versionFile), int64(len(version)))
	switch {
	case errors.Is(err, errTooLong), err == nil && !strings.HasPrefix(version, string(text)) && string(text) != lastVersion:
		return false, false, fmt.Errorf("%w: its file %s is not %q", ErrNoCache, versionFile, version)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, false, err
	}
	current = string(text) == version
	marked = current || string(text) == lastVersion
	for _, e := range list {
		switch e.Name() {
		case versionFile, "lost+found":
			continue
		case chunksDir, tempDir, indexFile, pinsFile:
			if marked {
				continue
			}
		}
		return false, false, fmt.Errorf("%w: it has %s in it", ErrNoCache, e.Name())
	}
	return marked, current, nil
}

// clearTemp removes what deposits left that a crash interrupted.
func (c *Cache) clearTemp() error {
	list, err := os.ReadDir(c.path(tempDir))
	if err != nil {
		return err
	}
	for _, e := range list {
		err := c.files.remove(c.path(tempDir, e.Name()))
		if notEmpty(err) {
			c.logger.Warn("cache: not ours, and left alone", "path", c.path(tempDir, e.Name()))
			continue
		}
		if err != nil {
			return err
		}
		c.stats.Orphans++
	}
	return nil
}

// place returns the path of the file for an object.
func (c *Cache) place(o object) string {
	id := o.id.String()
	name := c.dir + "/" + chunksDir + "/" + id[:2] + "/" + id + "." + strconv.FormatInt(o.size, 10)
	if o.extract != 0 {
		name += "." + strconv.FormatUint(uint64(o.extract), 16)
	}
	return name
}

// parseName is the inverse of place.
func parseName(folder, name string) (o object, ok bool) {
	id, last, _ := strings.Cut(name, ".")
	size, frames, some := strings.Cut(last, ".")
	var err error
	if o.id, err = chunk.ParseID(id); err != nil || id[:2] != folder {
		return o, false
	}
	o.size, err = strconv.ParseInt(size, 10, 64)
	ok = err == nil && o.size >= 1 && o.size <= chunk.MaxStoredSize && strconv.FormatInt(o.size, 10) == size
	if some && ok {
		var set uint64
		set, err = strconv.ParseUint(frames, 16, 64)
		o.extract = chunk.Extract(set)
		ok = err == nil && set != 0 && strconv.FormatUint(set, 16) == frames
	}
	return o, ok
}

// scan makes an entry for each file, by its name alone. A file in a folder of ours
// that has no name of ours is damage, and removed; so is a second file of one chunk. Of an
// extract and what was to take its place a crash may have left both: the larger one stays.
// What else somebody has put there is left alone, but out of our way.
func (c *Cache) scan(ctx context.Context) error {
	folders, err := readNames(c.path(chunksDir))
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !isFolder(folder) {
			c.logger.Warn("cache: not ours, and left alone", "path", c.path(chunksDir, folder))
			continue
		}
		names, err := readNames(c.path(chunksDir, folder))
		if errors.Is(err, unix.ENOTDIR) { // where a folder has to be
			err = c.setAside(folder)
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			o, ok := parseName(folder, name)
			old := c.entries[o.id]
			if ok && old == nil {
				c.entries[o.id] = &entry{object: o}
				c.used += o.cost()
				continue
			}
			if ok && old.extract != o.extract {
				if err := c.leaveLarger(old, o); err != nil {
					return err
				}
				continue
			}
			err := c.files.remove(c.path(chunksDir, folder, name))
			if notEmpty(err) {
				c.logger.Warn("cache: not ours, and left alone", "path", c.path(chunksDir, folder, name))
				continue
			}
			if err != nil {
				return err
			}
			c.stats.Damaged++
			c.logger.Warn("cache: file without a chunk's name removed", "folder", folder, "name", name)
		}
	}
	return nil
}

// leaveLarger has e be of the larger one of its object and o, and removes the other.
func (c *Cache) leaveLarger(e *entry, o object) error {
	if o.size > e.size {
		c.used += o.cost() - e.cost()
		o, e.object = e.object, o
	}
	c.stats.Orphans++
	return c.files.remove(c.place(o))
}

// isFolder reports whether chunks lie in a folder of that name.
func isFolder(name string) bool {
	return len(name) == 2 && strings.Trim(name, "0123456789abcdef") == ""
}

// setAside gives a file another name that has that of a folder.
func (c *Cache) setAside(name string) error {
	for n := 1; ; n++ {
		aside := c.path(chunksDir, fmt.Sprintf("not-ours-%s-%d", name, n))
		if _, err := os.Lstat(aside); err == nil {
			continue
		}
		c.logger.Warn("cache: a file where a folder of chunks has to be; moved", "path", c.path(chunksDir, name), "to", aside)
		return os.Rename(c.path(chunksDir, name), aside)
	}
}

// notEmpty reports whether err says that a directory was to be removed that has
// something in it.
func notEmpty(err error) bool {
	return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)
}

// readNames returns the names in a directory, in no order.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}
