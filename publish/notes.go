package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// A note is stored as segment records are (see signedMagic), locked by its name in place
// of a diff ID. What is locked is
//
//	"rvnote" ‖ version byte ‖ zstd(value)
const noteMagic = "rvnote\x01"

// MaxNoteBytes bounds a note's value.
const MaxNoteBytes = 16 << 20

// Notes are what the publishers of a salt domain tell one another of layers that they have
// made, so that nobody has to make one again to learn which it is. A note is read only by
// who holds the salt, and counts only if the publisher itself or one that it trusts has
// signed it. It keeps nothing alive: what it speaks of may be collected, and so may it.
// Its methods may be called by any number of goroutines.
type Notes struct{ p publisher }

// OpenNotes returns the notes of an origin, for a publication with these options.
func OpenNotes(ctx context.Context, place origin.Origin, o Options) (*Notes, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	n := &Notes{publisher{place: place, opts: o, progress: newProgress(o.Progress, 0)}}
	if err := n.p.enter(ctx); err != nil {
		return nil, err
	}
	return n, n.p.openSalt(ctx)
}

// Find calls accept with what notes say of something, in the order of trust, until it
// takes one; own says that the note is this publisher's. refused are the key IDs of publishers whose notes were there and not taken:
// they are not trusted, or not as they should be. They are looked for only if none was.
func (n *Notes) Find(ctx context.Context, kind, of string, accept func(value []byte, own bool) bool) (refused []string, err error) {
	name, err := n.p.opts.Salt.Name(kind, of)
	if err != nil {
		return nil, err
	}
	for _, g := range n.p.from {
		for i, signer := range n.p.opts.trusted() {
			value, err := n.read(ctx, n.p.place.Generation(g), name, signer)
			if err != nil {
				return nil, fmt.Errorf("look for a note of %s %.80q: %w", kind, of, err)
			}
			if value != nil && accept(value, i == 0) {
				return nil, nil
			}
		}
	}
	prefix := catalog.NotePrefix(name)
	err = n.p.store.ListPointers(ctx, prefix, func(key string) error {
		if _, signer, ok := strings.Cut(strings.TrimPrefix(key, prefix), "/"); ok && len(refused) < maxHints {
			refused = append(refused, strings.ToUpper(signer))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for notes of %s %.80q: %w", kind, of, err)
	}
	return refused, nil
}

// read returns what signer's note says, or nil if there is none, or not as it should be.
func (n *Notes) read(ctx context.Context, store origin.Store, name origin.Digest, signer sign.PublicKey) ([]byte, error) {
	d, err := catalog.Get(ctx, store, catalog.NoteKey(name, n.p.opts.SaltID, signer.ID()))
	if err != nil {
		return nil, unlessMissing(err)
	}
	b, err := store.GetObject(ctx, d, MaxNoteBytes)
	if err != nil {
		if ctx.Err() == nil {
			n.p.progress.unread("what a publisher has noted", err)
		}
		return nil, context.Cause(ctx)
	}
	if b, err = verifyRecord(b, signer); err != nil {
		return nil, nil
	}
	if b, err = seal.OpenRecord(n.p.opts.Salt, name, layout.Version, b); err != nil {
		return nil, nil
	}
	value, err := decodeNote(b)
	if err != nil {
		return nil, nil
	}
	return value, nil
}

// Put writes this publisher's note of something, unless there is one.
func (n *Notes) Put(ctx context.Context, kind, of string, value []byte) error {
	fail := func(err error) error { return fmt.Errorf("store a note of %s %.80q: %w", kind, of, err) }
	if len(value) > MaxNoteBytes {
		return fail(fmt.Errorf("%d bytes: at most %d are kept", len(value), MaxNoteBytes))
	}
	name, err := n.p.opts.Salt.Name(kind, of)
	if err != nil {
		return fail(err)
	}
	own := n.p.opts.Signer.Public()
	there, err := n.read(ctx, n.p.store, name, own)
	if err != nil {
		return fail(err)
	}
	if bytes.Equal(there, value) && there != nil {
		return nil
	}
	b, err := encodeNote(value)
	if err == nil {
		b, err = seal.LockRecord(n.p.opts.Salt, name, layout.Version, b)
	}
	if err == nil {
		b, err = signRecord(n.p.opts.Signer, b, fmt.Sprintf("rivulet note name=%v layout=%d", name, layout.Version))
	}
	if err != nil {
		return fail(err)
	}
	d, err := n.p.store.PutObject(ctx, b)
	if err == nil {
		_, err = catalog.Set(ctx, n.p.store, catalog.NoteKey(name, n.p.opts.SaltID, own.ID()), d)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// Has reports whether a layer can be published without being read: a trusted publisher's
// record of its segment is there, and the chunks are.
func (n *Notes) Has(ctx context.Context, diffID v1.Hash) (bool, error) {
	id := origin.Digest(hashBytes(diffID))
	for _, g := range n.p.from {
		hints, err := n.p.hints(ctx, g, id)
		if err != nil {
			return false, fmt.Errorf("look for layer %v: %w", diffID, err)
		}
		for _, h := range hints {
			if h.salt != n.p.opts.SaltID {
				continue
			}
			s, err := n.p.recall(ctx, h, diffID, n.p.opts.Salt)
			if err != nil && !errors.Is(err, chunk.ErrNotFound) {
				return false, fmt.Errorf("look for layer %v: %w", diffID, err)
			}
			if s != nil {
				return true, nil
			}
		}
	}
	return false, nil
}

func encodeNote(value []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer func() { _ = enc.Close() }()
	return enc.EncodeAll(value, []byte(noteMagic)), nil
}

func decodeNote(b []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(b, []byte(noteMagic))
	if !ok {
		return nil, errors.New("note: unknown version")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxNoteBytes))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	value, err := dec.DecodeAll(body, []byte{})
	if err != nil {
		return nil, fmt.Errorf("note: %w", err)
	}
	return value, nil
}
