// Package s3 keeps an origin in a bucket of an S3-compatible store.
//
// Keys are the names of package place below a prefix; doc/format/origin.md has
// the rules. There is no lock and nothing temporary: an object is put whole or
// not at all. Chunks, objects and attachments are put if absent (If-None-Match),
// pointers replaced by compare-and-swap (If-Match on the ETag that was read).
// Whether the server does that is asked of it before the first write, by two
// puts of the version object whose conditions do not hold. Where it does not,
// presence is asked for first, and a pointer is read, compared and put: then of
// two changes that cross within those round trips the later one wins, and the
// earlier is lost. [Config.Strict] makes that an error instead.
//
// Each object is put with its SHA-256, which the server checks, signs for and,
// where it can, keeps. What is there already counts only if its size, and that
// sum where it is kept, are right; else it is replaced.
//
// # Requests
//
// As many requests run at once as there are connections; the rest wait in line.
// One that failed in passing is tried again as package retry describes. An
// operation has 60 s and a second for each 32 KiB that it moves; one request
// also ends when nothing moves for 30 s. Fetch asks for exactly the bytes that
// it wants, and takes no answer with others.
//
// No secret is in an error or a log line: texts of servers are searched for
// those that were sent.
package s3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// Cache-Control of what never changes, and of pointers and indexes.
const (
	cacheForever = "public, max-age=31536000, immutable"
	cacheNever   = "no-cache"
)

// maxVersionBytes is more than any version object has.
const maxVersionBytes = 64

// An Origin is an origin in a bucket. Any number of calls may run at once.
type Origin struct {
	tree
	ahead  *origin.Ahead // of tree
	stores sync.Map      // origin.GenerationID → *Store
}

// GetPointer implements [origin.Pointers].
func (o *Origin) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return o.ahead.GetPointer(ctx, name)
}

// A Store is one generation of an [Origin].
type Store struct {
	tree
	ahead *origin.Ahead // of tree; nil: nothing was asked ahead
}

// GetPointer implements [origin.Pointers].
func (s *Store) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if s.ahead == nil {
		return s.tree.GetPointer(ctx, name)
	}
	return s.ahead.GetPointer(ctx, name)
}

var (
	_ origin.Origin = (*Origin)(nil)
	_ origin.Store  = (*Store)(nil)
)

// A tree is a part of the bucket that has pointers: the origin, or one of its
// generations.
type tree struct {
	*server
	root string // ends in a slash, or is empty
}

// A server is what all parts of an origin share.
type server struct {
	*client
	log      *slog.Logger
	presence presence

	probing  chan struct{} // holds one token: whoever has it may ask for abilities
	mu       sync.Mutex    // guards the following
	probed   bool
	features features
}

// features are what a server can do.
type features struct {
	putIfAbsent bool // If-None-Match: *
	swap        bool // If-Match
	checksum    bool // keeps x-amz-checksum-sha256, or at least does not refuse it
}

// Open opens the origin that c names. If create is true, a prefix without
// objects becomes one; the bucket must be there. What it asks of the server is
// one small object, c.Ahead and c.AheadIn. Close frees what it holds.
func Open(ctx context.Context, c Config, create bool) (*Origin, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	cl, err := newClient(&c)
	if err != nil {
		return nil, err
	}
	s := &server{client: cl, log: c.Logger, probing: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.probing <- struct{}{}
	o := &Origin{tree: tree{server: s, root: c.key("")}}
	o.ahead = origin.ReadAhead(ctx, &o.tree, c.Ahead...)
	for id, names := range c.AheadIn {
		g := o.newStore(id)
		g.ahead = origin.ReadAhead(ctx, &g.tree, names...)
		o.stores.Store(id, g)
	}
	err = o.checkVersion(ctx)
	if errors.Is(err, origin.ErrNoStore) && create {
		err = o.init(ctx)
	}
	if err != nil {
		o.Close()
		return nil, fmt.Errorf("open bucket %s: %w", c.Bucket, err)
	}
	return o, nil
}

// Close closes idle connections. Calls that still run are not disturbed, but for
// reads ahead.
func (o *Origin) Close() {
	o.ahead.Close()
	o.stores.Range(func(_, s any) bool {
		if a := s.(*Store).ahead; a != nil {
			a.Close()
		}
		return true
	})
	o.connect.CloseIdleConnections()
}

func (o *Origin) checkVersion(ctx context.Context) error {
	_, _, err := o.readChecked(ctx, o.root+place.Version, maxVersionBytes, place.CheckVersion)
	if errors.Is(err, chunk.ErrNotFound) {
		return origin.ErrNoStore
	}
	return err
}

// init makes an empty origin. Two processes may do so at once.
func (o *Origin) init(ctx context.Context) error {
	page, _, err := o.page(ctx, o.root, "", true)
	if err != nil {
		return err
	}
	if len(page) > 0 {
		// Somebody may have made it since.
		if err := o.checkVersion(ctx); !errors.Is(err, origin.ErrNoStore) {
			return err
		}
		return fmt.Errorf("%w, and not empty: it has %.100q", origin.ErrNoStore, page[0].key)
	}
	return o.do(ctx, 0, func(ctx context.Context) error {
		_, err := o.put(ctx, o.versionUpload(), condition{})
		return err
	})
}

func (s *server) versionUpload() *upload {
	return newUpload(s.config.key(place.Version), []byte(place.VersionText), cacheNever)
}

// placeOf returns the place, in the origin, of what has that key.
func (s *server) placeOf(key string) string { return key[len(s.config.key("")):] }

func newUpload(key string, data []byte, cache string) *upload {
	return &upload{key: key, data: data, sum: origin.Sum(data), cache: cache}
}

// abilities returns what the server can do. The first call asks it.
func (s *server) abilities(ctx context.Context) (features, error) {
	if f, ok := s.known(); ok {
		return f, nil
	}
	select {
	case <-s.probing:
	case <-ctx.Done():
		return features{}, ctx.Err()
	}
	defer func() { s.probing <- struct{}{} }()
	if f, ok := s.known(); ok {
		return f, nil
	}
	f, err := s.probe(ctx)
	if err != nil {
		return features{}, fmt.Errorf("ask what the server can do: %w", err)
	}
	if !f.swap {
		s.log.Warn("the server has no conditional writes: of two changes of a name at once, one can be lost", "endpoint", s.endpoint())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probed, s.features = true, f
	return f, nil
}

func (s *server) known() (features, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.features, s.probed
}

// probe puts the version object under conditions that do not hold. A server
// that takes no notice of them stores what is there already.
func (s *server) probe(ctx context.Context) (f features, err error) {
	u := s.versionUpload()
	u.checksum = true
	f.putIfAbsent, f.checksum, err = s.tryPut(ctx, u, condition{absent: true})
	if err == nil && !f.checksum { // which of the two did it not like?
		u.checksum = false
		f.putIfAbsent, _, err = s.tryPut(ctx, u, condition{absent: true})
	}
	if err != nil {
		return features{}, err
	}
	u.checksum = f.checksum
	f.swap, _, err = s.tryPut(ctx, u, condition{etag: noETag})
	return f, err
}

// noETag is that of no object that anybody finds.
const noETag = "00000000000000000000000000000000"

// tryPut reports whether the server looked at the condition, and whether it
// took the request for a good one.
func (s *server) tryPut(ctx context.Context, u *upload, when condition) (looked, good bool, err error) {
	err = s.do(ctx, 0, func(ctx context.Context) error {
		_, err := s.put(ctx, u, when)
		return err
	})
	switch {
	case errors.Is(err, errCondition):
		return true, true, nil
	case isUnknown(err):
		return false, false, nil
	}
	return false, err == nil, err
}

// isUnknown reports whether a server refused a request as one that it does not
// know.
func isUnknown(err error) bool {
	var refused *Error
	return errors.As(err, &refused) && (refused.Status == 501 || refused.Status == 400) && !isExpired(refused.Code)
}

// Generation implements [origin.Origin].
func (o *Origin) Generation(id origin.GenerationID) origin.Store { return o.generation(id) }

func (o *Origin) generation(id origin.GenerationID) *Store {
	if s, ok := o.stores.Load(id); ok {
		return s.(*Store)
	}
	known, _ := o.stores.LoadOrStore(id, o.newStore(id))
	return known.(*Store)
}

func (o *Origin) newStore(id origin.GenerationID) *Store {
	return &Store{tree: tree{o.server, o.root + place.Generation(id) + "/"}}
}
