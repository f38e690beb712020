package main

import (
	"crypto/sha256"
	"errors"
	"io"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// A coder tells what the chunk codec makes of a file, if every file began a
// chunk of its own and headers cost nothing.
type coder struct {
	sealer *seal.Sealer
	buf    [chunk.Size]byte
}

func newCoder() (*coder, error) {
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		return nil, err
	}
	s, err := seal.NewSealer(seal.Options{Salt: salt})
	return &coder{sealer: s}, err
}

// encode returns a file's SHA-256 and the coded bytes of it.
func (c *coder) encode(r io.Reader) (sum [sha256.Size]byte, coded int64, err error) {
	hash := sha256.New()
	for {
		n, err := io.ReadFull(r, c.buf[:])
		hash.Write(c.buf[:n])
		more, sealErr := c.coded(c.buf[:n])
		coded += more
		switch {
		case sealErr != nil:
			return sum, 0, sealErr
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return [sha256.Size]byte(hash.Sum(nil)), coded, nil
		case err != nil:
			return sum, 0, err
		}
	}
}

func (c *coder) coded(plain []byte) (int64, error) {
	s, err := c.sealer.Seal(plain)
	if errors.Is(err, seal.ErrZero) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	frames := (s.Size + chunk.FrameSize - 1) / chunk.FrameSize
	return int64(len(s.Object) - chunk.HeaderLen(frames)), nil
}
