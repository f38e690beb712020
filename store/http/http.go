// Package http reads an origin through any web server or cache: a directory
// store that is served as files, or a bucket that is open to all. The places are
// those of package place, below an address.
//
// Nothing can be written (origin.ErrReadOnly) and nothing listed
// (origin.ErrNoListing) but attachments, which have an index. Names are looked
// up as everywhere.
//
// What is fetched in parts, chunks, is checked by whoever reads it, and so may
// come from any copy. Objects and attachments are checked here. Pointers are
// asked for with Cache-Control: no-cache, so that a cache asks the server before
// it answers: what a cache may say of anything else does no harm, for it never
// changes.
//
// Answers are taken only if they are exactly what was asked for; package
// byterange says what else there is. What was read as a whole and is not what it
// should be is read again before that is believed, past all caches. Redirects
// are followed a few times, and never from https to http.
package http

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/store/internal/link"
)

// maxRedirects is how many redirects of one request are followed.
const maxRedirects = 5

// maxVersionBytes is more than any version file has.
const maxVersionBytes = 64

// A Config says where an origin is.
type Config struct {
	Base        *url.URL // below which the places are; without query
	CAFile      string   // authorities trusted besides the system's, PEM; "": none
	Insecure    bool     // allows plain HTTP to other machines than this one
	Connections int      // requests at once; 0: link.Connections
}

// ParseURL reads https://HOST/PATH[?NAME=VALUE&…] with the names ca, insecure
// and connections.
func ParseURL(s string) (Config, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Config{}, errors.New("want https://HOST/PATH")
	}
	var c Config
	err = link.Parameters(u.RawQuery, map[string]func(string) error{
		"ca":          link.Text(&c.CAFile),
		"insecure":    link.Bool(&c.Insecure),
		"connections": link.Count(&c.Connections),
	})
	if err != nil {
		return Config{}, err
	}
	u.RawQuery = ""
	c.Base = u
	return c, c.check()
}

func (c *Config) check() error {
	if err := link.CheckURL(c.Base, c.Insecure); err != nil {
		return err
	}
	if p := c.Base.Path; p != "" && path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/" {
		return fmt.Errorf("path %q: has empty, \".\" or \"..\" parts", p)
	}
	return nil
}

// An Origin is an origin behind a web server. Any number of calls may run at
// once.
type Origin struct{ tree }

// A Store is one generation of an [Origin].
type Store struct{ tree }

var (
	_ origin.Origin = (*Origin)(nil)
	_ origin.Store  = (*Store)(nil)
)

// A tree is a part of the origin that has pointers: all of it, or one of its
// generations.
type tree struct {
	*client
	root *url.URL // of the origin; ends in a slash
	at   string   // the part's place in it: "", or a generation's with a slash
}

// Open opens the origin that c names. What it asks of the server is one small
// file. Close frees what it holds.
func Open(ctx context.Context, c Config) (*Origin, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	cl, err := newClient(&c)
	if err != nil {
		return nil, err
	}
	root := *c.Base
	root.Path = strings.TrimSuffix(root.Path, "/") + "/"
	o := &Origin{tree{client: cl, root: &root}}
	_, err = o.readChecked(ctx, place.Version, maxVersionBytes, always, place.CheckVersion)
	if errors.Is(err, chunk.ErrNotFound) {
		err = origin.ErrNoStore
	}
	if err != nil {
		o.Close()
		return nil, fmt.Errorf("open %s: %w", c.Base, err)
	}
	return o, nil
}

// Close closes idle connections. Calls that still run are not disturbed.
func (o *Origin) Close() { o.connect.CloseIdleConnections() }

// Generation implements [origin.Origin].
func (o *Origin) Generation(id origin.GenerationID) origin.Store {
	return &Store{tree{o.client, o.root, place.Generation(id) + "/"}}
}
