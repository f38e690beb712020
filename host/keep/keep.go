// Package keep keeps descriptors for the process that comes after this one: the
// /dev/fuse of a mount, whose readers wait instead of failing while somebody
// holds it, and listening sockets, where clients queue meanwhile.
//
// There are two keepers. Systemd's descriptor store (NewSystemd) is the one to
// have where systemd restarts the agent. Elsewhere a Holder does it, a process
// that does nothing else, and which nobody restarts or replaces (Hold).
//
//	agent ──keep, forget──► keeper        the agent is killed
//	                           │
//	next agent ◄──Inherited────┘          its successor takes all over
//
// A live upgrade needs no keeper: the old process sends its descriptors itself,
// as the same Inherited.
package keep

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// MaxName bounds a descriptor's name, in bytes.
const MaxName = 255

// A Descriptor is an open file that goes from process to process, under a name
// that says whose it is.
type Descriptor struct {
	Name  string          // letters, digits, "-", "." and "_"
	State json.RawMessage // what belongs to it and is nowhere else; nil: nothing
	File  *fdpass.File
}

// A Keeper keeps descriptors until they are forgotten. Any number of calls may
// run at once.
type Keeper interface {
	// Keep keeps f under name, in place of what was kept under it. f stays the
	// caller's. After an error it may come to be kept all the same, unless it is
	// forgotten.
	Keep(name string, f *fdpass.File) error
	// Forget closes what is kept under name. An unknown name is no error.
	Forget(name string) error
	// Close lets go of the keeper; what it keeps it goes on keeping.
	Close() error
}

func checkName(name string) error {
	ok := name != "" && len(name) <= MaxName
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
	}
	if !ok {
		return fmt.Errorf("keep descriptor %q: bad name", name)
	}
	return nil
}

// None keeps nothing: what is served ends with the process.
type None struct{}

var _ Keeper = None{}

// Keep does nothing.
func (None) Keep(string, *fdpass.File) error { return nil }

// Forget does nothing.
func (None) Forget(string) error { return nil }

// Close does nothing.
func (None) Close() error { return nil }

// Inherited is what a process got from the one before it. The zero value is
// empty. Any number of calls may run at once.
type Inherited struct {
	mu  sync.Mutex
	all map[string]Descriptor
}

// Add adds d. It closes what had the name before.
func (in *Inherited) Add(d Descriptor) {
	in.mu.Lock()
	old, replaced := in.all[d.Name]
	if in.all == nil {
		in.all = make(map[string]Descriptor)
	}
	in.all[d.Name] = d
	in.mu.Unlock()
	if replaced {
		_ = old.File.Close()
	}
}

// Take returns the descriptor called name, the caller's from now on, and false
// if there is none.
func (in *Inherited) Take(name string) (Descriptor, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	d, ok := in.all[name]
	delete(in.all, name)
	return d, ok
}

// TakePrefix takes all whose name begins with prefix, in the order of names.
func (in *Inherited) TakePrefix(prefix string) []Descriptor {
	in.mu.Lock()
	defer in.mu.Unlock()
	var list []Descriptor
	for _, name := range slices.Sorted(maps.Keys(in.all)) {
		if strings.HasPrefix(name, prefix) {
			list = append(list, in.all[name])
			delete(in.all, name)
		}
	}
	return list
}

// Close closes what nobody took, and returns the names.
func (in *Inherited) Close() []string {
	var names []string
	for _, d := range in.TakePrefix("") {
		names = append(names, d.Name)
		_ = d.File.Close()
	}
	return names
}
