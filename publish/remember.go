package publish

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/verify"
)

// A stored segment record is
//
//	"rvsegsg1" ‖ length of the signature, u32le ‖ signature ‖ the locked record
//
// The signature, in minisign's format, is of the locked record. That binds layer
// and layout version by the key it is locked with (seal.LockRecord).
const signedMagic = "rvsegsg1"

// signRecord returns the stored form of a locked record.
func signRecord(k *sign.Key, locked []byte, comment string) ([]byte, error) {
	signature, err := k.Sign(locked, comment)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32([]byte(signedMagic), uint32(len(signature)))
	return append(append(b, signature...), locked...), nil
}

// verifyRecord returns the locked record in b if one of trusted signed it.
func verifyRecord(b []byte, trusted ...sign.PublicKey) ([]byte, error) {
	rest, ok := bytes.CutPrefix(b, []byte(signedMagic))
	if !ok || len(rest) < 4 {
		return nil, fmt.Errorf("%w: no signature", errRecord)
	}
	n := binary.LittleEndian.Uint32(rest)
	if rest = rest[4:]; n > sign.MaxSignatureBytes || int(n) > len(rest) {
		return nil, fmt.Errorf("%w: signature of %d bytes", errRecord, n)
	}
	if _, _, err := sign.Verify(rest[n:], rest[:n], trusted...); err != nil {
		return nil, err
	}
	return rest[n:], nil
}

// remember stores the record of a segment whose chunks were put.
func (p *publisher) remember(ctx context.Context, diffID v1.Hash, s *segment) error {
	if err := p.store.Flush(ctx); err != nil {
		return fmt.Errorf("store chunks: %w", err)
	}
	b, err := s.encode()
	if err != nil {
		return nil // too much to remember: the layer will be read again
	}
	id := origin.Digest(hashBytes(diffID))
	if b, err = seal.LockRecord(p.opts.Salt, id, layout.Version, b); err == nil {
		b, err = signRecord(p.opts.Signer, b, fmt.Sprintf("rivulet segment record diff=%v layout=%d", id, layout.Version))
	}
	if err != nil {
		return err
	}
	d, err := p.store.PutObject(ctx, b)
	if err != nil {
		return fmt.Errorf("store segment record: %w", err)
	}
	_, err = catalog.Set(ctx, p.store, catalog.SegmentKey(id, layout.Version, p.opts.SaltID, p.opts.Signer.Public().ID()), d)
	return err
}

// A hint is a pointer to a segment record.
type hint struct {
	at     origin.GenerationID
	key    string
	salt   blockmap.SaltID
	signer sign.PublicKey
}

// remembered returns the segment of a layer that this publisher, or one that it
// trusts, has published before, with all of its chunks in the generation that is
// published into; or nil. It prefers what lies there already, then what can be
// copied from an older generation, and then what must be sealed anew because the
// salt is another one now. A record that is not as it should be counts as none.
func (p *publisher) remembered(ctx context.Context, diffID v1.Hash) (*segment, error) {
	id := origin.Digest(hashBytes(diffID))
	var old []hint
	for _, g := range p.from {
		hints, err := p.hints(ctx, g, id)
		if err != nil {
			return nil, err
		}
		for _, h := range hints {
			if h.salt != p.opts.SaltID {
				old = append(old, h)
				continue
			}
			s, err := p.recall(ctx, h, diffID, p.opts.Salt)
			if err == nil && s != nil && h.at != p.gen {
				s, err = p.carry(ctx, h, diffID, s)
			}
			if err != nil || s != nil {
				return s, err
			}
		}
	}
	for _, h := range old {
		s, err := p.reseal(ctx, h, diffID)
		if err != nil || s != nil {
			return s, err
		}
	}
	return nil, nil
}

// maxHints bounds the pointers to records of one layer that are looked at: more
// salts than this were made by somebody to keep publishers busy.
const maxHints = 256

// hints returns the pointers of a generation to records of a layer by trusted
// publishers, in the order of trust; those with the salt in use first.
func (p *publisher) hints(ctx context.Context, g origin.GenerationID, diffID origin.Digest) ([]hint, error) {
	var keys []string
	prefix := catalog.SegmentPrefix(diffID, layout.Version)
	err := p.place.Generation(g).ListPointers(ctx, prefix, func(key string) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var list, old []hint
	for _, signer := range p.opts.trusted() {
		suffix := "/" + strings.ToLower(signer.ID())
		for _, key := range keys {
			salt, ok := strings.CutSuffix(strings.TrimPrefix(key, prefix), suffix)
			id, err := catalog.ParseSaltID(salt)
			switch {
			case !ok || err != nil:
			case id == p.opts.SaltID:
				list = append(list, hint{g, key, id, signer})
			case len(old) < maxHints:
				old = append(old, hint{g, key, id, signer})
			}
		}
	}
	return append(list, old...), nil
}

// recall returns the segment that a hint leads to, or nil if that is none of this
// layer or not all of its chunks are there.
func (p *publisher) recall(ctx context.Context, h hint, diffID v1.Hash, salt *seal.Salt) (*segment, error) {
	store := p.place.Generation(h.at)
	d, err := catalog.Get(ctx, store, h.key)
	if err != nil {
		return nil, unlessMissing(err)
	}
	b, err := store.GetObject(ctx, d, maxRecordBytes)
	if err != nil {
		if ctx.Err() == nil {
			p.progress.unread("the record of a layer", err)
		}
		return nil, context.Cause(ctx)
	}
	if b, err = verifyRecord(b, h.signer); err != nil {
		return nil, nil
	}
	if b, err = seal.OpenRecord(salt, origin.Digest(hashBytes(diffID)), layout.Version, b); err != nil {
		return nil, nil
	}
	rec, err := decodeRecord(b)
	if err != nil || rec.Layer.DiffID != diffID {
		return nil, nil
	}
	plan, err := layout.PlanSegment(rec.Layer.Entries, p.opts.Params)
	if err != nil || int(plan.Chunks) != len(rec.Chunks) {
		return nil, nil
	}
	ok, err := p.present(ctx, store, len(rec.Chunks), p.opts.Sample, func(i int) (chunk.ID, uint32) { return rec.Chunks[i].ID, rec.Chunks[i].Stored })
	if err != nil || !ok {
		return nil, err
	}
	return &segment{record: *rec, plan: plan}, nil
}

// carry copies the chunks of a segment from an older generation, or returns nil
// if one is missing after all.
func (p *publisher) carry(ctx context.Context, h hint, diffID v1.Hash, s *segment) (*segment, error) {
	var ids []chunk.ID
	for i := range s.Chunks {
		if !s.Chunks[i].hole() {
			ids = append(ids, s.Chunks[i].ID)
		}
	}
	forward := generation.Forwarder{Origin: p.place}
	_, err := forward.Chunks(ctx, ids, h.at, p.gen)
	if errors.Is(err, chunk.ErrNotFound) {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("carry layer %v from generation %v: %w", diffID, h.at, err)
	}
	return s, p.remember(ctx, diffID, s)
}

// reseal makes a segment anew out of the chunks that an earlier salt of the
// domain sealed, or returns nil if that cannot be read.
func (p *publisher) reseal(ctx context.Context, h hint, diffID v1.Hash) (*segment, error) {
	if p.opts.OldSalt == nil {
		return nil, nil
	}
	salt, err := p.opts.OldSalt(ctx, h.salt)
	if err != nil {
		return nil, context.Cause(ctx) // of another domain, or not granted
	}
	s, err := p.recall(ctx, h, diffID, salt)
	if err != nil || s == nil {
		return nil, err
	}
	opener, err := seal.NewOpener()
	if err != nil {
		return nil, err
	}
	defer opener.Close()
	src := p.place.Generation(h.at)
	chunks, err := p.pool.store(ctx, len(s.Chunks), func(ctx context.Context, i int, buf []byte) error {
		clear(buf)
		c := &s.Chunks[i]
		if c.hole() {
			return nil
		}
		object := make([]byte, blockmap.MaxStored(len(buf))+1)
		_, err := verify.ReadChunk(ctx, src, opener, &blockmap.Chunk{ID: c.ID, Key: c.Key, Stored: c.Stored, Size: c.Size}, object, buf)
		return err
	}, func(int) {})
	var corrupt *chunk.CorruptError
	if errors.Is(err, chunk.ErrNotFound) || errors.As(err, &corrupt) {
		return nil, context.Cause(ctx) // the layer will be read again
	}
	if err != nil {
		return nil, fmt.Errorf("seal layer %v anew: %w", diffID, err)
	}
	for i := range chunks {
		if chunks[i].Sum != s.Chunks[i].Sum { // the record had another key than the chunk's
			return nil, nil
		}
	}
	s.Chunks = chunks
	return s, p.remember(ctx, diffID, s)
}
