// Uniquechunks adds up the chunks of all images of a directory store, each chunk
// once, file data apart from file-system metadata.
//
//	uniquechunks STORE-DIR
//
// It prints one JSON object: the number of data and of metadata chunks, their
// bytes before the codec, and as stored.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/dir"
)

// A total is the sum of some chunks.
type total struct {
	Chunks int   `json:"chunks"`
	Bytes  int64 `json:"bytes"`        // plaintext
	Stored int64 `json:"stored_bytes"` // headers included
}

// A census counts each chunk once.
type census struct {
	Images   int   `json:"images"`
	Data     total `json:"data"`
	Metadata total `json:"metadata"`

	seen map[chunk.ID]bool
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "uniquechunks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) != 2 {
		return errors.New("want a store's directory")
	}
	place, err := dir.Open(os.Args[1], false)
	if err != nil {
		return err
	}
	store := place.Generation(1)
	c := &census{seen: make(map[chunk.ID]bool)}
	err = catalog.Names(ctx, store, func(_ string, d origin.Digest) error {
		m, err := catalog.Load(ctx, store, d)
		if err == nil {
			c.add(m)
		}
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

// add counts m's chunks: those within a layer's slot are data.
func (c *census) add(m *blockmap.Map) {
	c.Images++
	layers := m.Layers()
	for i := range m.Len() {
		e := m.Chunk(i)
		for len(layers) > 0 && e.Index >= layers[0].First+layers[0].Slot {
			layers = layers[1:]
		}
		if c.seen[e.ID] {
			continue
		}
		c.seen[e.ID] = true
		t := &c.Metadata
		if len(layers) > 0 && e.Index >= layers[0].First {
			t = &c.Data
		}
		t.Chunks++
		t.Bytes += int64(e.Size)
		t.Stored += int64(e.Stored)
	}
}
