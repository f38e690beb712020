package s3

import (
	"context"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/rivuletfs/rivulet/store/internal/agree"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// pageKeys is how many objects are listed, and removed, by one request.
const pageKeys = 1000

// An entry is what a list says of an object.
type entry struct {
	key  string
	size int64 // bytes
}

// more is where a page goes on that is full: after its last key.
const more = "more"

// page lists up to pageKeys objects whose keys begin with prefix and come after
// after, or all if folders is set: then what lies in folders below prefix is
// listed as those. Nothing in an answer proves its keys, so two have to agree.
func (c *client) page(ctx context.Context, prefix, after string, folders bool) (list []entry, full bool, err error) {
	a, err := agree.List(ctx, func(ctx context.Context) (a agree.Answer[entry], err error) {
		err = c.do(ctx, 0, func(ctx context.Context) (err error) {
			a.Items, err = c.askPage(ctx, prefix, after, folders)
			return err
		})
		if len(a.Items) == pageKeys && !folders {
			a.Next = more
		}
		return a, err
	}, func(e entry) string { return e.key })
	return a.Items, a.Next == more, err
}

// askPage asks for a page, once.
func (c *client) askPage(ctx context.Context, prefix, after string, folders bool) (list []entry, err error) {
	ctx, n := withNote(ctx)
	owner := false
	o := minio.ListObjectsOptions{Prefix: prefix, StartAfter: after, Recursive: !folders, MaxKeys: pageKeys, FetchOwner: &owner}
	for info := range c.core.ListObjectsIter(ctx, c.config.Bucket, o) {
		if info.Err != nil {
			return nil, c.judge(n, info.Err)
		}
		if !strings.HasPrefix(info.Key, prefix) || !folders && info.Key <= after {
			return nil, retry.Again(fmt.Errorf("unexpected answer: %.100q is listed after %.100q", info.Key, after))
		}
		if !folders {
			after = info.Key
		}
		list = append(list, entry{info.Key, info.Size})
		if len(list) == pageKeys && !folders {
			break
		}
	}
	return list, ctx.Err() // the library says nothing when it ended
}

// list calls fn for pages of the objects whose keys begin with prefix, in the
// order of keys. The page is fn's.
func (c *client) list(ctx context.Context, prefix string, fn func(page []entry) error) error {
	for after := ""; ; {
		page, full, err := c.page(ctx, prefix, after, false)
		if err != nil {
			return err
		}
		if full && len(page) == 0 {
			return fmt.Errorf("unexpected answers: all keys after %.100q change all the time", after)
		}
		if full { // before fn changes the page
			after = page[len(page)-1].key
		}
		if err := fn(page); err != nil || !full {
			return err
		}
	}
}
