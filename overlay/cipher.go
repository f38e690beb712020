package overlay

import (
	"crypto/aes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/xts"
)

// KeySize is the length of an overlay's key in bytes.
const KeySize = 32

const sectorSize = 512

// Labels of what is derived from an overlay's key.
const (
	labelLayer = "rivulet overlay 1 layer "
	labelCheck = "rivulet overlay 1 check"
)

func newKey() []byte {
	key := make([]byte, KeySize)
	_, _ = rand.Read(key) // never fails
	return key
}

func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// keyCheck returns what tells a wrong key from the right one.
func keyCheck(key []byte) (check [16]byte, err error) {
	b, err := hkdf.Expand(sha256.New, key, labelCheck, len(check))
	copy(check[:], b)
	return check, err
}

// A sectorCipher encrypts the sectors of one layer's file, AES-256-XTS with
// sectors of 512 bytes as data units and their number on the disk as tweak. The
// key is the layer's alone.
type sectorCipher struct{ xts *xts.Cipher }

func newSectorCipher(key []byte, layer uint64) (*sectorCipher, error) {
	info := binary.LittleEndian.AppendUint64([]byte(labelLayer), layer)
	k, err := hkdf.Expand(sha256.New, key, string(info), 64)
	if err != nil {
		return nil, fmt.Errorf("derive key of layer %016x: %w", layer, err)
	}
	c, err := xts.NewCipher(aes.NewCipher, k)
	if err != nil {
		return nil, fmt.Errorf("key of layer %016x: %w", layer, err)
	}
	return &sectorCipher{c}, nil
}

// encrypt encrypts whole sectors of the disk from off on. dst and src are one, or
// do not overlap.
func (c *sectorCipher) encrypt(dst, src []byte, off int64) {
	for i := 0; i < len(src); i += sectorSize {
		c.xts.Encrypt(dst[i:i+sectorSize], src[i:i+sectorSize], uint64(off+int64(i))/sectorSize)
	}
}

// decrypt decrypts whole sectors in place.
func (c *sectorCipher) decrypt(p []byte, off int64) {
	for i := 0; i < len(p); i += sectorSize {
		c.xts.Decrypt(p[i:i+sectorSize], p[i:i+sectorSize], uint64(off+int64(i))/sectorSize)
	}
}
