package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
)

// A locked salt is
//
//	magic ‖ nonce ‖ AES-256-GCM ciphertext and tag of the stored salt
//
// with magic and the salt's ID as additional data, under an image key that was
// made for it and is wrapped for the domain's publishers.
const saltLockMagic = "rvsltlk1"

// MaxLockedSaltBytes is the length of the longest locked salt.
const MaxLockedSaltBytes = len(saltLockMagic) + 12 + MaxSaltBytes + 16

// ErrSaltKey is returned (wrapped) when a key does not open a locked salt.
var ErrSaltKey = errors.New("the key does not open the salt")

// LockSalt returns s, readable with the key alone that it also returns.
func LockSalt(s *Salt) ([]byte, ImageKey) {
	var key ImageKey
	nonce := make([]byte, 12)
	_, _ = rand.Read(key[:]) // never fails
	_, _ = rand.Read(nonce)
	b := append([]byte(saltLockMagic), nonce...)
	return newGCM(key).Seal(b, nonce, s.Bytes(), saltAbout(s.id)), key
}

// OpenSalt is the inverse of LockSalt for the salt with that ID.
func OpenSalt(locked []byte, key ImageKey, id blockmap.SaltID) (*Salt, error) {
	rest, ok := bytes.CutPrefix(locked, []byte(saltLockMagic))
	if !ok || len(rest) < 12 || len(locked) > MaxLockedSaltBytes {
		return nil, fmt.Errorf("%w: %d bytes that are no locked salt", ErrSalt, len(locked))
	}
	b, err := newGCM(key).Open(nil, rest[:12], rest[12:], saltAbout(id))
	if err != nil {
		return nil, fmt.Errorf("salt %x: %w", id, ErrSaltKey)
	}
	s, err := ParseSalt(b)
	if err == nil && s.id != id {
		err = fmt.Errorf("%w: it is %x", ErrSalt, s.id)
	}
	if err != nil {
		return nil, fmt.Errorf("salt %x: %w", id, err)
	}
	return s, nil
}

func saltAbout(id blockmap.SaltID) []byte { return append([]byte(saltLockMagic), id[:]...) }
