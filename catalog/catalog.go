// Package catalog is the part of an origin that changes: the pointers that
// lead from what people and publishers know (a name, a digest, a chain ID, a
// layer) to immutable objects.
//
// An origin's pointers are
//
//	names/NAME                          block map of the image of that name
//	digests/HEX                         block map of the image with that source or disk digest
//	chains/HEX/LAYOUT/SALT/SIZE/SIGNER  block map of SIGNER's newest image with that chain ID
//	chains/HEX/carried/HEX              block map, the second HEX, with that chain ID, whose other pointers stayed behind
//	segments/HEX/LAYOUT/SALT/SIGNER     SIGNER's record of the layer with that diff ID
//	notes/HEX/SALT/SIGNER               SIGNER's note of what has that name among the salt's publishers
//	profiles/HEX/WORKLOAD               versions of what starts of the image with that block map read
//
// where HEX is a SHA-256 in hexadecimal, LAYOUT the version of the layout, SALT
// the salt's id in hexadecimal and SIZE the disk's size in bytes ("default" if
// none was asked for). The value is the digest of an object and a newline; of
// profiles, several of them, the newest first. Only names are ever moved by people;
// the rest are short cuts that can be made again, and advice, so losing a race for
// one is no failure.
//
// A name's value may have a second line: then the name is [Reserved] for one that
// is being carried there from an older generation, and as good as absent.
package catalog

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// MaxBlockMapBytes bounds what is read as a block map.
const MaxBlockMapBytes = 1 << 30

const namePrefix = "names/"

// ErrPointer is returned (wrapped) for a pointer that holds no digest.
var ErrPointer = errors.New("damaged pointer")

// Store is the part of an origin that a catalog needs.
type Store interface {
	origin.Objects
	origin.Pointers
}

// DigestKey is the pointer from a source or disk digest to a block map.
func DigestKey(d origin.Digest) string { return "digests/" + hex.EncodeToString(d[:]) }

// ChainPrefix begins the names of all pointers from a chain ID to a block map.
func ChainPrefix(chain origin.Digest) string { return "chains/" + hex.EncodeToString(chain[:]) + "/" }

// NameKey is the pointer from an image's name to its block map.
func NameKey(name string) string { return namePrefix + name }

// Value is what a pointer to d holds.
func Value(d origin.Digest) []byte { return []byte(d.String() + "\n") }

// Reserved is what a name's pointer holds while the name is carried from another
// generation and may still turn out to have been removed there. nonce tells
// whoever reserved it from others who did, or did so again.
func Reserved(d origin.Digest, from origin.GenerationID, nonce uint64) []byte {
	return fmt.Appendf(nil, "%v\n%s%v %016x\n", d, reservedLine, from, nonce)
}

// IsReserved reports whether a pointer's value is one of Reserved.
func IsReserved(value []byte) bool {
	_, rest, _ := bytes.Cut(value, []byte("\n"))
	return bytes.HasPrefix(rest, []byte(reservedLine))
}

const reservedLine = "from "

// ChainKey is the pointer from a chain ID to a block map that the publisher with
// the key ID signer made; size is the size that was asked for, in bytes, or 0.
func ChainKey(chain origin.Digest, layout uint32, salt blockmap.SaltID, size int64, signer string) string {
	want := "default"
	if size != 0 {
		want = fmt.Sprint(size)
	}
	return fmt.Sprintf("chains/%x/%d/%x/%s/%s", chain[:], layout, salt[:], want, strings.ToLower(signer))
}

// CarriedChainKey is the pointer from a chain ID to a block map to which no other
// pointer of that chain ID led where it was copied from.
func CarriedChainKey(chain, blockMap origin.Digest) string {
	return ChainPrefix(chain) + "carried/" + hex.EncodeToString(blockMap[:])
}

// SegmentPrefix begins the names of the pointers to the segment records of a
// layer.
func SegmentPrefix(diffID origin.Digest, layout uint32) string {
	return fmt.Sprintf("segments/%x/%d/", diffID[:], layout)
}

// SegmentKey is the pointer from a layer's diff ID to the segment record that
// the publisher with the key ID signer made.
func SegmentKey(diffID origin.Digest, layout uint32, salt blockmap.SaltID, signer string) string {
	return fmt.Sprintf("%s%x/%s", SegmentPrefix(diffID, layout), salt[:], strings.ToLower(signer))
}

// NotePrefix begins the names of the pointers to the notes of what is named.
func NotePrefix(name origin.Digest) string {
	return "notes/" + hex.EncodeToString(name[:]) + "/"
}

// NoteKey is the pointer to the note that the publisher with the key ID signer made of
// what has that name with the salt.
func NoteKey(name origin.Digest, salt blockmap.SaltID, signer string) string {
	return fmt.Sprintf("%s%x/%s", NotePrefix(name), salt[:], strings.ToLower(signer))
}

// ParseSaltID reads a salt's ID as it stands in the names of pointers.
func ParseSaltID(s string) (blockmap.SaltID, error) {
	var id blockmap.SaltID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != s {
		return id, fmt.Errorf("salt %.40q: want %d hexadecimal digits", s, 2*len(id))
	}
	return blockmap.SaltID(b), nil
}

// CheckName reports, by a nil error, whether name can name an image.
func CheckName(name string) error {
	if err := origin.ValidName(namePrefix + name); err != nil {
		return fmt.Errorf("image name %q: letters, digits and punctuation in parts separated by single slashes are allowed, at most %d bytes", name, origin.MaxPointerName-len(namePrefix))
	}
	if strings.HasPrefix(name, "sha256:") {
		return fmt.Errorf("image name %q: looks like a digest", name)
	}
	return nil
}

// Get returns the object digest that a pointer holds; the error may be
// chunk.ErrNotFound or ErrPointer.
func Get(ctx context.Context, s origin.Pointers, key string) (origin.Digest, error) {
	value, err := s.GetPointer(ctx, key)
	if err != nil {
		return origin.Digest{}, err
	}
	if IsReserved(value) {
		return origin.Digest{}, fmt.Errorf("pointer %s: reserved: %w", key, chunk.ErrNotFound)
	}
	d, err := origin.ParseDigest(strings.TrimSuffix(string(value), "\n"))
	if err != nil {
		return origin.Digest{}, fmt.Errorf("%w %s: %w", ErrPointer, key, err)
	}
	return d, nil
}

// Set makes a pointer lead to d, whatever it led to, and reports whether it
// changed. Of several that set one pointer at once, the last wins.
func Set(ctx context.Context, s origin.Pointers, key string, d origin.Digest) (changed bool, err error) {
	_, changed, err = Replace(ctx, s, key, d)
	return changed, err
}

// Replace is Set that returns also where the pointer led before: zeros, if nowhere.
func Replace(ctx context.Context, s origin.Pointers, key string, d origin.Digest) (was origin.Digest, changed bool, err error) {
	value := Value(d)
	for {
		old, err := s.GetPointer(ctx, key)
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return origin.Digest{}, false, err
		}
		if string(old) == string(value) {
			return d, false, nil
		}
		err = s.SwapPointer(ctx, key, old, value)
		if err == nil {
			was, _ = origin.ParseDigest(strings.TrimSuffix(string(old), "\n"))
			return was, true, nil
		}
		if !errors.Is(err, origin.ErrConflict) {
			return origin.Digest{}, false, err
		}
		if ctx.Err() != nil {
			return origin.Digest{}, false, ctx.Err()
		}
	}
}

// Remove takes the name of an image away. Chunks stay until they are collected.
func Remove(ctx context.Context, s Store, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	for {
		old, err := s.GetPointer(ctx, namePrefix+name)
		if err != nil {
			return fmt.Errorf("image %q: %w", name, err)
		}
		err = s.SwapPointer(ctx, namePrefix+name, old, nil)
		if !errors.Is(err, origin.ErrConflict) {
			return err
		}
	}
}

// SetName gives an image a name.
func SetName(ctx context.Context, s Store, name string, blockMap origin.Digest) (bool, error) {
	if err := CheckName(name); err != nil {
		return false, err
	}
	return Set(ctx, s, namePrefix+name, blockMap)
}

// Names calls fn for each name with the block map it leads to.
func Names(ctx context.Context, s Store, fn func(name string, blockMap origin.Digest) error) error {
	return s.ListPointers(ctx, namePrefix, func(key string) error {
		d, err := Get(ctx, s, key)
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		return fn(strings.TrimPrefix(key, namePrefix), d)
	})
}

// Find returns the digest of the block map that ref means: a name, or the
// digest of a block map, a disk or a source image ("sha256:…", or its 64
// hexadecimal digits). An unknown one is chunk.ErrNotFound.
func Find(ctx context.Context, s Store, ref string) (origin.Digest, error) {
	if d, isDigest := ParseRef(ref); isDigest {
		found, err := Get(ctx, s, DigestKey(d))
		if errors.Is(err, chunk.ErrNotFound) {
			return d, nil
		}
		return found, err
	}
	if err := CheckName(ref); err != nil {
		return origin.Digest{}, err
	}
	return Get(ctx, s, namePrefix+ref)
}

// Open reads and checks the block map that ref means; see Find.
func Open(ctx context.Context, s Store, ref string) (*blockmap.Map, error) {
	d, err := Find(ctx, s, ref)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	m, err := Load(ctx, s, d)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	if want, isDigest := ParseRef(ref); isDigest {
		// Whoever can write pointers must not choose what a digest means.
		// Of what has no digest, zeros are not one.
		if info := m.Info(); want != m.Digest() && (want != info.Disk && want != info.Source || want == origin.Digest{}) {
			return nil, fmt.Errorf("image %q: the store leads to block map %v, which has another digest", ref, d)
		}
	}
	return m, nil
}

// ParseRef returns the digest that ref is, if it is one.
func ParseRef(ref string) (origin.Digest, bool) {
	d, err := origin.ParseDigest(ref)
	if err != nil {
		d, err = origin.ParseDigest("sha256:" + ref)
	}
	return d, err == nil
}

// Load reads and checks the block map of digest d.
func Load(ctx context.Context, s origin.Objects, d origin.Digest) (*blockmap.Map, error) {
	b, err := s.GetObject(ctx, d, MaxBlockMapBytes)
	if err != nil {
		return nil, fmt.Errorf("block map %v: %w", d, err)
	}
	m, err := blockmap.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("block map %v: %w", d, err)
	}
	return m, nil
}
