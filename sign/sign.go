// Package sign signs what publishers make, in the format of minisign: Ed25519
// over the BLAKE2b-512 of the bytes, and a trusted comment that is signed with
// them. The minisign tool checks these signatures, and makes such as this
// package accepts. doc/design/signatures.md says why this format.
//
// The signature of a block map is over its bytes as they are stored, locked or
// not, so that nobody needs a key of the image to check it. Its trusted comment
// is a [Statement]: source, chain and disk digest. It repeats what the map says
// itself, for people and tools that look at the signature alone, and is refused
// where the two differ.
package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"aead.dev/minisign"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/origin"
)

// Kind is the kind of attachment that signatures are stored as.
const Kind = "minisign"

// MaxSignatureBytes bounds a signature, comments included: minisign's own bound
// of a comment is 8 KiB.
const MaxSignatureBytes = 20 << 10

var (
	// ErrOtherKey is returned (wrapped) for a signature by a key that was not
	// asked for, and if there is none by those.
	ErrOtherKey = errors.New("not signed by a key that is trusted")
	// ErrSignature is returned (wrapped) for bytes that are no signature, and
	// for one by a trusted key that is not of these bytes.
	ErrSignature = errors.New("wrong signature")
)

// Sign returns k's signature of message with a comment, of one line, that is
// signed too. One message and comment always give the same signature.
func (k *Key) Sign(message []byte, comment string) ([]byte, error) {
	if strings.ContainsAny(comment, "\r\n") || len(comment) > MaxSignatureBytes/4 {
		return nil, fmt.Errorf("sign: comment %.40q: want one line of at most %d bytes", comment, MaxSignatureBytes/4)
	}
	r := hashed(message)
	return r.SignWithComments(k.private, comment, "signature from rivulet key "+k.Public().ID()), nil
}

// hashed returns a Reader that has read all of message, which it signs and
// checks as what minisign calls prehashed.
func hashed(message []byte) *minisign.Reader {
	r := minisign.NewReader(bytes.NewReader(message))
	buf := make([]byte, 64<<10)
	for {
		if _, err := r.Read(buf); err != nil { // io.EOF, of memory
			return r
		}
	}
}

// Verify checks that one of trusted signed message, and returns that key and
// the comment that it signed. A signature by another key is ErrOtherKey.
func Verify(message, signature []byte, trusted ...PublicKey) (by PublicKey, comment string, err error) {
	if len(signature) > MaxSignatureBytes {
		return PublicKey{}, "", fmt.Errorf("%w: %d bytes, at most %d", ErrSignature, len(signature), MaxSignatureBytes)
	}
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return PublicKey{}, "", fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if s.Algorithm != minisign.HashEdDSA {
		return PublicKey{}, "", fmt.Errorf("%w: not prehashed; sign with minisign -H", ErrSignature)
	}
	known := false
	for _, key := range trusted {
		if key.public.ID() != s.KeyID { // anybody may choose an ID: it only saves work
			continue
		}
		known = true
		if hashed(message).Verify(key.public, signature) {
			return key, s.TrustedComment, nil
		}
	}
	if known {
		return PublicKey{}, "", fmt.Errorf("%w: by key %s, of something else", ErrSignature, keyID(s.KeyID))
	}
	return PublicKey{}, "", fmt.Errorf("signature by key %s: %w", keyID(s.KeyID), ErrOtherKey)
}

// A Statement is what the signature of a block map says in its comment.
type Statement struct {
	Source origin.Digest // the image's manifest
	Chain  origin.Digest // OCI chain ID of its layers
	Disk   origin.Digest // what the disk reads as
}

// StatementOf returns what m says of itself.
func StatementOf(m *blockmap.Map) Statement {
	info := m.Info()
	return Statement{Source: info.Source, Chain: info.ChainID, Disk: info.Disk}
}

const statementWords = "rivulet block map"

// String returns the statement as it stands in a comment.
func (s Statement) String() string {
	return fmt.Sprintf(statementWords+" source=%v chain=%v disk=%v", s.Source, s.Chain, s.Disk)
}

// ParseStatement is the inverse of String, and accepts no other spelling.
func ParseStatement(comment string) (Statement, error) {
	var s Statement
	rest, ok := strings.CutPrefix(comment, statementWords)
	fields := strings.Split(rest, " ")
	if !ok || len(fields) != 4 || fields[0] != "" {
		return Statement{}, fmt.Errorf("comment %.200q: is not that of a block map", comment)
	}
	for i, f := range []struct {
		name string
		to   *origin.Digest
	}{{"source=", &s.Source}, {"chain=", &s.Chain}, {"disk=", &s.Disk}} {
		value, ok := strings.CutPrefix(fields[i+1], f.name)
		d, err := origin.ParseDigest(value)
		if !ok || err != nil {
			return Statement{}, fmt.Errorf("comment %.200q: want %ssha256:…", comment, f.name)
		}
		*f.to = d
	}
	return s, nil
}

// SignMap returns k's signature of m as it is stored.
func (k *Key) SignMap(m *blockmap.Map) ([]byte, error) {
	return k.Sign(m.Bytes(), StatementOf(m).String())
}

// VerifyMap checks that one of trusted signed m as it is stored, and that the
// signature's comment says what m says. It returns that key.
func VerifyMap(m *blockmap.Map, signature []byte, trusted ...PublicKey) (PublicKey, error) {
	by, comment, err := Verify(m.Bytes(), signature, trusted...)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%v: %w", m, err)
	}
	s, err := ParseStatement(comment)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%v: %w: %w", m, ErrSignature, err)
	}
	if want := StatementOf(m); s != want {
		return PublicKey{}, fmt.Errorf("%v: %w: its comment speaks of another image, %v", m, ErrSignature, s)
	}
	return by, nil
}

// Require checks that one of trusted signed m, by one of the signatures attached
// to it in store, and returns that key. Signatures by others are passed over; if
// there are no others, the error is ErrOtherKey.
func Require(ctx context.Context, m *blockmap.Map, store origin.Attachments, trusted ...PublicKey) (PublicKey, error) {
	var by PublicKey
	var wrong error // by a trusted key, if it is known
	err := store.ListAttachments(ctx, m.Digest(), Kind, func(signature []byte) error {
		key, err := VerifyMap(m, signature, trusted...)
		switch {
		case err == nil:
			by = key
			return errFound
		case wrong == nil && !errors.Is(err, ErrOtherKey):
			wrong = err
		}
		return nil
	})
	switch {
	case errors.Is(err, errFound):
		return by, nil
	case err != nil:
		return PublicKey{}, fmt.Errorf("%v: signatures: %w", m, err)
	case wrong != nil:
		return PublicKey{}, wrong
	}
	return PublicKey{}, fmt.Errorf("%v: %w", m, ErrOtherKey)
}

var errFound = errors.New("found")
