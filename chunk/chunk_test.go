package chunk_test

import (
	"errors"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

func TestNone(t *testing.T) {
	if n, err := (chunk.None{}).ReadChunk(t.Context(), chunk.ID{1}, make([]byte, 10), 0); n != 0 || !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("%d bytes, %v; want ErrNotFound", n, err)
	}
}
