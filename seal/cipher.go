package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
)

// XOR encrypts or decrypts b in place. b lies at byte off of the stored form of
// frame number frame of the chunk that key opens; off and frame are not
// negative. So a part of a frame, such as a page of a raw one, opens alone.
func XOR(key Key, frame int, off int64, b []byte) { xor(newBlock(key), frame, off, b) }

func newBlock(key Key) cipher.Block {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only for keys of a length that Key does not have
	}
	return block
}

// xor is XOR with a cipher that may serve many frames of one chunk. It is
// AES-CTR, its counter block beginning at frame u64be ‖ off/16 u64be: no two
// frames of a chunk share a counter block, since none has 2^64 of them.
func xor(block cipher.Block, frame int, off int64, b []byte) {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[:8], uint64(frame))
	binary.BigEndian.PutUint64(iv[8:], uint64(off/aes.BlockSize))
	stream := cipher.NewCTR(block, iv[:])
	if within := off % aes.BlockSize; within != 0 {
		var skipped [aes.BlockSize]byte
		stream.XORKeyStream(skipped[:within], skipped[:within])
	}
	stream.XORKeyStream(b, b)
}
