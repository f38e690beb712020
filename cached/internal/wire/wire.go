// Package wire is the protocol between the host cache and those who read from
// it: doc/format/cache-protocol.md as code. Both sides use it, and neither
// believes the other: every length is bounded before anything is allocated, and
// a descriptor that nobody asked for is closed.
//
// A message is a header of [HeaderLen] bytes and a payload. A request has a
// number that its client chose, and gets exactly one answer, which bears that
// number. A message of some types has a descriptor with it, sent by SCM_RIGHTS
// with the message's first byte.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/chunk"
)

// Version is the version of the protocol. Both sides must speak the same.
const Version = 2

// Bounds of the protocol, in bytes unless they say otherwise.
const (
	HeaderLen = 16

	MaxPiece   = 64 << 10      // stored bytes in one DEPOSIT
	MaxPayload = MaxPiece + 64 // of any message
	MaxURL     = 8 << 10       // of a FETCH
	MaxFields  = 16            // header fields of a FETCH
	MaxField   = 16 << 10      // name and value of one
	MaxText    = 512           // of a MISS or FAIL
	MaxIDs     = 1024          // chunk IDs in one TOUCH or GONE
	MaxListed  = 1024          // entries in one LISTED
	MaxStats   = 64            // numbers in one STATISTICS
	MaxVersion = 128           // of a SELF's text
	MaxFiles   = 4             // descriptors received and not yet given to a message
	idLen      = len(chunk.ID{})
	entryLen   = idLen + 5           // of a LISTED
	magic      = "rivulet cache\r\n" // begins HELLO and WELCOME
)

// A Type says what a message is.
type Type uint8

// Requests, from client to daemon.
const (
	Hello   Type = 1  // must be the first
	Get     Type = 2  // a chunk, or the lease to fetch it
	Fetch   Type = 3  // have the daemon fetch a leased chunk
	Deposit Type = 4  // a piece of a leased chunk
	Abandon Type = 5  // give a lease back
	Renew   Type = 6  // keep a lease
	Damaged Type = 7  // a descriptor had bad bytes
	Touch   Type = 8  // chunks used without asking
	Ping    Type = 9  // is anybody there
	Raise   Type = 10 // a chunk that is waited for is more urgent by now
	About   Type = 11 // who is there
	Stats   Type = 16 // the following are for administrators
	List    Type = 17
	Pin     Type = 18
	Unpin   Type = 19
	Evict   Type = 20
	Scrub   Type = 21
)

// Answers, from daemon to client.
const (
	Welcome    Type = 65 // to Hello
	Hit        Type = 66 // to Get: the whole chunk; has a descriptor
	Part       Type = 67 // to Get: its checked begin; has a descriptor
	Lease      Type = 68 // to Get: fetch it for everybody
	Miss       Type = 69 // to Get: read it elsewhere
	Fail       Type = 70 // to anything: refused
	Done       Type = 71 // to what has no other answer
	Gone       Type = 72 // to Touch: those that are not held any more
	Statistics Type = 73 // to Stats
	Listed     Type = 74 // to List
	Scrubbed   Type = 75 // to Scrub
	Self       Type = 76 // to About
)

// A kind is what the protocol says of a type.
type kind struct {
	name  string
	most  int // bytes of payload
	files int // descriptors
}

var kinds = map[Type]kind{
	Hello:   {"HELLO", len(magic) + 1 + 4, 0},
	Get:     {"GET", idLen + 24, 0},
	Fetch:   {"FETCH", MaxPayload, 0},
	Deposit: {"DEPOSIT", MaxPayload, 0},
	Abandon: {"ABANDON", 8, 0},
	Renew:   {"RENEW", 8, 0},
	Damaged: {"DAMAGED", idLen, 0},
	Touch:   {"TOUCH", MaxIDs * idLen, 0},
	Ping:    {"PING", 0, 0},
	Raise:   {"RAISE", idLen + 1, 0},
	About:   {"ABOUT", 0, 0},
	Stats:   {"STATS", 0, 0},
	List:    {"LIST", idLen, 0},
	Pin:     {"PIN", idLen, 0},
	Unpin:   {"UNPIN", idLen, 0},
	Evict:   {"EVICT", idLen, 0},
	Scrub:   {"SCRUB", 8, 0},

	Welcome:    {"WELCOME", len(magic) + 1 + 12, 0},
	Hit:        {"HIT", heldLen + MaxSteps*stepLen, 1},
	Part:       {"PART", heldLen + MaxSteps*stepLen, 1},
	Lease:      {"LEASE", 12, 0},
	Miss:       {"MISS", 1 + MaxText, 0},
	Fail:       {"FAIL", 1 + MaxText, 0},
	Done:       {"DONE", 0, 0},
	Gone:       {"GONE", MaxIDs * idLen, 0},
	Statistics: {"STATISTICS", MaxStats * 8, 0},
	Listed:     {"LISTED", MaxListed * entryLen, 0},
	Scrubbed:   {"SCRUBBED", 24, 0},
	Self:       {"SELF", selfLen + MaxVersion, 0},
}

// String returns the type's name in the specification.
func (t Type) String() string {
	if k, ok := kinds[t]; ok {
		return k.name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// IsAnswer reports whether messages of the type go from daemon to client.
func (t Type) IsAnswer() bool { return t&64 != 0 }

// ErrMalformed is returned (wrapped) for bytes that the protocol does not allow.
// The connection they came by is of no more use.
var ErrMalformed = errors.New("malformed message")

// ErrTruncated is returned (wrapped) when a descriptor could not be received: the
// peer has sent too many, or this process has as many open as it may.
var ErrTruncated = errors.New("a descriptor did not fit")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// A Header begins a message.
type Header struct {
	Len     uint32 // bytes of payload
	Type    Type
	Files   uint8  // descriptors with the message
	Request uint64 // which request this is, or answers
}

// Append appends the encoded header to b.
func (h Header) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.Len)
	b = append(b, byte(h.Type), h.Files, 0, 0)
	return binary.LittleEndian.AppendUint64(b, h.Request)
}

// parseHeader reads a header that goes in the direction of answers, or not.
func parseHeader(b []byte, answers bool) (Header, error) {
	h := Header{
		Len:     binary.LittleEndian.Uint32(b),
		Type:    Type(b[4]),
		Files:   b[5],
		Request: binary.LittleEndian.Uint64(b[8:]),
	}
	k, ok := kinds[h.Type]
	switch {
	case !ok || h.Type.IsAnswer() != answers:
		return h, malformed("unexpected %v", h.Type)
	case h.Len > uint32(k.most):
		return h, malformed("%v of %d bytes, at most %d are allowed", h.Type, h.Len, k.most)
	case int(h.Files) != k.files:
		return h, malformed("%v with %d descriptors, want %d", h.Type, h.Files, k.files)
	case b[6] != 0 || b[7] != 0:
		return h, malformed("%v: reserved bytes are not zero", h.Type)
	}
	return h, nil
}
