// Chunkput puts the chunks of a directory store's first generation into another
// origin, as publishing does once they are sealed.
//
//	chunkput [-connections 16] STORE-DIR URL
//
// It prints one JSON object: chunks, those that were not there, bytes, seconds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/dir"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "chunkput:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	connections := flag.Int("connections", 16, "chunks that are put at once")
	flag.Parse()
	if flag.NArg() != 2 {
		return errors.New("want a store's directory and an origin's address")
	}
	from, err := dir.Open(flag.Arg(0), false)
	if err != nil {
		return err
	}
	begin := time.Now()
	to, err := store.Open(ctx, flag.Arg(1), store.Options{Create: true})
	if err != nil {
		return err
	}
	chunks, added, bytes, err := put(ctx, from.Generation(1), to.Generation(1), *connections)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"chunks": chunks, "added": added, "bytes": bytes, "seconds": time.Since(begin).Seconds(),
	})
}

// put copies the chunks of one generation to another.
func put(ctx context.Context, from, to origin.Store, at int) (chunks int, added, bytes int64, err error) {
	var news, total atomic.Int64
	g, all := errgroup.WithContext(ctx)
	g.SetLimit(at)
	err = from.List(all, func(id chunk.ID, size int64) error {
		chunks++
		g.Go(func() error {
			b := make([]byte, size)
			if _, err := from.Fetch(all, id, b, 0); err != nil {
				return err
			}
			isNew, err := to.Put(all, id, b)
			if isNew {
				news.Add(1)
			}
			total.Add(size)
			return err
		})
		return all.Err()
	})
	if putErr := g.Wait(); putErr != nil {
		err = putErr // the listing has ended for it
	}
	if err != nil {
		return 0, 0, 0, err
	}
	return chunks, news.Load(), total.Load(), to.Flush(ctx)
}
