package overlay

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"sync"
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

// A sectorCipher encrypts the sectors of one layer's file: AES-256-XTS (IEEE 1619,
// NIST SP 800-38E) with sectors of 512 bytes as data units and their number on the
// disk as tweak. The key is the layer's alone. It does what golang.org/x/crypto/xts
// does, against which it is tested, in less than half of the time: it XORs a
// sector at once.
type sectorCipher struct{ data, tweak cipher.Block }

func newSectorCipher(key []byte, layer uint64) (*sectorCipher, error) {
	k, err := layerKey(key, layer)
	if err != nil {
		return nil, err
	}
	data, err := aes.NewCipher(k[:32])
	if err != nil {
		return nil, err
	}
	tweak, err := aes.NewCipher(k[32:])
	return &sectorCipher{data, tweak}, err
}

// layerKey returns the XTS key of a layer: that for data, and that for tweaks.
func layerKey(key []byte, layer uint64) ([]byte, error) {
	info := binary.LittleEndian.AppendUint64([]byte(labelLayer), layer)
	k, err := hkdf.Expand(sha256.New, key, string(info), 64)
	if err != nil {
		return nil, fmt.Errorf("derive key of layer %016x: %w", layer, err)
	}
	return k, nil
}

// masks are what the blocks of a sector are XORed with before and after.
type masks [sectorSize]byte

var maskPool = sync.Pool{New: func() any { return new(masks) }}

// of computes the masks of a sector: the encrypted tweak, doubled in GF(2^128)
// from block to block.
func (m *masks) of(c *sectorCipher, sector uint64) {
	le := binary.LittleEndian
	le.PutUint64(m[:], sector)
	le.PutUint64(m[8:], 0)
	c.tweak.Encrypt(m[:aes.BlockSize], m[:aes.BlockSize])
	low, high := le.Uint64(m[:]), le.Uint64(m[8:])
	for i := aes.BlockSize; i < sectorSize; i += aes.BlockSize {
		carry := high >> 63
		low, high = low<<1^carry*0x87, high<<1|low>>63
		le.PutUint64(m[i:], low)
		le.PutUint64(m[i+8:], high)
	}
}

// encrypt encrypts whole sectors of the disk from off on. dst and src are one, or
// do not overlap.
func (c *sectorCipher) encrypt(dst, src []byte, off int64) {
	c.crypt(dst, src, off, c.data.Encrypt)
}

// decrypt decrypts whole sectors in place.
func (c *sectorCipher) decrypt(p []byte, off int64) { c.crypt(p, p, off, c.data.Decrypt) }

func (c *sectorCipher) crypt(dst, src []byte, off int64, block func(dst, src []byte)) {
	m := maskPool.Get().(*masks)
	defer maskPool.Put(m)
	for i := 0; i < len(src); i += sectorSize {
		m.of(c, uint64(off+int64(i))/sectorSize)
		d := dst[i : i+sectorSize]
		subtle.XORBytes(d, src[i:i+sectorSize], m[:])
		for j := 0; j < sectorSize; j += aes.BlockSize {
			b := d[j : j+aes.BlockSize]
			block(b, b)
		}
		subtle.XORBytes(d, d, m[:])
	}
}
