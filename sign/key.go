package sign

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"aead.dev/minisign"

	"github.com/rivuletfs/rivulet/internal/privatefile"
)

// maxKeyFile bounds the files of keys, in bytes.
const maxKeyFile = 4 << 10

// A PublicKey checks signatures.
type PublicKey struct{ public minisign.PublicKey }

// A Key signs. Any number of goroutines may use one. However it is printed, the
// secret does not show.
type Key struct{ private minisign.PrivateKey }

// NewKey makes a key.
func NewKey() (*Key, error) {
	_, private, err := minisign.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return &Key{private}, nil
}

// CreateKey makes a key in a file of its owner's at path, in minisign's format
// and without a passphrase, and returns it. It replaces nothing: a file that is
// there is fs.ErrExist, wrapped.
func CreateKey(path string) (*Key, error) {
	k, err := NewKey()
	if err != nil {
		return nil, err
	}
	file, err := k.private.MarshalText()
	if err == nil {
		err = privatefile.Create(path, append(file, '\n'))
	}
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return k, nil
}

// ReadKey returns the key in the file at path, which others than its owner must
// not be able to read, and which has no passphrase (minisign -G -W makes one).
func ReadKey(path string) (*Key, error) {
	file, err := privatefile.Read(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	k, err := ParseKey(file)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	return k, nil
}

// ParseKey reads a secret key without passphrase from the text of minisign's
// file. No error has anything of it.
func ParseKey(file []byte) (*Key, error) {
	k := &Key{}
	if len(file) > maxKeyFile {
		return nil, fmt.Errorf("more than %d bytes", maxKeyFile)
	}
	if err := k.private.UnmarshalText(file); err != nil {
		if strings.Contains(err.Error(), "encrypted") {
			return nil, errors.New("has a passphrase; a key without one is needed (minisign -G -W)")
		}
		return nil, errors.New("is no secret key of minisign")
	}
	// The file has the public key twice over, in the clear and within the
	// secret. If they differ, a signature would tell the secret.
	const message = "rivulet key check"
	if !minisign.Verify(k.private.Public().(minisign.PublicKey), []byte(message), minisign.Sign(k.private, []byte(message))) {
		return nil, errors.New("is damaged: public and secret key do not belong together")
	}
	return k, nil
}

// Public returns the key that checks k's signatures.
func (k Key) Public() PublicKey { return PublicKey{k.private.Public().(minisign.PublicKey)} }

func (k Key) String() string { return "signing key " + k.Public().ID() + " (secret hidden)" }

// Format implements fmt.Formatter: whatever the verb, the secret stays hidden.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText implements encoding.TextMarshaler, without the secret.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// ParsePublicKey reads a public key: the 56 characters that begin with RW, or
// the text of minisign's file, where they follow a comment.
func ParsePublicKey(s string) (PublicKey, error) {
	var k minisign.PublicKey
	if len(s) > maxKeyFile {
		return PublicKey{}, fmt.Errorf("public key: more than %d bytes", maxKeyFile)
	}
	if err := k.UnmarshalText([]byte(strings.TrimSpace(s))); err != nil {
		return PublicKey{}, fmt.Errorf("public key %.20q: want RW… or a file of minisign's", s)
	}
	return PublicKey{k}, nil
}

// FindPublicKey reads the public key that is s, or that is in the file s.
func FindPublicKey(s string) (PublicKey, error) {
	if k, err := ParsePublicKey(s); err == nil {
		return k, nil
	}
	f, err := os.Open(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key %.80q: neither RW… nor a file: %w", s, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key %s: %w", s, err)
	}
	k, err := ParsePublicKey(string(b))
	if err != nil {
		return PublicKey{}, fmt.Errorf("%s: %w", s, err)
	}
	return k, nil
}

// String returns the key as minisign's -P takes it.
func (p PublicKey) String() string { return p.public.String() }

// ID returns the key's ID as minisign shows it: 16 hexadecimal digits. Anybody
// can make a key with this ID; it names, and proves nothing.
func (p PublicKey) ID() string { return keyID(p.public.ID()) }

func keyID(id uint64) string { return fmt.Sprintf("%016X", id) }

// File returns the text of minisign's file of the public key.
func (p PublicKey) File() []byte {
	text, _ := p.public.MarshalText() // never fails
	return append(text, '\n')
}
