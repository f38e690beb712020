// Package agewrap wraps image keys by age (age-encryption.org/v1): for age's own
// keys, for SSH keys, and for a passphrase.
//
// A wrapped key is one binary age file for one recipient, and its plaintext is
// exactly the 32 bytes of the image key, so that the age tool opens it too. The
// file says nothing of the block map that it is for: a key that was swapped in
// the store does not open that map, and is passed over.
//
// Files for X25519 and post-quantum recipients do not tell whom they are for.
// Those for SSH keys have 32 bits of the public key's digest in them.
//
// The same files lock other small secrets: [Recipient.Encrypt] and
// [Identities.Decrypt].
package agewrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"github.com/rivuletfs/rivulet/seal"
)

// Kind is the kind of attachment that wrapped keys are stored as.
const Kind = "age"

// MaxWorkLog2 bounds the work factor of scrypt in what is decrypted: 2^18 rounds
// take about a second and 256 MiB. It is what age itself writes.
const MaxWorkLog2 = 18

// MaxFileBytes bounds files of recipients and of identities.
const MaxFileBytes = 64 << 10

// A Recipient is somebody for whom keys can be wrapped. It implements
// seal.Wrapper, and any number of goroutines may use one.
type Recipient struct {
	age  age.Recipient
	text string
}

var _ seal.Wrapper = (*Recipient)(nil)

// ParseRecipient reads one recipient: "age1…", "age1pq1…" (post-quantum),
// "ssh-ed25519 …" or "ssh-rsa …".
func ParseRecipient(s string) (*Recipient, error) {
	s = strings.TrimSpace(s)
	switch {
	case len(s) > MaxFileBytes:
		return nil, fmt.Errorf("recipient of %d bytes: too long", len(s))
	case strings.HasPrefix(s, "ssh-"):
		return parseSSH(s)
	case strings.HasPrefix(strings.ToUpper(s), "AGE-SECRET-KEY-"):
		return nil, errors.New("this is an identity (a secret key); give its recipient, which begins with age1")
	}
	list, err := age.ParseRecipients(strings.NewReader(s))
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("recipient %.20q: want age1…, ssh-ed25519 … or ssh-rsa …", s)
	}
	return &Recipient{age: list[0], text: s}, nil
}

func parseSSH(s string) (*Recipient, error) {
	r, err := agessh.ParseRecipient(s)
	if err != nil {
		return nil, fmt.Errorf("recipient %.20q: no SSH key that can be used: want ssh-ed25519, or ssh-rsa of 2048 bits or more", s)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("recipient %.20q: %w", s, err)
	}
	return &Recipient{age: r, text: keyText(key)}, nil
}

// keyText is the one way to write an SSH key, without comment and options.
func keyText(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// ParseRecipients reads a file of recipients, one a line, as age and ssh do:
// empty lines and those that begin with '#' are skipped. It wants at least one.
func ParseRecipients(file []byte) ([]*Recipient, error) {
	if len(file) > MaxFileBytes {
		return nil, fmt.Errorf("file of recipients: more than %d bytes", MaxFileBytes)
	}
	var list []*Recipient
	n := 0
	for line := range strings.Lines(string(file)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		r, err := ParseRecipient(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, errors.New("file of recipients: there is none in it")
	}
	return list, nil
}

// Passphrase returns the Recipient that whoever knows the passphrase is.
func Passphrase(passphrase string) (*Recipient, error) { return passphraseOf(passphrase, MaxWorkLog2) }

func passphraseOf(passphrase string, workLog2 int) (*Recipient, error) {
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(workLog2)
	return &Recipient{age: r, text: "passphrase"}, nil
}

// String returns the recipient as ParseRecipient reads it, always in the same
// spelling, or "passphrase". It is no secret.
func (r *Recipient) String() string { return r.text }

// Kind implements seal.Wrapper.
func (*Recipient) Kind() string { return Kind }

// Wrap implements seal.Wrapper.
func (r *Recipient) Wrap(ctx context.Context, key seal.ImageKey, _ seal.About) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return r.Encrypt(key[:])
}

// Encrypt returns a binary age file for the recipient alone, with the content
// secret.
func (r *Recipient) Encrypt(secret []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, r.age)
	if err == nil {
		_, err = w.Write(secret)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypt for %s: %w", r.text, err)
	}
	return b.Bytes(), nil
}
