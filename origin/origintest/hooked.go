package origintest

import (
	"context"
	"fmt"

	"github.com/rivuletfs/rivulet/origin"
)

// A Hooked origin calls Get before it reads a pointer, of generation in or, if that
// is 0, of the origin itself. An error of it is the answer. Get is called as often
// at once as pointers are read.
type Hooked struct {
	origin.Origin
	Get func(in origin.GenerationID, name string) error
}

type hookedStore struct {
	origin.Store
	of Hooked
	in origin.GenerationID
}

// Generation implements [origin.Origin].
func (h Hooked) Generation(id origin.GenerationID) origin.Store {
	return hookedStore{h.Origin.Generation(id), h, id}
}

// GetPointer implements [origin.Pointers].
func (h Hooked) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return h.get(ctx, h.Origin, 0, name)
}

func (s hookedStore) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return s.of.get(ctx, s.Store, s.in, name)
}

func (h Hooked) get(ctx context.Context, p origin.Pointers, in origin.GenerationID, name string) ([]byte, error) {
	if err := h.Get(in, name); err != nil {
		return nil, fmt.Errorf("get pointer %s: %w", name, err)
	}
	return p.GetPointer(ctx, name)
}
