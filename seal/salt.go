package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// DefaultDomain is the salt domain of whoever names none.
const DefaultDomain = "default"

// MaxDomainBytes bounds a domain's name.
const MaxDomainBytes = 64

// Labels separate what is derived from one secret. They are part of the format.
const (
	saltLabel   = "rivulet salt v1"
	chunkLabel  = "rivulet chunk key v1"
	recordLabel = "rivulet segment record v1"
	nameLabel   = "rivulet name v1"
)

// ErrSalt is returned (wrapped) for bytes that are no stored salt, or not the
// one that they name.
var ErrSalt = errors.New("malformed salt")

// A Salt is the secret of a domain in one epoch. Images that are sealed with
// one salt share their chunks; with two they share nothing. Publishers hold it,
// readers never see it. A Salt does not change, and any number of goroutines
// may use one. However it is printed, the secret does not show.
type Salt struct {
	id     blockmap.SaltID
	domain string
	epoch  uint32
	secret [32]byte
}

// NewSalt makes a salt for an epoch of a domain, whose name CheckDomain allows.
func NewSalt(domain string, epoch uint32) (*Salt, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	return newSalt(domain, epoch, secret)
}

func newSalt(domain string, epoch uint32, secret [32]byte) (*Salt, error) {
	if err := CheckDomain(domain); err != nil {
		return nil, err
	}
	h := sha256.New()
	_, _ = io.WriteString(h, saltLabel+domain)
	_, _ = h.Write(binary.LittleEndian.AppendUint32([]byte{0}, epoch))
	_, _ = h.Write(secret[:])
	return &Salt{id: blockmap.SaltID(h.Sum(nil)), domain: domain, epoch: epoch, secret: secret}, nil
}

// CheckDomain reports what is wrong with a domain's name: it has 1 to
// MaxDomainBytes lower-case letters, digits, dots, dashes and underscores, and
// begins with a letter or a digit.
func CheckDomain(name string) error {
	ok := name != "" && len(name) <= MaxDomainBytes && name[0] != '.' && name[0] != '-' && name[0] != '_'
	for i := range len(name) {
		c := name[i]
		ok = ok && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_')
	}
	if !ok {
		return fmt.Errorf("salt domain %.80q: want 1 to %d of a-z, 0-9, '.', '-' and '_', a letter or digit first", name, MaxDomainBytes)
	}
	return nil
}

// Name returns what publishers of the domain find something by in an origin: kind says what
// sort of thing it is, without a zero byte, and of which. To others it is a random number.
func (s *Salt) Name(kind, of string) (origin.Digest, error) {
	sum, err := hkdf.Key(sha256.New, s.secret[:], nil, nameLabel+kind+"\x00"+of, sha256.Size)
	if err != nil {
		return origin.Digest{}, fmt.Errorf("name of %s %.80q: %w", kind, of, err)
	}
	return origin.Digest(sum), nil
}

// ID returns the salt's public name: it binds domain, epoch and secret.
func (s *Salt) ID() blockmap.SaltID { return s.id }

// Domain returns the name of the domain that the salt belongs to.
func (s *Salt) Domain() string { return s.domain }

// Epoch returns the number of the salt within its domain.
func (s *Salt) Epoch() uint32 { return s.epoch }

// A stored salt is magic ‖ ID ‖ epoch u32le ‖ secret ‖ domain.
const (
	saltMagic = "rvsalt1\n"
	saltFixed = len(saltMagic) + 16 + 4 + 32

	// MaxSaltBytes is the length of the longest stored salt.
	MaxSaltBytes = saltFixed + MaxDomainBytes
)

// Bytes returns the salt, secret included, in the form that ParseSalt reads.
// The caller locks it before it leaves this process.
func (s *Salt) Bytes() []byte {
	b := append(make([]byte, 0, MaxSaltBytes), saltMagic...)
	b = append(b, s.id[:]...)
	b = binary.LittleEndian.AppendUint32(b, s.epoch)
	b = append(b, s.secret[:]...)
	return append(b, s.domain...)
}

// ParseSalt is the inverse of Bytes. It checks that domain, epoch and secret
// are those of the ID that b names. Its error is ErrSalt, and has no byte of b
// but the domain.
func ParseSalt(b []byte) (*Salt, error) {
	if len(b) < saltFixed || len(b) > MaxSaltBytes || !bytes.HasPrefix(b, []byte(saltMagic)) {
		return nil, fmt.Errorf("%w: %d bytes", ErrSalt, len(b))
	}
	rest := b[len(saltMagic):]
	s, err := newSalt(string(rest[52:]), binary.LittleEndian.Uint32(rest[16:]), [32]byte(rest[20:52]))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSalt, err)
	}
	if want := blockmap.SaltID(rest[:16]); s.id != want {
		return nil, fmt.Errorf("%w: named %x, and is %x", ErrSalt, want, s.id)
	}
	return s, nil
}

func (s Salt) hidden() string {
	return fmt.Sprintf("salt %x of domain %s, epoch %d (secret hidden)", s.id, s.domain, s.epoch)
}

// String implements fmt.Stringer, without the secret.
func (s Salt) String() string { return s.hidden() }

// Format implements fmt.Formatter: whatever the verb, the secret stays hidden.
func (s Salt) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.hidden()) }

// LogValue implements slog.LogValuer, without the secret.
func (s Salt) LogValue() slog.Value { return slog.StringValue(s.hidden()) }

// MarshalText implements encoding.TextMarshaler, without the secret.
func (s Salt) MarshalText() ([]byte, error) { return []byte(s.hidden()), nil }

// chunkKey derives the key of the chunk with header h, of which only the
// frames' sums may be missing, and whose coded frames, one after the other,
// have the SHA-256 coded.
//
// The header's fields are bound in, since the key stream of a frame depends on
// its number: the same coded bytes, cut into frames elsewhere, would meet the
// same key stream at other places.
func (s *Salt) chunkKey(coded [sha256.Size]byte, h *chunk.Header) (Key, error) {
	info := make([]byte, 0, len(chunkLabel)+len(s.id)+8+4*len(h.Frames))
	info = append(info, chunkLabel...)
	info = append(info, s.id[:]...)
	info = append(info, byte(h.Codec), h.FrameLog2)
	info = binary.LittleEndian.AppendUint16(info, uint16(len(h.Frames)))
	info = binary.LittleEndian.AppendUint32(info, h.Size)
	for i := range h.Frames {
		info = binary.LittleEndian.AppendUint32(info, h.Frames[i].Len)
	}
	b, err := hkdf.Key(sha256.New, coded[:], s.secret[:], string(info), len(Key{}))
	if err != nil {
		return Key{}, fmt.Errorf("derive chunk key: %w", err)
	}
	return Key(b), nil
}
