// Package dir keeps an origin in a directory of a local file system, under the
// names of package place:
//
//	version                      "rivulet store 3\n"; written last when a store is made
//	pointers/…                   a pointer, with a line that proves its bytes
//	pointers.lock                locked (flock) by whoever changes a pointer
//	tmp/…                        files being written, and what is being removed
//	generations/N/               one generation:
//	  chunks/ab/ab…              a stored chunk, named by its ID in hexadecimal
//	  objects/sha256/ab/ab…      an object, named by its digest
//	  attachments/ab…/KIND/ab…   what is said of the object ab…, named by its digest
//	  pointers/…                 as above, those of the generation
//
// doc/format/origin.md has the rules. Every file is written under tmp, or without a
// name, synced, and only then named, and its directory is synced, for chunks by Flush:
// so a name that can be seen is a whole file, whenever the writer was killed, and a
// finished call survives a power cut. Any number of processes may use one
// directory. A file that was damaged later and kept its size passes for whole until
// it is read, also with Put: rivulet verify finds it, and removing it lets Put
// store it anew.
//
// Reading writes nothing, so that a store may lie on a read-only file system.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

const (
	lockFile = "pointers.lock"
	tempDir  = "tmp"
)

// staleTemp is the age at which a temporary file is no longer anybody's: no
// single file takes that long to write.
const staleTemp = 24 * time.Hour

// fresh is the age below which a file's directory entry may not be durable yet,
// because another process has named it and not come to Flush, or was killed before.
// What is older the kernel has written by itself, and who goes on putting has flushed. It
// counts from when the file last got a name: a link to an old file is new.
const fresh = time.Minute

// A tree is a part of the directory that has pointers: the origin, or one of
// its generations.
type tree struct {
	top    string                                   // directory of the whole origin
	root   string                                   // where this part lies
	create func(dir string, size int) (file, error) // a new file, to be placed
	sync   func(dir string) error                   // makes a directory's entries durable
	swaps  chan struct{}                            // holds one token: whoever has it may change pointers, wherever
}

// An Origin is an origin in a directory. Any number of calls may run at once.
type Origin struct {
	tree
	stores sync.Map // origin.GenerationID → *Store
}

// A Store is one generation of an [Origin].
type Store struct {
	tree
	chunks folders
	object folders // synced at once, as little as there is of them
}

var (
	_ origin.Origin = (*Origin)(nil)
	_ origin.Store  = (*Store)(nil)
)

// Open opens the origin at path. If create is true, an absent or empty directory
// becomes one, and temporary files that killed processes left behind are
// removed; otherwise Open writes nothing. It keeps no file open, so there is
// nothing to close.
func Open(path string, create bool) (*Origin, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	o := &Origin{tree: tree{top: root, root: root, create: createFile, sync: syncDir, swaps: make(chan struct{}, 1)}}
	o.swaps <- struct{}{}
	err = o.checkVersion()
	if errors.Is(err, origin.ErrNoStore) && create {
		err = o.init()
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	if create {
		o.removeStale()
	}
	return o, nil
}

// Path returns the absolute path of the origin's directory.
func (o *Origin) Path() string { return o.top }

// Generation implements [origin.Origin].
func (o *Origin) Generation(id origin.GenerationID) origin.Store { return o.generation(id) }

func (o *Origin) generation(id origin.GenerationID) *Store {
	if s, ok := o.stores.Load(id); ok {
		return s.(*Store)
	}
	s := &Store{tree: o.tree}
	s.root = filepath.Join(o.top, place.Generations, id.String())
	known, _ := o.stores.LoadOrStore(id, s)
	return known.(*Store)
}

func (o *Origin) checkVersion() error {
	f, err := os.Open(filepath.Join(o.top, place.Version))
	if errors.Is(err, fs.ErrNotExist) {
		return origin.ErrNoStore
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return err
	}
	return place.CheckVersion(b)
}

// init makes an empty origin. Two processes may do so at once.
func (o *Origin) init() error {
	if _, err := os.Stat(o.top); errors.Is(err, fs.ErrNotExist) {
		if err := makeDir(o.top); err != nil {
			return err
		}
	}
	list, err := os.ReadDir(o.top)
	if err != nil {
		return err
	}
	for _, e := range list {
		switch e.Name() {
		case place.Generations, place.Pointers, tempDir, place.Version, lockFile, "lost+found":
		default:
			return fmt.Errorf("%w, and not empty: it has %q", origin.ErrNoStore, e.Name())
		}
	}
	for _, d := range []string{place.Generations, place.Pointers, tempDir} {
		if err := os.MkdirAll(filepath.Join(o.top, d), 0o777); err != nil {
			return err
		}
	}
	return o.writeFile(filepath.Join(o.top, place.Version), []byte(place.VersionText))
}

// removeStale removes what killed processes left. It is a courtesy: errors mean
// that it stays.
func (o *Origin) removeStale() {
	dir := filepath.Join(o.top, tempDir)
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleTemp {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

// place returns the path of a content-named file, and that of its folder.
func (s *Store) place(kind string, id [32]byte) (path, dir string) {
	path = s.root + "/" + place.Hashed(kind, id)
	return path, filepath.Dir(path)
}

// put stores data at its place unless a file of the same size is there, and leaves its
// name to be made durable. Whether that one's bytes are right is not looked at: that
// would read the whole store on each publishing, and whoever reads an object checks it.
func (s *Store) put(kind string, f *folders, id [32]byte, data []byte) (added, late bool, err error) {
	path, dir := s.place(kind, id)
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == int64(len(data)) {
		return false, f.settle(id, info), nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, false, err
	}
	if err := f.make(id, dir); err != nil {
		return false, false, err
	}
	if err := s.writeEntry(path, data); err != nil {
		return false, false, err
	}
	return true, f.entered(id), nil
}

// Request implements [origin.Requester]: it fails with origin.ErrNoRequest.
func (s *Store) Request(_ context.Context, id chunk.ID) (origin.Request, error) {
	return origin.Request{}, fmt.Errorf("request for chunk %v: %w", id, origin.ErrNoRequest)
}

// Fetch implements [chunk.Source].
func (s *Store) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	path, _ := s.place(place.Chunks, id)
	f, err := os.Open(path)
	if err != nil {
		return 0, failed("fetch chunk", id, err)
	}
	defer f.Close()
	n, err := f.ReadAt(dst, off)
	if err != nil && err != io.EOF {
		return 0, failed("fetch chunk", id, err)
	}
	return n, nil
}

// Put implements [chunk.Sink].
func (s *Store) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if _, err := chunk.Verify(id, object); err != nil {
		return false, err
	}
	added, late, err := s.put(place.Chunks, &s.chunks, id, object)
	if err == nil && late {
		err = s.Flush(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("put chunk %v: %w", id, err)
	}
	return added, nil
}

// Remove implements [chunk.Remover].
func (s *Store) Remove(ctx context.Context, id chunk.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.remove(place.Chunks, id); err != nil {
		return fmt.Errorf("remove chunk %v: %w", id, err)
	}
	return nil
}

// remove removes a content-named file, if it is there.
func (s *Store) remove(kind string, id [32]byte) error {
	path, dir := s.place(kind, id)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.sync(dir)
}

// Stat implements [chunk.Prober].
func (s *Store) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	path, _ := s.place(place.Chunks, id)
	info, err := os.Lstat(path)
	if err != nil {
		return 0, failed("stat chunk", id, err)
	}
	return info.Size(), nil
}

// List implements [chunk.Lister]. Files whose names are no chunk IDs are passed
// over.
func (s *Store) List(ctx context.Context, fn func(id chunk.ID, size int64) error) error {
	return s.list(ctx, place.Chunks, fn)
}

// list walks the content-named files of one kind.
func (s *Store) list(ctx context.Context, kind string, fn func(id chunk.ID, size int64) error) error {
	for i := range 256 {
		err := listFolder(ctx, fmt.Sprintf("%s/%s/%02x", s.root, kind, i), fn)
		if err != nil {
			return err
		}
	}
	return nil
}

// listFolder calls fn for the files of dir that have the name of a SHA-256.
func listFolder(ctx context.Context, dir string, fn func(id chunk.ID, size int64) error) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	defer d.Close()
	for {
		list, err := d.ReadDir(1024)
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) { // the folder was removed meanwhile
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, e := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			id, err := chunk.ParseID(e.Name())
			if err != nil {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return fmt.Errorf("list %s: %w", dir, err)
			}
			if err := fn(id, info.Size()); err != nil {
				return err
			}
		}
	}
}

// failed names what could not be read. A file that is not there becomes
// chunk.ErrNotFound.
func failed(op string, subject any, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = chunk.ErrNotFound
	}
	return fmt.Errorf("%s %v: %w", op, subject, err)
}
