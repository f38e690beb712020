package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
)

// A locked salt is
//
//	magic ‖ ID of the salt before ‖ proof ‖ nonce ‖ AES-256-GCM ciphertext and
//	tag of the stored salt
//
// with magic, the salt's ID, and ID and proof of the salt before as additional
// data, under an image key that was made for it and is wrapped for the domain's
// publishers. The proof is that of the salt before over this one's ID; a domain's
// first salt has zeros for both.
const (
	saltLockMagic = "rvsltlk1"
	saltLockHead  = len(saltLockMagic) + len(blockmap.SaltID{}) + sha256.Size

	successionLabel = "rivulet salt succession v1"
)

// MaxLockedSaltBytes is the length of the longest locked salt.
const MaxLockedSaltBytes = saltLockHead + 12 + MaxSaltBytes + 16

// ErrSaltKey is returned (wrapped) when a key does not open a locked salt.
var ErrSaltKey = errors.New("the key does not open the salt")

// Vouch returns a proof of message that holders of the salt alone can make and
// check (HMAC-SHA256 by a key of the salt's for this label). It is no secret and
// tells nothing of the salt.
func (s *Salt) Vouch(label string, message []byte) [sha256.Size]byte {
	key, err := hkdf.Key(sha256.New, s.secret[:], nil, label, sha256.Size)
	if err != nil {
		panic(err) // only for longer keys
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(message)
	return [sha256.Size]byte(mac.Sum(nil))
}

// Vouched reports whether proof is Vouch's of message.
func (s *Salt) Vouched(label string, message, proof []byte) bool {
	want := s.Vouch(label, message)
	return hmac.Equal(want[:], proof)
}

// LockSalt returns s, readable with the key alone that it also returns. before
// is the domain's salt of the epoch before, nil if there was none: whoever holds
// that one can tell by Before that s was made by somebody who held it too.
func LockSalt(s, before *Salt) ([]byte, ImageKey) {
	var key ImageKey
	nonce := make([]byte, 12)
	_, _ = rand.Read(key[:]) // never fails
	_, _ = rand.Read(nonce)
	head := make([]byte, saltLockHead)
	copy(head, saltLockMagic)
	if before != nil {
		proof := before.Vouch(successionLabel, s.id[:])
		copy(head[len(saltLockMagic):], before.id[:])
		copy(head[saltLockHead-len(proof):], proof[:])
	}
	return newGCM(key).Seal(append(head, nonce...), nonce, s.Bytes(), saltAbout(head, s.id)), key
}

// OpenSalt is the inverse of LockSalt for the salt with that ID.
func OpenSalt(locked []byte, key ImageKey, id blockmap.SaltID) (*Salt, error) {
	if !bytes.HasPrefix(locked, []byte(saltLockMagic)) || len(locked) < saltLockHead+12 || len(locked) > MaxLockedSaltBytes {
		return nil, fmt.Errorf("%w: %d bytes that are no locked salt", ErrSalt, len(locked))
	}
	head, rest := locked[:saltLockHead], locked[saltLockHead:]
	b, err := newGCM(key).Open(nil, rest[:12], rest[12:], saltAbout(head, id))
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

// Before returns the ID of the salt that a locked salt says it comes after; zeros
// if it is a first one, or no locked salt. Succeeds checks it.
func Before(locked []byte) (id blockmap.SaltID) {
	if len(locked) >= saltLockHead {
		copy(id[:], locked[len(saltLockMagic):])
	}
	return id
}

// Succeeds reports whether s, which locked has opened to, is of the epoch after
// before, of the same domain, and was made by somebody who held that salt.
func (s *Salt) Succeeds(before *Salt, locked []byte) bool {
	return len(locked) >= saltLockHead && s.domain == before.domain && s.epoch == before.epoch+1 &&
		before.Vouched(successionLabel, s.id[:], locked[saltLockHead-sha256.Size:saltLockHead])
}

// saltAbout is the additional data of the salt with that ID.
func saltAbout(head []byte, id blockmap.SaltID) []byte {
	return append(append(make([]byte, 0, len(head)+len(id)), head...), id[:]...)
}
