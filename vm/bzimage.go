package vm

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Offsets in the header of an x86 kernel: Linux, Documentation/arch/x86/boot.rst,
// boot protocol 2.08 and later.
const (
	setupSects    = 0x1F1
	bootMagic     = 0x202 // "HdrS"
	bootVersion   = 0x206
	payloadOffset = 0x248 // from the protected-mode code on
	payloadLength = 0x24C
	bzHeader      = 0x250
)

func isBzImage(b []byte) bool {
	return len(b) >= bzHeader && string(b[bootMagic:bootMagic+4]) == "HdrS" && binary.LittleEndian.Uint16(b[bootVersion:]) >= 0x0208
}

// isArm64Image goes by Documentation/arch/arm64/booting.rst: "ARM\x64" at 56.
func isArm64Image(b []byte) bool { return len(b) >= 64 && string(b[56:60]) == "ARM\x64" }

// unpackBzImage returns the ELF file inside a bzImage.
func unpackBzImage(b []byte) ([]byte, error) {
	sectors := int64(b[setupSects])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int64(binary.LittleEndian.Uint32(b[payloadOffset:]))
	length := int64(binary.LittleEndian.Uint32(b[payloadLength:]))
	// The payload ends in the length of what it unpacks to.
	if length < 4 || start > int64(len(b)) || length > int64(len(b))-start {
		return nil, fmt.Errorf("payload of %d bytes at %d is not within %d", length, start, len(b))
	}
	payload := b[start : start+length]
	size := int64(binary.LittleEndian.Uint32(payload[length-4:]))
	if size > maxImage {
		return nil, fmt.Errorf("unpacks to %d bytes: at most %d are allowed", size, maxImage)
	}
	r, err := unpacker(payload[:length-4])
	if err != nil {
		return nil, err
	}
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	if _, err := elf.NewFile(bytes.NewReader(out)); err != nil {
		return nil, fmt.Errorf("what is inside: %w", err)
	}
	return out, nil
}

// unpacker reads what a kernel is packed with.
func unpacker(b []byte) (io.Reader, error) {
	switch {
	case bytes.HasPrefix(b, []byte{0x02, 0x21, 0x4C, 0x18}): // the legacy frame
		return lz4.NewReader(bytes.NewReader(b)), nil
	case bytes.HasPrefix(b, []byte{0x28, 0xB5, 0x2F, 0xFD}):
		d, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxImage))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(b, []byte{0x1F, 0x8B}):
		return gzip.NewReader(bytes.NewReader(b))
	}
	return nil, errors.New("packed in another way than gzip, zstd or lz4")
}
