// Package keyring is the folder in which the keys of one user lie, and what that
// user was told of others:
//
//	identity.txt     secret: opens what is locked for this user (age)
//	publisher.key    secret: signs what this user publishes (minisign)
//	publisher.pub    its public key, for those who trust it
//	trusted.pub      public keys of publishers whose work is taken over, one a line
//	salts            IDs of the salts that were seen, one a line
//	generations      where this user published last, a line for each store
//
// Secrets are files that nobody else can read, or they are refused; so is what
// this user was told, if others can write it. None of that is ever replaced: a key that
// is made anew could not open, or vouch for, what was done with the old one. The
// generations are guesses, and change.
package keyring

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/sign"
)

const (
	identityFile  = "identity.txt"
	publisherFile = "publisher.key"
	publicFile    = "publisher.pub"
	trustedFile   = "trusted.pub"
	saltsFile     = "salts"

	generationsFile = "generations"

	maxTrustedBytes = 1 << 20
)

// A Folder is the folder of one user's keys. It is made when something is kept in
// it. Any number of processes may use one.
type Folder struct{ path string }

// Environment names the variable that says where the user's folder is.
const Environment = "RIVULET_KEYS"

// Open returns the folder at path, or, if path is empty, the user's own: the one
// that Environment names, else rivulet below $XDG_CONFIG_HOME, or what the system
// has in its place.
func Open(path string) (*Folder, error) {
	if path == "" {
		path = os.Getenv(Environment)
	}
	if path == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return nil, fmt.Errorf("no folder to keep keys in: %w", err)
		}
		path = filepath.Join(config, "rivulet")
	}
	return &Folder{path: path}, nil
}

// Path returns where the folder is.
func (f *Folder) Path() string { return f.path }

// IdentityPath returns where the user's identity is, or would be.
func (f *Folder) IdentityPath() string { return f.file(identityFile) }

func (f *Folder) file(name string) string { return filepath.Join(f.path, name) }

// Identity returns the user's identity, or fs.ErrNotExist. ask gives the
// passphrase of a file that has one, and may be nil.
func (f *Folder) Identity(ask agewrap.Ask) (*agewrap.Identities, error) {
	return agewrap.ReadIdentities(f.IdentityPath(), ask)
}

// MakeIdentity is Identity, but makes one if there is none, and reports that.
func (f *Folder) MakeIdentity(ask agewrap.Ask) (ids *agewrap.Identities, made bool, err error) {
	ids, err = f.Identity(ask)
	if !errors.Is(err, fs.ErrNotExist) {
		return ids, false, err
	}
	ids, err = agewrap.CreateIdentity(f.IdentityPath())
	if errors.Is(err, fs.ErrExist) { // somebody was faster
		ids, err = f.Identity(ask)
		return ids, false, err
	}
	return ids, err == nil, err
}

// MakePublisher returns the key that the user signs with. If there is none, it
// makes one and reports that.
func (f *Folder) MakePublisher() (key *sign.Key, made bool, err error) {
	path := f.file(publisherFile)
	key, err = sign.ReadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = sign.CreateKey(path)
		if made = err == nil; errors.Is(err, fs.ErrExist) {
			key, err = sign.ReadKey(path)
		}
	}
	if err != nil {
		return nil, false, err
	}
	if _, err := os.Lstat(f.file(publicFile)); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(f.file(publicFile), key.Public().File(), 0o644); err != nil {
			return nil, made, err
		}
	}
	return key, made, nil
}

// Trusted returns the public keys of the publishers whom the user trusts, without
// the user's own: none if the file is not there.
func (f *Folder) Trusted() ([]sign.PublicKey, error) {
	path := f.file(trustedFile)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	if err := ownersAlone(file); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxTrustedBytes+1))
	if err == nil && len(b) > maxTrustedBytes {
		err = fmt.Errorf("%s: more than %d bytes", path, maxTrustedBytes)
	}
	if err != nil {
		return nil, err
	}
	var keys []sign.PublicKey
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "untrusted comment:") {
			continue
		}
		k, err := sign.ParsePublicKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// ownersAlone reports, by a nil error, that nobody but its owner can change file.
func ownersAlone(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("%s: may be changed by others (mode %04o); chmod go-w it: %w", file.Name(), perm, fs.ErrPermission)
	}
	return nil
}
