package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/blockmap"
)

// ErrImageKey is returned (wrapped) when an image key does not open a block
// map: it is the key of another one, or the map was changed.
var ErrImageKey = errors.New("the image key does not open it")

// ErrLocked is returned (wrapped) for a block map that is locked.
var ErrLocked = errors.New("its keys are locked")

// ErrUnsealed is returned (wrapped) for a block map without a salt, which names
// chunks that are not encrypted. No version since makes or reads them.
var ErrUnsealed = errors.New("published by a version without encryption; publish again")

// CheckReadable reports, by a nil error, whether the chunks of m can be opened
// with the keys that it has; else the error is ErrLocked or ErrUnsealed.
func CheckReadable(m *blockmap.Map) error {
	if m.Info().SaltID == (blockmap.SaltID{}) {
		return fmt.Errorf("%v: %w", m, ErrUnsealed)
	}
	if m.Locked() {
		return fmt.Errorf("%v: %w", m, ErrLocked)
	}
	return nil
}

// An ImageKey encrypts one message, ever: keys and configuration of one block map,
// or one salt. From it alone, tags of that map's recipients are derived (Grant).
// However it is printed, its bytes do not show.
type ImageKey [32]byte

const hiddenImageKey = "image key (hidden)"

// Format implements fmt.Formatter: whatever the verb, the bytes stay hidden.
func (ImageKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hiddenImageKey) }

// MarshalText implements encoding.TextMarshaler for JSON and log/slog.
func (ImageKey) MarshalText() ([]byte, error) { return []byte(hiddenImageKey), nil }

// Lock returns the block map of chunks, its key table and configuration locked
// under an image key made for it, and that key; Unlock opens it. It sets the
// map's lock itself and leaves info and chunks alone.
func Lock(info *blockmap.Info, chunks []blockmap.Chunk) (*blockmap.Map, ImageKey, error) {
	var key ImageKey
	var nonce [12]byte
	_, _ = rand.Read(key[:]) // never fails
	_, _ = rand.Read(nonce[:])
	m, err := lock(info, chunks, key, nonce)
	return m, key, err
}

func lock(info *blockmap.Info, chunks []blockmap.Chunk, key ImageKey, nonce [12]byte) (*blockmap.Map, error) {
	locked := *info
	locked.Lock = blockmap.Lock{Kind: blockmap.LockAES256GCM, Nonce: nonce}
	b, err := blockmap.Encode(&locked, chunks)
	if err != nil {
		return nil, fmt.Errorf("lock block map: %w", err)
	}
	plain, err := blockmap.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("lock block map: %w", err)
	}
	aead := newGCM(key)
	additional, secret := plain.Parts() // of b, which is ours
	aead.Seal(secret[:0], nonce[:], secret[:len(secret)-aead.Overhead()], additional)
	return blockmap.Parse(b)
}

// LockOpen returns the block map of chunks with its keys and configuration
// readable by whoever has the map. The chunks are sealed all the same.
func LockOpen(info *blockmap.Info, chunks []blockmap.Chunk) (*blockmap.Map, error) {
	open := *info
	open.Lock = blockmap.Lock{}
	b, err := blockmap.Encode(&open, chunks)
	if err != nil {
		return nil, fmt.Errorf("make open block map: %w", err)
	}
	return blockmap.Parse(b)
}

// Unlock returns a view of m whose keys and configuration are readable (see
// blockmap.Map.Unlocked), or ErrImageKey. A map that is not locked is returned
// as it is.
func Unlock(m *blockmap.Map, key ImageKey) (*blockmap.Map, error) {
	if !m.Locked() {
		return m, nil
	}
	info := m.Info()
	additional, locked := m.Parts()
	secret, err := newGCM(key).Open(nil, info.Lock.Nonce[:], locked, additional)
	if err != nil {
		return nil, fmt.Errorf("unlock %v: %w", m, ErrImageKey)
	}
	return m.Unlocked(secret)
}

func newGCM(key [32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only for keys of another length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // only for ciphers of another block size
	}
	return aead
}
