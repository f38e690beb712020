// Package store opens origins by their address, as --store takes it. A new kind
// of store is a folder beside this file and a line in it.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/dir"
	"github.com/rivuletfs/rivulet/store/http"
	"github.com/rivuletfs/rivulet/store/s3"
)

// Options are how an origin is opened.
type Options struct {
	Create bool         // make it if it is not there
	Logger *slog.Logger // told what somebody should know; nil: nobody is
}

// A kind is one way to keep an origin.
type kind struct {
	scheme string
	form   string // of its address, for people
	near   bool
	open   func(ctx context.Context, url string, o Options) (origin.Origin, error)
}

var kinds = []kind{
	{"dir", "dir:PATH", true, openDir},
	{"s3", "s3://BUCKET/PREFIX?endpoint=https://HOST", false, openS3},
	{"https", "https://HOST/PATH", false, openHTTP},
	{"http", "http://localhost/PATH", false, openHTTP},
}

// A URLError says that an address is no store's: a user's mistake.
type URLError struct {
	URL    string
	Reason string
}

func (e *URLError) Error() string { return fmt.Sprintf("store %q: %s", e.URL, e.Reason) }

func find(url string) (kind, error) {
	scheme, _, _ := strings.Cut(url, ":")
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.scheme == scheme && scheme != url })
	if i < 0 {
		var forms []string
		for _, k := range kinds {
			forms = append(forms, k.form)
		}
		return kind{}, &URLError{url, "want one of " + strings.Join(forms, ", ")}
	}
	return kinds[i], nil
}

// Open opens the origin at an address. What is wrong with the address itself is
// a [URLError]. Opening one that can only be read does not fail for Create.
func Open(ctx context.Context, url string, o Options) (origin.Origin, error) {
	k, err := find(url)
	if err != nil {
		return nil, err
	}
	opened, err := k.open(ctx, url, o)
	var wrong *URLError
	if err != nil && !errors.As(err, &wrong) {
		return nil, fmt.Errorf("store %s: %w", url, err)
	}
	return opened, err
}

// Near reports whether the origin at an address is near: a request costs little
// there, so that reading by the frame fetches less and is no slower. Far ones are
// read by whole chunks.
func Near(url string) bool {
	k, err := find(url)
	return err == nil && k.near
}

func openDir(_ context.Context, url string, o Options) (origin.Origin, error) {
	path := strings.TrimPrefix(url, "dir:")
	if path == "" {
		return nil, &URLError{url, "the path is missing"}
	}
	return notNil(dir.Open(path, o.Create))
}

func openS3(ctx context.Context, url string, o Options) (origin.Origin, error) {
	c, err := s3.ParseURL(url)
	if err != nil {
		return nil, &URLError{url, err.Error()}
	}
	c.Logger = o.Logger
	return notNil(s3.Open(ctx, c, o.Create))
}

func openHTTP(ctx context.Context, url string, _ Options) (origin.Origin, error) {
	c, err := http.ParseURL(url)
	if err != nil {
		return nil, &URLError{url, err.Error()}
	}
	return notNil(http.Open(ctx, c))
}

// notNil keeps a nil pointer from becoming an origin.
func notNil[O origin.Origin](o O, err error) (origin.Origin, error) {
	if err != nil {
		return nil, err
	}
	return o, nil
}
