package kmswrap

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/seal"
)

// An envelope is a wrapped key as it is stored:
//
//	magic ‖ length u16le ‖ ARN of the KMS key ‖ length u16le ‖ data key as KMS
//	encrypted it ‖ nonce ‖ AES-256-GCM of the image key, with its tag
//
// The GCM's key is the data key, and its additional data the block map's digest
// and everything before the nonce.
type envelope struct {
	key     string // ARN of the KMS key
	dataKey []byte // as KMS encrypted it

	head, sealed []byte // of a parsed one: what is before the nonce, and the rest
}

const (
	magic       = "rvkms1\n"
	maxARN      = 2048         // bytes, as IAM allows
	maxDataKey  = 6144         // bytes, as KMS allows
	sealedBytes = 12 + 32 + 16 // nonce, image key, tag
)

var (
	errEnvelope = errors.New("malformed wrapped key")
	errMoved    = errors.New("changed, or the key of another block map")
)

// newGCM returns the cipher of one data key. It puts a random nonce before what
// it encrypts.
func newGCM(key [32]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal encrypts key by the data key and returns the whole envelope.
func (e *envelope) seal(dataKey [32]byte, key seal.ImageKey, about seal.About) ([]byte, error) {
	if !arnParts.MatchString(e.key) || len(e.key) > maxARN || len(e.dataKey) == 0 || len(e.dataKey) > maxDataKey {
		return nil, fmt.Errorf("KMS named the key %.200q and made a data key of %d bytes: want an ARN, and 1 to %d bytes", e.key, len(e.dataKey), maxDataKey)
	}
	aead, err := newGCM(dataKey)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint16([]byte(magic), uint16(len(e.key)))
	b = append(b, e.key...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.dataKey)))
	b = append(b, e.dataKey...)
	return aead.Seal(b, nil, key[:], append(about.Map[:], b...)), nil
}

// open returns the image key.
func (e *envelope) open(dataKey [32]byte, about seal.About) (seal.ImageKey, error) {
	aead, err := newGCM(dataKey)
	if err != nil {
		return seal.ImageKey{}, err
	}
	key, err := aead.Open(nil, nil, e.sealed, append(about.Map[:], e.head...))
	if err != nil {
		return seal.ImageKey{}, errMoved
	}
	return seal.ImageKey(key), nil
}

// parse reads an envelope and shares b's memory.
func parse(b []byte) (*envelope, error) {
	rest, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok {
		return nil, fmt.Errorf("%w: no magic number", errEnvelope)
	}
	key, rest, ok := field(rest, maxARN)
	if !ok || !arnParts.Match(key) {
		return nil, fmt.Errorf("%w: name of the KMS key", errEnvelope)
	}
	dataKey, rest, ok := field(rest, maxDataKey)
	if !ok {
		return nil, fmt.Errorf("%w: data key", errEnvelope)
	}
	if len(rest) != sealedBytes {
		return nil, fmt.Errorf("%w: %d bytes of ciphertext, want %d", errEnvelope, len(rest), sealedBytes)
	}
	return &envelope{key: string(key), dataKey: dataKey, head: b[:len(b)-sealedBytes], sealed: rest}, nil
}

// field cuts a length and as many bytes off b.
func field(b []byte, most int) (value, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n == 0 || n > most || n > len(b)-2 {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}
