package credentials

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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

// A pulled login is one that somebody pulled with.
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
}

// OpenPulls returns the logins that are kept in a file, which need not be there yet;
// with path empty they are remembered in memory alone, and forgotten with the process. The file
// has secrets: it is its owner's alone.
func OpenPulls(path string) (*Pulls, error) {
	p := &Pulls{path: path, logins: make(map[string]pulledLogin)}
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
	if err := d.Decode(&logins); err != nil {
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
	if b, err := json.Marshal(login); err != nil || len(b) > maxSecret {
		return nil, errors.Join(fmt.Errorf("login of a pull of %s: more than %d bytes", ref.Context(), maxSecret), err)
	}
	repository := ref.Context().Name()
	p.mu.Lock()
	defer p.mu.Unlock()
	before, had := p.logins[repository]
	now := pulledLogin{login, time.Now().Round(0)}
	p.set(repository, now, login != authn.AuthConfig{})
	takeBack = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.logins[repository] == now { // and not that of a later pull
			p.set(repository, before, had)
			_ = p.write()
		}
	}
	return takeBack, p.write()
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
	f, err := os.CreateTemp(filepath.Dir(p.path), filepath.Base(p.path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), p.path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
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
	l, ok := p.logins[repository]
	if !ok {
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
	for r := range p.logins {
		list = append(list, r)
	}
	slices.Sort(list)
	return list
}
