package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/origin"
)

// A locked segment record is
//
//	magic ‖ salt ID ‖ nonce ‖ AES-256-GCM ciphertext and tag
//
// with magic and salt ID as additional data. Diff ID and layout version are in
// the key.
const (
	recordMagic = "rvseglk1"
	recordHead  = len(recordMagic) + len(blockmap.SaltID{})

	// RecordOverhead is how much longer a record is when locked, in bytes.
	RecordOverhead = recordHead + 12 + 16
)

// ErrRecord is returned (wrapped) for bytes that are no segment record locked
// for the layer, the layout version and the salt asked for.
var ErrRecord = errors.New("segment record cannot be opened")

// LockRecord returns record, what a publisher remembers of the layer diffID as
// laid out by the rules of layout, readable by those alone who hold the salt.
//
// One key serves all records of one layer, with a random nonce each: they must
// stay below 2^32, which every second one for a century does.
func LockRecord(s *Salt, diffID origin.Digest, layout uint32, record []byte) ([]byte, error) {
	var nonce [12]byte
	_, _ = rand.Read(nonce[:]) // never fails
	return lockRecord(s, diffID, layout, record, nonce)
}

func lockRecord(s *Salt, diffID origin.Digest, layout uint32, record []byte, nonce [12]byte) ([]byte, error) {
	aead, err := s.recordGCM(diffID, layout)
	if err != nil {
		return nil, fmt.Errorf("lock segment record: %w", err)
	}
	b := make([]byte, 0, RecordOverhead+len(record))
	b = append(append(b, recordMagic...), s.id[:]...)
	b = append(b, nonce[:]...)
	return aead.Seal(b, nonce[:], record, b[:recordHead]), nil
}

// OpenRecord is the inverse of LockRecord: it returns the record, which is the
// caller's, or ErrRecord. It allocates no more than locked is long.
func OpenRecord(s *Salt, diffID origin.Digest, layout uint32, locked []byte) ([]byte, error) {
	if len(locked) < RecordOverhead || !bytes.HasPrefix(locked, []byte(recordMagic)) {
		return nil, fmt.Errorf("%w: is none", ErrRecord)
	}
	if id := blockmap.SaltID(locked[len(recordMagic):recordHead]); id != s.id {
		return nil, fmt.Errorf("%w: locked with salt %x, not %x", ErrRecord, id, s.id)
	}
	aead, err := s.recordGCM(diffID, layout)
	if err != nil {
		return nil, fmt.Errorf("open segment record: %w", err)
	}
	nonce := locked[recordHead:][:12]
	record, err := aead.Open(nil, nonce, locked[recordHead+12:], locked[:recordHead])
	if err != nil {
		return nil, fmt.Errorf("%w: changed, or of another layer or layout", ErrRecord)
	}
	return record, nil
}

func (s *Salt) recordGCM(diffID origin.Digest, layout uint32) (cipher.AEAD, error) {
	info := append([]byte(recordLabel), diffID[:]...)
	info = binary.LittleEndian.AppendUint32(info, layout)
	key, err := hkdf.Key(sha256.New, s.secret[:], nil, string(info), 32)
	if err != nil {
		return nil, err
	}
	return newGCM([32]byte(key)), nil
}
