// Package blockmap is the format of a block map: the one object that says
// which chunk lies where on a disk, and what the disk was made from.
//
// A block map is an immutable object, named by the SHA-256 of its bytes. They
// are fixed-width little-endian tables in one fixed order,
//
//	header ‖ layers ‖ chunk table ‖ key table ‖ image config ‖ tag
//
// so that a reader maps the file and searches it in place: [Parse] checks
// every field once and keeps the bytes, and a look-up is a binary search in
// the chunk table. There is exactly one encoding of a map. Padding is zero,
// offsets follow from the counts, and nothing may trail; whatever Parse
// accepts, [Encode] gives back byte for byte, from the ciphertexts of keys and
// configuration if the map is locked.
//
// What others than the image's readers work with is readable by anybody: a
// collector finds the chunks of a disk, and a cache their lengths, without a
// key. What only readers need, the chunks' keys and the image's configuration,
// lies last so that it can be locked by AES-256-GCM with all bytes before it as
// additional data; [Map.Parts] has the two pieces, and [Map.Unlocked] puts the
// decrypted one in.
//
// doc/format/blockmap.md has the bytes, the limits and the test vectors.
package blockmap

import (
	"errors"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// Version is the format version that this package writes and reads.
const Version = 2

// Bounds of the format. Parse checks each before it allocates or walks.
const (
	MaxChunks      = 1 << 23 // chunks that a disk stores (not holes)
	MaxLayers      = 1 << 10 // layers of an image
	MaxConfigBytes = 8 << 20 // bytes of the image's configuration
	MaxDiskBytes   = 1 << 46 // bytes of a disk

	// MaxBytes bounds a whole map. It is less than origin.MaxObjectBytes.
	MaxBytes = headerBytes + MaxLayers*layerBytes + MaxConfigBytes +
		MaxChunks*(chunkBytes+keyBytes) + 2*alignment + tagBytes
)

// MaxStored returns the most bytes that a chunk's stored form (header and
// frames) may have on a disk of chunks of size bytes.
func MaxStored(size int) int { return size + size/64 + 16<<10 }

var (
	// ErrFormat is returned (wrapped) for bytes that are no block map.
	ErrFormat = errors.New("malformed block map")
	// ErrVersion is returned (wrapped) for a block map of another version.
	ErrVersion = errors.New("unknown block map version")
)

// A Key opens one chunk. Printed, logged or put into JSON by itself or as an
// exported field, it does not show its bytes.
type Key [keyBytes]byte

const hiddenKey = "chunk key (hidden)"

// Format implements fmt.Formatter: whatever the verb, the bytes stay hidden.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hiddenKey) }

// MarshalText implements encoding.TextMarshaler for JSON and log/slog.
func (Key) MarshalText() ([]byte, error) { return []byte(hiddenKey), nil }

// A SaltID names the salt that a map's chunks were sealed with.
type SaltID [16]byte

// A LockKind says how a map's key table and configuration are locked.
type LockKind uint32

// The kinds of locks.
const (
	LockOpen      LockKind = 0 // both are readable
	LockAES256GCM LockKind = 1 // they are one AES-256-GCM ciphertext
)

// A Lock holds what is needed, beside the image key, to open a locked map. The
// nonce and tag of an open one are zero.
type Lock struct {
	Kind  LockKind
	Nonce [12]byte
	Tag   [tagBytes]byte
}

// An Info is everything that a map says apart from its chunks. A digest of
// zeros means that there is none.
type Info struct {
	Layout    uint32        // layout version: the rules that placed the files
	Size      int64         // bytes of the disk, a multiple of 512
	ChunkLog2 uint8         // log2 of the chunk size in bytes
	FrameLog2 uint8         // log2 of the frame size in bytes
	Disk      origin.Digest // what the disk reads as: see DiskHash; none if nobody has read all of it
	Source    origin.Digest // the image's manifest
	ChainID   origin.Digest // OCI chain ID of the image's layers
	Metadata  origin.Digest // object that holds the file-system metadata's chunks
	SaltID    SaltID
	Lock      Lock
	Layers    []Layer

	// Config is the image's configuration: JSON, byte for byte as published.
	// What a locked map says of itself has none, nil; see Map.Unlocked.
	Config []byte
}

// ChunkSize returns the bytes of a full chunk.
func (i *Info) ChunkSize() int64 { return 1 << i.ChunkLog2 }

// Span returns how many chunks, holes included, the disk's addresses take.
func (i *Info) Span() int64 { return (i.Size + i.ChunkSize() - 1) >> i.ChunkLog2 }

// A Layer is one layer of the image and its place on the disk. The order is
// the image's, lowest layer first; slots rise with it and do not overlap.
type Layer struct {
	DiffID         origin.Digest // of the uncompressed layer
	Compressed     origin.Digest // of the blob that it was read from
	CompressedSize int64         // bytes of that blob
	First          uint32        // index of the slot's first chunk
	Slot           uint32        // chunks reserved
	Segment        uint32        // chunks used, from First on; at most Slot
}

// A Chunk is one stored piece of the disk: the bytes from Index times the
// chunk size on. What follows its plaintext, up to the next chunk, is zeros.
type Chunk struct {
	Index  uint32   // offset on the disk, in chunks
	Stored uint32   // bytes of the stored form, header included
	Size   uint32   // bytes of plaintext, trailing zeros cut off
	ID     chunk.ID // name of the stored form
	Key    Key      // its key; in a locked map, 32 bytes of ciphertext
}
