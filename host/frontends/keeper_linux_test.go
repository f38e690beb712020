package frontends

import (
	"errors"
	"sync"

	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// A keeper remembers names, and holds nothing unless it is to.
type keeper struct {
	holds bool
	fails error // of Keep, which keeps all the same
	mu    sync.Mutex
	files map[string]*fdpass.File // nil: not held
}

func (k *keeper) Keep(name string, f *fdpass.File) (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files == nil {
		k.files = map[string]*fdpass.File{}
	}
	if old := k.files[name]; old != nil {
		_ = old.Close()
	}
	k.files[name] = nil
	if k.holds {
		k.files[name], err = f.Duplicate()
	}
	return errors.Join(err, k.fails)
}

func (k *keeper) Forget(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.files[name]; f != nil {
		_ = f.Close()
	}
	delete(k.files, name)
	return nil
}

func (k *keeper) Close() error { return nil }

func (k *keeper) kept() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.files)
}
