package agewrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"

	"github.com/rivuletfs/rivulet/internal/privatefile"
	"github.com/rivuletfs/rivulet/seal"
)

// An Ask returns the passphrase of what it names. It is called when one is
// needed, by one goroutine at a time for the identities of one file.
type Ask func(what string) (passphrase string, err error)

// ErrPassphrase is returned (wrapped) for a file that needs a passphrase when
// nobody can be asked, or when the one given is wrong.
var ErrPassphrase = errors.New("needs its passphrase")

// Identities are the secret keys of one owner. They implement seal.Unwrapper,
// and any number of goroutines may use them; decryptions take turns, so that the
// memory of scrypt is taken once. However they are printed, no secret shows.
type Identities struct {
	recipients []*Recipient

	mu     sync.Mutex // guards what follows: encrypted SSH keys change
	ids    []age.Identity
	failed error // of the last question for a passphrase
}

var _ seal.Unwrapper = (*Identities)(nil)

// ParseIdentities reads a file of identities: age's secret keys, one a line; an
// SSH private key; or an age file, binary or armored, that a passphrase opens
// and that has age's secret keys in it. ask may be nil. name stands for the file
// in questions and errors, no error has anything of its content.
func ParseIdentities(name string, file []byte, ask Ask) (*Identities, error) {
	if len(file) > MaxFileBytes {
		return nil, fmt.Errorf("%s: more than %d bytes", name, MaxFileBytes)
	}
	if ask == nil {
		ask = func(string) (string, error) { return "", ErrPassphrase }
	}
	switch {
	case bytes.HasPrefix(file, []byte("age-encryption.org/")):
		return encryptedIdentities(name, bytes.NewReader(file), ask)
	case bytes.HasPrefix(file, []byte(armor.Header)):
		return encryptedIdentities(name, armor.NewReader(bytes.NewReader(file)), ask)
	case bytes.HasPrefix(file, []byte("-----BEGIN ")):
		return sshIdentity(name, file, ask)
	}
	return plainIdentities(name, file)
}

func plainIdentities(name string, file []byte) (*Identities, error) {
	ids := &Identities{}
	n := 0
	for line := range strings.Lines(string(file)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		list, err := age.ParseIdentities(strings.NewReader(line))
		if err != nil || len(list) != 1 { // its text may have the key in it
			return nil, fmt.Errorf("%s: line %d is no age identity (AGE-SECRET-KEY-1…)", name, n)
		}
		switch id := list[0].(type) {
		case *age.X25519Identity:
			ids.add(id, &Recipient{id.Recipient(), id.Recipient().String()})
		case *age.HybridIdentity:
			ids.add(id, &Recipient{id.Recipient(), id.Recipient().String()})
		default:
			return nil, fmt.Errorf("%s: line %d is an identity of a kind that is not supported", name, n)
		}
	}
	if len(ids.ids) == 0 {
		return nil, fmt.Errorf("%s: there is no identity in it", name)
	}
	return ids, nil
}

func (i *Identities) add(id age.Identity, r *Recipient) {
	i.ids = append(i.ids, id)
	i.recipients = append(i.recipients, r)
}

// encryptedIdentities opens an age file that has identities in it.
func encryptedIdentities(name string, file io.Reader, ask Ask) (*Identities, error) {
	passphrase, err := ask(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	locked, err := PassphraseIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	plain, err := locked.decrypt(file, MaxFileBytes)
	if errors.Is(err, seal.ErrNotRecipient) {
		return nil, fmt.Errorf("%s: wrong passphrase, or made for a key: %w", name, ErrPassphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return plainIdentities(name, plain)
}

func sshIdentity(name string, file []byte, ask Ask) (*Identities, error) {
	key, err := ssh.ParsePrivateKey(file)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if missing.PublicKey == nil {
			return nil, fmt.Errorf("%s: encrypted in the old format of SSH keys; ssh-keygen -p -f FILE writes it anew", name)
		}
		ids := &Identities{}
		id, err := agessh.NewEncryptedSSHIdentity(missing.PublicKey, slices.Clone(file), func() ([]byte, error) {
			passphrase, err := ask(name)
			if err != nil {
				ids.failed = fmt.Errorf("%s: %w", name, err)
			}
			return []byte(passphrase), err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ids.add(id, &Recipient{id.Recipient(), keyText(missing.PublicKey)})
		return ids, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: no SSH private key that can be read", name)
	}
	id, err := agessh.ParseIdentity(file)
	if err != nil {
		return nil, fmt.Errorf("%s: no SSH key of a supported type; want ed25519 or rsa", name)
	}
	r, err := parseSSH(keyText(key.PublicKey()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ids := &Identities{}
	ids.add(id, r)
	return ids, nil
}

// PassphraseIdentity returns the identity of whoever knows the passphrase. Work
// factors above MaxWorkLog2 are refused.
func PassphraseIdentity(passphrase string) (*Identities, error) {
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(MaxWorkLog2)
	return &Identities{ids: []age.Identity{id}}, nil
}

// ReadIdentities is ParseIdentities of the file at path, which others than its
// owner must not be able to read.
func ReadIdentities(path string, ask Ask) (*Identities, error) {
	file, err := privatefile.Read(path, MaxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return ParseIdentities(path, file, ask)
}

// CreateIdentity makes a new X25519 identity in a file of its owner's at path,
// as age-keygen does, and returns it. It replaces nothing: a file that is there
// is fs.ErrExist, wrapped.
func CreateIdentity(path string) (*Identities, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	file := fmt.Appendf(nil, "# created: %s\n# public key: %s\n%s\n", time.Now().Format(time.RFC3339), id.Recipient(), id)
	if err := privatefile.Create(path, file); err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	return plainIdentities(path, file)
}

// Recipients returns those whose keys are wrapped for these identities. It is
// empty for a passphrase. The caller must not change the slice.
func (i *Identities) Recipients() []*Recipient { return i.recipients }

// String names the recipients.
func (i *Identities) String() string {
	names := make([]string, len(i.recipients))
	for k, r := range i.recipients {
		names[k] = r.text
	}
	return "identity of " + strings.Join(names, ", ")
}

// Format implements fmt.Formatter: whatever the verb, no secret shows.
func (i *Identities) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, i.String()) }

// MarshalText implements encoding.TextMarshaler, without secrets.
func (i *Identities) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// Kind implements seal.Unwrapper.
func (*Identities) Kind() string { return Kind }

// Unwrap implements seal.Unwrapper.
func (i *Identities) Unwrap(ctx context.Context, data []byte, about seal.About) (seal.ImageKey, error) {
	if ctx.Err() != nil {
		return seal.ImageKey{}, context.Cause(ctx)
	}
	key, err := i.Decrypt(data, len(seal.ImageKey{}))
	if err != nil {
		return seal.ImageKey{}, fmt.Errorf("image key of %v by age: %w", about.Map, err)
	}
	if len(key) != len(seal.ImageKey{}) {
		return seal.ImageKey{}, fmt.Errorf("image key of %v by age: %d bytes, want %d", about.Map, len(key), len(seal.ImageKey{}))
	}
	return seal.ImageKey(key), nil
}

// Decrypt returns the content of a binary age file, of at most max bytes. The
// error is seal.ErrNotRecipient if the file is for somebody else.
func (i *Identities) Decrypt(file []byte, max int) ([]byte, error) {
	return i.decrypt(bytes.NewReader(file), max)
}

func (i *Identities) decrypt(file io.Reader, max int) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failed = nil
	r, err := age.Decrypt(file, i.ids...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, seal.ErrNotRecipient
	}
	if i.failed != nil { // err has it as text alone
		return nil, i.failed
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt age file: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(max)+1))
	if err != nil {
		return nil, fmt.Errorf("decrypt age file: %w", err)
	}
	if len(b) > max {
		return nil, fmt.Errorf("decrypt age file: more than %d bytes in it", max)
	}
	return b, nil
}
