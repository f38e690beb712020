package credentials

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

const (
	// newTime is for how long a login of a pull comes before those of plugins.
	newTime = 10 * time.Minute
	// maxPulls bounds how many logins are remembered; the oldest are forgotten.
	maxPulls = 1024
	// maxSecret bounds a login, in bytes as JSON.
	maxSecret = 64 << 10
)

// A pulled login is one that somebody pulled with; an empty one took the place of another.
type pulledLogin struct {
	Login authn.AuthConfig `json:"login"`
	When  time.Time        `json:"when"`
}

// Pulls remembers what images were pulled with, each for its repository. Any number of
// goroutines may use it; a nil one remembers nothing.
type Pulls struct {
	path string // of the file; "": in memory alone

	mu     sync.Mutex // guards what follows, and the file
	logins map[string]pulledLogin
	failed map[failedPull]earlier
}

// A failedPull failed while a later one of its repository was under way: if that fails, too, what was
// before both is good again.
type failedPull struct {
	repository string
	with       pulledLogin
}

// An earlier login is what was known before a pull, if anything.
type earlier struct {
	login pulledLogin
	there bool
}

// OpenPulls returns the logins that are kept in a file, which need not be there yet;
// with path empty they are remembered in memory alone, and forgotten with the process. The file
// has secrets: it is its owner's alone.
func OpenPulls(path string) (*Pulls, error) {
	p := &Pulls{path: path, logins: make(map[string]pulledLogin), failed: make(map[failedPull]earlier)}
	if path == "" {
		return p, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("logins of pulls: %w", err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, errors.Join(fmt.Errorf("logins of pulls: %s: others may read it; remove it, and pull again", path), err)
	}
	if p.logins, err = parsePulls(f); err != nil {
		return nil, fmt.Errorf("logins of pulls: %s: %w; remove it, and pull again", path, err)
	}
	return p, nil
}

func parsePulls(r io.Reader) (map[string]pulledLogin, error) {
	const bound = maxPulls * maxSecret
	b, err := io.ReadAll(io.LimitReader(r, bound+1))
	if err != nil {
		return nil, err
	}
	if len(b) > bound {
		return nil, fmt.Errorf("more than %d bytes", bound)
	}
	logins := make(map[string]pulledLogin)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&logins); err != nil || logins == nil {
		return nil, errors.New("it is not what was written") // the decoder's error could show a secret
	}
	if len(logins) > maxPulls {
		return nil, fmt.Errorf("more than %d logins", maxPulls)
	}
	return logins, nil
}

// Learn remembers the login that an image was pulled with; an empty one takes the last one
// away. The returned function takes the change back, for a pull that failed. That a
// file could not be written is an error; the login counts all the same until the process ends.
func (p *Pulls) Learn(image string, login authn.AuthConfig) (takeBack func(), err error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("login of a pull: %w", err)
	}
	b, err := json.Marshal(login)
	if err != nil || len(b) > maxSecret {
		return nil, errors.Join(fmt.Errorf("login of a pull of %s: more than %d bytes", ref.Context(), maxSecret), err)
	}
	// What cannot be read again would keep the whole file from being read.
	if err := json.Unmarshal(b, &login); err != nil {
		return nil, fmt.Errorf("login of a pull of %s: it is no login", ref.Context()) // the decoder's error could show a secret
	}
	repository := ref.Context().Name()
	p.mu.Lock()
	defer p.mu.Unlock()
	before, had := p.logins[repository]
	if login == (authn.AuthConfig{}) && !had {
		return func() {}, nil // as most pulls
	}
	now := pulledLogin{login, time.Now().Round(0)}
	p.set(repository, now, true)
	return func() { p.takeBack(repository, now, earlier{before, had}) }, p.write()
}

// takeBack undoes a pull that failed.
func (p *Pulls) takeBack(repository string, now pulledLogin, before earlier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.logins[repository] != now { // but that of a later pull
		if len(p.failed) >= maxPulls {
			clear(p.failed)
		}
		p.failed[failedPull{repository, now}] = before
		return
	}
	for before.there {
		which := failedPull{repository, before.login}
		still, failed := p.failed[which]
		if !failed {
			break
		}
		delete(p.failed, which)
		before = still
	}
	p.set(repository, before.login, before.there)
	_ = p.write()
}

func (p *Pulls) set(repository string, l pulledLogin, there bool) {
	if !there {
		delete(p.logins, repository)
		return
	}
	if _, known := p.logins[repository]; !known && len(p.logins) >= maxPulls {
		oldest := ""
		for r, other := range p.logins {
			if oldest == "" || other.When.Before(p.logins[oldest].When) {
				oldest = r
			}
		}
		delete(p.logins, oldest)
	}
	p.logins[repository] = l
}

// write puts all into the file, whole.
func (p *Pulls) write() (err error) {
	if p.path == "" {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("logins of pulls: %w", err)
		}
	}()
	b, err := json.Marshal(p.logins)
	if err != nil {
		return err
	}
	// One name, so that who is killed leaves secrets in one file at most, until the next time.
	temporary := p.path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temporary, p.path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(temporary))
	}
	return err
}

// find returns the login that a repository was pulled with, nil if none was needed, and
// whether that is new.
func (p *Pulls) find(repository string) (login *authn.AuthConfig, isNew bool) {
	if p == nil {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.logins[repository]
	if l.Login == (authn.AuthConfig{}) {
		return nil, false
	}
	age := time.Since(l.When)
	return &l.Login, age >= 0 && age < newTime
}

// Repositories returns which repositories there are logins for, sorted.
func (p *Pulls) Repositories() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]string, 0, len(p.logins))
	for r, l := range p.logins {
		if l.Login != (authn.AuthConfig{}) {
			list = append(list, r)
		}
	}
	slices.Sort(list)
	return list
}
