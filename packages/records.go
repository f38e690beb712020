package packages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/packages/python"
)

// Records are what publishers have told of what they made, where packages are published
// to: by them, a host learns which layer a package is without making it.
type Records interface {
	// Find calls accept with what trusted publishers say of something, until it takes one;
	// own says that it is this publisher's word. refused names those whose records are there and were not taken.
	Find(ctx context.Context, kind, of string, accept func(value []byte, own bool) bool) (refused []string, err error)
	// Has reports whether a layer is there, whole, so that it need not be read.
	Has(ctx context.Context, diffID v1.Hash) (bool, error)
}

// A Record is what this publication tells further ones.
type Record struct {
	Kind, Of string
	Value    []byte
}

// Kinds of records.
const (
	installationKind = "installation" // by its key, an Installed
	targetKind       = "python"       // by the image's chain ID, a python.Target
)

// targetVersion changes with what a Target says.
const targetVersion = "rivulet python target 1 "

// ErrRecord is returned (wrapped) when a package was to be read that a record spoke of, and
// turned out to be another here. Without Records, it is installed here.
var ErrRecord = errors.New("the store's record of the package says otherwise")

const (
	maxLayerBytes = 1 << 40
	maxPaths      = 1 << 20
)

// A note is what a publication has to tell of one installation or target.
type note struct {
	kind, of string
	value    any
	others   bool // not this publisher's to tell
}

// noted remembers what is to be told of when the image is published.
func (c *Cache) noted(kind, of string, value any, others bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, note{kind, of, value, others})
}

// Used returns the records of all that was installed or looked at since the cache was
// opened: to be put where the image was published, once it is. What is known by others'
// word alone is not among them: nobody signs what he has not seen.
func (c *Cache) Used() ([]Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Record
	seen := make(map[string]bool)
	for _, n := range c.notes {
		if id := n.kind + " " + n.of; !seen[id] && !n.others {
			seen[id] = true
			data, err := json.Marshal(n.value)
			if err != nil {
				return nil, fmt.Errorf("record of %s %s: %w", n.kind, n.of, err)
			}
			out = append(out, Record{n.kind, n.of, data})
		}
	}
	return out, nil
}

// Distrust forgets Records, and what they said.
func (c *Cache) Distrust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Records, c.notes = nil, nil
}

// Imports returns what imports of the Python packages that were used read, in the order of
// their layers.
func (c *Cache) Imports() []*python.Import {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*python.Import
	for _, n := range c.notes {
		if in, ok := n.value.(*Installed); ok && in.Import != nil {
			out = append(out, in.Import)
		}
	}
	return out
}

// foundTarget returns what a record says of an image's Python, or nil; and whether it is this
// publisher's own.
func (c *Cache) foundTarget(ctx context.Context, chain string) (found *python.Target, own bool, err error) {
	if c.Records == nil {
		return nil, false, nil
	}
	_, err = c.Records.Find(ctx, targetKind, targetVersion+chain, func(value []byte, by bool) bool {
		var t python.Target
		if json.Unmarshal(value, &t) != nil || t.Check() != nil {
			return false
		}
		found, own = &t, by
		return true
	})
	return found, own, err
}

// recorded returns the installation that a record speaks of, if its layer is where the
// image is published to; else nil. make makes it, should it have to be read all the same.
func (c *Cache) recorded(ctx context.Context, key, what string, make func(ctx context.Context) (*Installed, error)) (*Installed, error) {
	if c.Records == nil {
		return nil, nil
	}
	var found *Installed
	var failed error
	lost := false
	refused, err := c.Records.Find(ctx, installationKind, key, func(value []byte, own bool) bool {
		in, err := parseRecord(value, key)
		if err != nil {
			return false
		}
		id, err := v1.NewHash(in.DiffID)
		if err != nil {
			return false
		}
		there, err := c.Records.Has(ctx, id)
		if failed = errors.Join(failed, err); !there {
			lost = true
			return false
		}
		in.others = !own
		found = in
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	switch {
	case found != nil:
		found.make = make
	case lost:
		c.tell("package %s: the store's record of it leads to a layer that is not whole there: it is installed here", what)
	case len(refused) > 0:
		c.tell("package %s: the store has a record of it by %s, which is not trusted or not as it should be: it is installed here", what, strings.Join(refused, ", "))
	}
	return found, nil
}

// tell is called by all who install at once, and Tell by one at a time.
func (c *Cache) tell(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Tell != nil {
		c.Tell(fmt.Sprintf(format, args...))
	}
}

// parseRecord reads a record of the installation with that key.
func parseRecord(value []byte, key string) (*Installed, error) {
	var in Installed
	if err := json.Unmarshal(value, &in); err != nil {
		return nil, fmt.Errorf("record of installation %s: %w", key, err)
	}
	if in.Key != key || in.Size <= 0 || in.Size > maxLayerBytes || len(in.Paths) > maxPaths || in.Name == "" || in.Import.Check() != nil {
		return nil, fmt.Errorf("record of installation %s: not one of it", key)
	}
	return &in, nil
}

// openRecorded opens the layer of an installation that is known by a record alone: it is
// made here, and has to be the same.
func (c *Cache) openRecorded(ctx context.Context, in *Installed) (io.ReadCloser, error) {
	made, err := in.make(ctx)
	if err != nil {
		return nil, fmt.Errorf("package %s %s: %w", in.Name, in.Version, err)
	}
	if made.DiffID != in.DiffID {
		return nil, fmt.Errorf("package %s %s: it is layer %s here, and %s by the record: %w", in.Name, in.Version, made.DiffID, in.DiffID, ErrRecord)
	}
	return os.Open(c.path("installed", in.Key+".tar"))
}
