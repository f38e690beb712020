package packages

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

// DefaultBound is how many bytes a Cache keeps unless it is told otherwise.
const DefaultBound = 20 << 30

const (
	// inUse is how long after its last use a thing may still be read by a publication.
	inUse = time.Hour
	// forgotten is how long the uses of what is gone are remembered.
	forgotten = 90 * 24 * time.Hour
	maxUses   = evict.MaxK
)

// What a cache keeps, each in a folder of its own.
const (
	installedKind = "installed"
	fileKind      = "files"
	baseKind      = "bases"
)

var kinds = []string{installedKind, fileKind, baseKind}

// A thing is what a cache keeps or gives up as a whole.
type thing struct {
	kind, name string
	lock       string   // that its maker holds
	paths      []string // in the order of removal
	bytes      int64
	uses       []time.Time // the last ones
}

func (t *thing) id() chunk.ID { return sha256.Sum256([]byte(t.kind + "/" + t.name)) }

// used notes that a thing is used. It is advice: what cannot be noted is no failure.
func (c *Cache) used(kind, name string) {
	file := c.path("uses", kind+"-"+name)
	times := append(readUses(file), time.Now())
	var b strings.Builder
	for _, t := range times[max(0, len(times)-maxUses):] {
		fmt.Fprintln(&b, t.UnixNano())
	}
	if half, err := fresh(file); err == nil && os.WriteFile(half, []byte(b.String()), 0o600) == nil {
		_ = os.Rename(half, file)
	}
}

// readUses returns the times in a file of uses: those that it can make out.
func readUses(file string) (out []time.Time) {
	data, err := readFile(file, 1<<10)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64); err == nil {
			out = append(out, time.Unix(0, n))
		}
	}
	return out
}

// grew notes that something was added.
func (c *Cache) grew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grown = true
}

// Trim removes, if something was added, what is used least until the cache is within its
// bound: by the rule that host caches follow (evict.New), over installations, files and
// trees of images alike. What was used within the last hour stays, whatever the bound.
func (c *Cache) Trim(ctx context.Context) error {
	c.mu.Lock()
	grown := c.grown
	c.grown = false
	c.mu.Unlock()
	if !grown {
		return nil
	}
	bound := cmp.Or(c.Bound, DefaultBound)
	things, err := c.things()
	if err != nil {
		return fmt.Errorf("trim the folder of packages: %w", err)
	}
	now := time.Now()
	policy, byID := order(things, now)
	for policy.Bytes() > bound && ctx.Err() == nil {
		id, ok := policy.Victim(since(now), func(id chunk.ID) bool { return idle(byID[id].uses) })
		if !ok {
			break
		}
		if err := c.give(byID[id]); err != nil {
			return fmt.Errorf("trim the folder of packages: %w", err)
		}
		policy.Remove(id, true)
	}
	return errors.Join(c.sweep(), c.forget(now))
}

// idle reports whether a thing was not used of late.
func idle(uses []time.Time) bool {
	return len(uses) == 0 || time.Since(uses[len(uses)-1]) > inUse
}

// since returns a time as a policy takes it.
func since(t time.Time) time.Duration { return time.Duration(t.UnixNano()) }

// order returns a policy that knows all uses.
func order(things []*thing, now time.Time) (evict.Policy, map[chunk.ID]*thing) {
	policy, byID := evict.New(), make(map[chunk.ID]*thing)
	type use struct {
		of *thing
		at time.Time
	}
	var uses []use
	for _, t := range things {
		byID[t.id()] = t
		if len(t.uses) == 0 {
			uses = append(uses, use{t, time.Unix(0, 0)})
		}
		for _, at := range t.uses {
			if at.After(now) { // the clock was set back
				at = now
			}
			uses = append(uses, use{t, at})
		}
	}
	slices.SortStableFunc(uses, func(a, b use) int { return a.at.Compare(b.at) })
	for _, u := range uses {
		policy.Insert(u.of.id(), u.of.bytes, since(u.at))
	}
	return policy, byID
}

// things lists what the cache keeps.
func (c *Cache) things() ([]*thing, error) {
	var out []*thing
	for _, kind := range kinds {
		all, err := os.ReadDir(c.path(kind))
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			t := &thing{kind: kind, name: e.Name()}
			if strings.HasPrefix(t.name, ".") {
				continue // being made
			}
			t.paths = []string{c.path(kind, t.name)}
			if kind == installedKind {
				var ok bool
				if t.name, ok = strings.CutSuffix(t.name, ".json"); !ok {
					continue
				}
				// The mark goes first: without it there is no installation.
				t.paths = append(t.paths, c.path(kind, t.name+".tar"))
			}
			t.lock = lockOf(kind, t.name)
			t.bytes = c.bytesOf(t)
			t.uses = readUses(c.path("uses", kind+"-"+t.name))
			out = append(out, t)
		}
	}
	return out, nil
}

// bytesOf returns how much room a thing takes.
func (c *Cache) bytesOf(t *thing) (n int64) {
	if t.kind == baseKind {
		data, err := readFile(filepath.Join(t.paths[0], "bytes"), 32)
		if n, parseErr := strconv.ParseInt(string(data), 10, 64); err == nil && parseErr == nil && n >= 0 {
			return n
		}
	}
	for _, p := range t.paths {
		n += bytesBelow(p)
	}
	return n
}

// bytesBelow returns what a file, or all in a folder, takes.
func bytesBelow(path string) (n int64) {
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return n
}

// lockOf returns the name of the lock that the maker of a thing holds.
func lockOf(kind, name string) string {
	return map[string]string{installedKind: "package-", fileKind: "file-", baseKind: "base-"}[kind] + name
}

// whileNobodyMakes calls fn with a lock, unless somebody has it.
func (c *Cache) whileNobodyMakes(lock string, fn func() error) error {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	unlock, err := c.lock(now, lock)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}

// give gives a thing up. One that somebody makes just now, or has begun to use, stays.
func (c *Cache) give(t *thing) error {
	return c.whileNobodyMakes(t.lock, func() error {
		if !idle(readUses(c.path("uses", t.kind+"-"+t.name))) {
			return nil
		}
		for _, p := range t.paths {
			if err := removeWhole(p); err != nil {
				return err
			}
		}
		return nil
	})
}

// sweep removes what killed processes have left half-made, or half removed.
func (c *Cache) sweep() error {
	for _, kind := range kinds {
		all, err := os.ReadDir(c.path(kind))
		if err != nil {
			return err
		}
		for _, e := range all {
			rest, ok := strings.CutPrefix(e.Name(), ".")
			if !ok {
				continue
			}
			name, _, _ := strings.Cut(rest, ".")
			err := c.whileNobodyMakes(lockOf(kind, name), func() error { return scratch.RemoveAll(c.path(kind, e.Name())) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// forget removes the uses of what nobody has used for long.
func (c *Cache) forget(now time.Time) error {
	all, err := os.ReadDir(c.path("uses"))
	if err != nil {
		return err
	}
	for _, e := range all {
		info, err := e.Info()
		if err == nil && now.Sub(info.ModTime()) > forgotten {
			err = os.Remove(c.path("uses", e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
