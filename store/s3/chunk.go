package s3

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
)

// presence guesses whether the next thing to put is there already, by those put
// last. If so, asking first saves sending it; if not, asking would be a round
// trip for nothing.
type presence struct{ score atomic.Int32 }

// The score goes up by one for each that was there, down by one for each that
// was not; half of the most says yes.
const mostPresence = 16

func (p *presence) likely() bool { return p.score.Load() >= mostPresence/2 }

func (p *presence) met(there bool) {
	for {
		old := p.score.Load()
		next := max(0, old-1)
		if there {
			next = min(mostPresence, old+1)
		}
		if p.score.CompareAndSwap(old, next) {
			return
		}
	}
}

// same reports whether an object is the one that u would put, as far as the
// server tells.
func (u *upload) same(info minio.ObjectInfo) bool {
	if info.Size != int64(len(u.data)) {
		return false
	}
	kept := info.ChecksumSHA256
	if kept == "" || strings.Contains(kept, "-") { // a sum of parts' sums
		return true
	}
	return kept == base64.StdEncoding.EncodeToString(u.sum[:])
}

// store puts what is named by its content, unless it is there. It is tried as a
// whole, so that an answer that was lost does no harm.
func (t *tree) store(ctx context.Context, u *upload) (added bool, err error) {
	f, err := t.abilities(ctx)
	if err != nil {
		return false, err
	}
	u.checksum = f.checksum
	err = t.do(ctx, int64(len(u.data)), func(ctx context.Context) (err error) {
		added, err = t.storeOnce(ctx, u, f)
		return err
	})
	return added, err
}

func (t *tree) storeOnce(ctx context.Context, u *upload, f features) (added bool, err error) {
	if !f.putIfAbsent || t.presence.likely() {
		info, err := t.head(ctx, u.key)
		there := err == nil
		if !there && !errors.Is(err, chunk.ErrNotFound) {
			return false, err
		}
		t.presence.met(there)
		if there && u.same(info) {
			return false, nil
		}
		return t.putAnyway(ctx, u)
	}
	_, err = t.put(ctx, u, condition{absent: true})
	t.presence.met(errors.Is(err, errCondition))
	if !errors.Is(err, errCondition) {
		return err == nil, err
	}
	info, err := t.head(ctx, u.key)
	if err == nil && u.same(info) {
		return false, nil
	}
	if err != nil && !errors.Is(err, chunk.ErrNotFound) {
		return false, err
	}
	return t.putAnyway(ctx, u)
}

func (t *tree) putAnyway(ctx context.Context, u *upload) (added bool, err error) {
	_, err = t.put(ctx, u, condition{})
	return err == nil, err
}

func (s *Store) chunkKey(id chunk.ID) string { return s.root + place.Hashed(place.Chunks, id) }

// Put implements [chunk.Sink].
func (s *Store) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if _, err := chunk.Verify(id, object); err != nil {
		return false, err
	}
	added, err := s.store(ctx, newUpload(s.chunkKey(id), object, cacheForever))
	if err != nil {
		return false, fmt.Errorf("put chunk %v: %w", id, err)
	}
	return added, nil
}

// Flush implements [chunk.Sink]: Put leaves nothing to do.
func (s *Store) Flush(ctx context.Context) error { return ctx.Err() }

// Fetch implements [chunk.Source].
func (s *Store) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	if len(dst) == 0 {
		_, err := s.Stat(ctx, id)
		return 0, err
	}
	err = s.do(ctx, int64(len(dst)), func(ctx context.Context) error {
		a, err := s.get(ctx, s.chunkKey(id), byterange.Header(off, len(dst)), "")
		if err != nil {
			return err
		}
		n, err = byterange.Read(a, dst, off)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("fetch chunk %v: %w", id, err)
	}
	return n, nil
}

// Request implements [origin.Requester]: an address that is signed for
// requestTime, or the plain one of a bucket that is open to all.
func (s *Store) Request(ctx context.Context, id chunk.ID) (origin.Request, error) {
	u, err := s.presign(ctx, s.chunkKey(id))
	if err != nil {
		return origin.Request{}, fmt.Errorf("request for chunk %v: %w", id, err)
	}
	return origin.Request{URL: u}, nil
}

// Stat implements [chunk.Prober].
func (s *Store) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	info, err := s.stat(ctx, s.chunkKey(id))
	if err != nil {
		return 0, fmt.Errorf("stat chunk %v: %w", id, err)
	}
	return info.Size, nil
}

func (t *tree) stat(ctx context.Context, key string) (info minio.ObjectInfo, err error) {
	err = t.do(ctx, 0, func(ctx context.Context) (err error) {
		info, err = t.head(ctx, key)
		return err
	})
	return info, err
}

// Remove implements [chunk.Remover].
func (s *Store) Remove(ctx context.Context, id chunk.ID) error {
	if err := s.removeKey(ctx, s.chunkKey(id)); err != nil {
		return fmt.Errorf("remove chunk %v: %w", id, err)
	}
	return nil
}

func (t *tree) removeKey(ctx context.Context, key string) error {
	return t.do(ctx, 0, func(ctx context.Context) error { return t.remove(ctx, key, "") })
}

// List implements [chunk.Lister]. Objects whose names are no chunk IDs are
// passed over.
func (s *Store) List(ctx context.Context, fn func(id chunk.ID, size int64) error) error {
	return s.listHashed(ctx, place.Chunks, func(id [32]byte, size int64) error { return fn(id, size) })
}

// listHashed calls fn for what lies in folder under the name of a SHA-256.
func (t *tree) listHashed(ctx context.Context, folder string, fn func(id [32]byte, size int64) error) error {
	err := t.list(ctx, t.root+folder+"/", func(page []entry) error {
		for _, o := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			id, ok := place.ParseHashed(o.key)
			if !ok {
				continue
			}
			if err := fn(id, o.size); err != nil {
				return callback{err}
			}
		}
		return nil
	})
	return named(err, "list %s", folder)
}

// A callback is an error of a caller's function, which is returned as it is.
type callback struct{ error }

func (c callback) Unwrap() error { return c.error }

// named adds to an error what failed, unless it is a callback.
func named(err error, format string, args ...any) error {
	var c callback
	switch {
	case err == nil:
		return nil
	case errors.As(err, &c):
		return c.error
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
