package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// mapSuffix is of a block map's file, which has its digest as name, in hex.
const mapSuffix = ".map"

// keptTime bounds opening an image from what was kept: a key service may be away.
const keptTime = 15 * time.Second

// Kept is what a record has so that its image can be opened without its origin,
// beside the block map, which is a file of its own. It is what the origin shows
// to everybody: the key is wrapped, and unwrapped anew each time.
type Kept struct {
	// Near is the Source's.
	Near bool `json:"near,omitempty"`
	// Attachments has, by kind, the attachment that opened the image, and that
	// which vouched for it.
	Attachments map[string][]byte `json:"attachments,omitempty"`
}

// tracked are the attachments of an image, of which it keeps those with which a
// search was content.
type tracked struct {
	origin.Attachments
	found map[string][]byte // by kind
}

// ListAttachments implements [origin.Attachments].
func (t *tracked) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	return t.Attachments.ListAttachments(ctx, subject, kind, func(data []byte) error {
		kept := bytes.Clone(data)
		err := fn(data)
		if err != nil && ctx.Err() == nil { // that is how a search ends
			t.found[kind] = kept
		}
		return err
	})
}

// Attach implements [origin.Attachments].
func (*Kept) Attach(context.Context, origin.Digest, string, []byte) error { return origin.ErrReadOnly }

// ListAttachments implements [origin.Attachments].
func (k *Kept) ListAttachments(_ context.Context, _ origin.Digest, kind string, fn func(data []byte) error) error {
	if data, ok := k.Attachments[kind]; ok {
		return fn(bytes.Clone(data))
	}
	return nil
}

// keptMaps are the block maps in a folder, each for as long as an attachment has
// that image.
type keptMaps struct {
	mu    sync.Mutex // guards the table and the removing of files
	files map[string]*keptMap
}

type keptMap struct {
	users map[string]bool // IDs of attachments; under keptMaps.mu

	mu    sync.Mutex // held while it is written
	there bool       // and known to be whole
}

// use enters an attachment of the image with that digest.
func (k *keptMaps) use(digest, id string) *keptMap {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files == nil {
		k.files = make(map[string]*keptMap)
	}
	file := k.files[digest]
	if file == nil {
		file = &keptMap{users: make(map[string]bool)}
		k.files[digest] = file
	}
	file.users[id] = true
	return file
}

// keepMap keeps m for an attachment; dropMap undoes it.
func (f *folder) keepMap(m *blockmap.Map, id string) error {
	if f == nil {
		return nil
	}
	digest := m.Digest().String()
	file := f.maps.use(digest, id)
	file.mu.Lock()
	defer file.mu.Unlock()
	if file.there {
		return nil
	}
	if err := f.replace(mapName(digest), m.Bytes()); err != nil {
		f.dropMap(digest, id)
		return fmt.Errorf("keep block map %s: %w", digest, err)
	}
	file.there = true
	return nil
}

// dropMap removes the block map of that digest if no attachment needs it but the
// one with that ID. A file that stays is removed by the next process.
func (f *folder) dropMap(digest, id string) {
	f.maps.mu.Lock()
	defer f.maps.mu.Unlock()
	file := f.maps.files[digest]
	if file == nil {
		return
	}
	if delete(file.users, id); len(file.users) == 0 {
		delete(f.maps.files, digest)
		_ = os.Remove(filepath.Join(f.path, mapName(digest)))
	}
}

// adopt takes over the block maps of an earlier process: those of all, and if
// nothing else can need them, it removes the others.
func (f *folder) adopt(all []*record, alone bool) error {
	if f == nil {
		return nil
	}
	for _, r := range all {
		f.maps.use(r.Image, r.ID)
	}
	left, err := f.files("", mapSuffix)
	for _, path := range left {
		digest := "sha256:" + strings.TrimSuffix(filepath.Base(path), mapSuffix)
		if alone && f.maps.files[digest] == nil {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

func mapName(digest string) string { return strings.TrimPrefix(digest, "sha256:") + mapSuffix }

// readMap returns the block map of that digest which is kept in the folder at path.
func readMap(path string, d origin.Digest) (*blockmap.Map, error) {
	file, err := os.Open(filepath.Join(path, mapName(d.String())))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || info.Size() > catalog.MaxBlockMapBytes {
		return nil, errors.Join(fmt.Errorf("kept block map %v of more than %d bytes", d, catalog.MaxBlockMapBytes), err)
	}
	b := make([]byte, info.Size())
	if _, err = io.ReadFull(file, b); err == nil {
		err = d.Check(b)
	}
	if err != nil {
		return nil, fmt.Errorf("kept block map %v: %w", d, err)
	}
	return blockmap.Parse(b)
}

// readKept returns the unlocked block map of a record's image from what the folder
// has of it, checked as if it came from the origin. The error is fs.ErrNotExist if
// nothing was kept.
func readKept(ctx context.Context, folder string, r *record, reader *Reader) (*blockmap.Map, error) {
	if r.Kept == nil {
		return nil, fs.ErrNotExist
	}
	d, err := origin.ParseDigest(r.Image)
	if err != nil {
		return nil, err
	}
	m, err := readMap(folder, d)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, keptTime)
	defer cancel()
	return reader.read(ctx, m, r.Kept)
}

// lateImage returns the image of m, to be found at the origin when that answers.
func (h *Host) lateImage(m *blockmap.Map, store string) *late {
	return newLate(func(ctx context.Context) (*generation.Image, chunk.Source, error) {
		src, err := h.source(ctx, store)
		if err != nil {
			return nil, nil, err
		}
		image, err := src.View.Attach(ctx, m.Digest().String())
		if err != nil {
			return nil, nil, err
		}
		return image, src.bounded(image), nil
	})
}
