// Package store opens origins by their address, as --store takes it. A new kind
// of store is a folder beside this file and a line in it.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/dir"
	"github.com/rivuletfs/rivulet/store/http"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/s3"
)

// Options are how an origin is opened.
type Options struct {
	Create bool         // it is to be written to, and made if it is not there
	Logger *slog.Logger // told what somebody should know; nil: nobody is
	// Keychain finds credentials for registries; nil: docker's configuration and
	// helpers.
	Keychain authn.Keychain

	// Pointers of the origin that will be asked for first, and those of
	// generations; see origin.Ahead.
	Ahead   []string
	AheadIn map[origin.GenerationID][]string
	// Spare is how many connections to a registry are opened beside the first, for who is going to ask for
	// many things at once.
	Spare int
}

// A kind is one way to keep an origin.
type kind struct {
	scheme string
	form   string // of its address, for people; "": not told
	near   bool
	open   func(ctx context.Context, address string, o Options) (origin.Origin, error)
	check  func(address string) error // whether open takes the address; nil: of folders
}

var kinds = []kind{
	{"dir", "dir:PATH", true, openDir, nil},
	{"s3", "s3://BUCKET/PREFIX?endpoint=https://HOST", false, openS3, onlyError(s3.ParseURL)},
	{"oci", "oci://REGISTRY/REPOSITORY[:TAG]", false, openRegistry, checkRegistry},
	{"https", "https://HOST/PATH", false, openHTTP, onlyError(http.ParseURL)},
	{"http", "", false, openHTTP, onlyError(http.ParseURL)}, // to this machine
}

// onlyError is parse, of which only the complaint is wanted.
func onlyError[T any](parse func(string) (T, error)) func(string) error {
	return func(address string) error {
		_, err := parse(address)
		return err
	}
}

// A URLError says that an address is no store's: a user's mistake.
type URLError struct {
	URL    string
	Reason string
}

// Error shows no user and no value of a parameter: somebody may have thought that
// a secret belongs there.
func (e *URLError) Error() string {
	shown, query, _ := strings.Cut(e.URL, "?")
	if at := strings.LastIndexByte(shown, '@'); at >= 0 && !strings.HasPrefix(shown[at:], "@sha256:") {
		scheme, _, _ := strings.Cut(shown, "//")
		shown = scheme + "//…" + shown[at:]
	}
	if query != "" {
		shown += "?…"
	}
	return fmt.Sprintf("store %q: %s", shown, e.Reason)
}

// withUser finds users and passwords in addresses.
var withUser = regexp.MustCompile(`//[^/?#]*@`)

func find(address string) (kind, error) {
	plain, err := url.QueryUnescape(address)
	if !strings.HasPrefix(address, "dir:") && (withUser.MatchString(address) || err == nil && withUser.MatchString(plain)) {
		return kind{}, &URLError{address, "a user or password does not belong into an address: registries take those of docker login, S3 those of its profiles and environment"}
	}
	scheme, _, _ := strings.Cut(address, ":")
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.scheme == scheme && scheme != address })
	if i < 0 {
		var forms []string
		for _, k := range kinds {
			if k.form != "" {
				forms = append(forms, k.form)
			}
		}
		return kind{}, &URLError{address, "want one of " + strings.Join(forms, ", ")}
	}
	return kinds[i], nil
}

// Open opens the origin at an address. What is wrong with the address itself is
// a [URLError]. To make one that can only be read is origin.ErrReadOnly.
func Open(ctx context.Context, address string, o Options) (origin.Origin, error) {
	k, err := find(address)
	if err != nil {
		return nil, err
	}
	opened, err := k.open(ctx, address, o)
	var wrong *URLError
	if err != nil && !errors.As(err, &wrong) {
		return nil, fmt.Errorf("store %s: %w", address, err)
	}
	return opened, err
}

// IsAddress reports whether an address is of a form that Open knows, whatever is there.
func IsAddress(address string) bool {
	_, err := find(address)
	return err == nil
}

// Near reports whether the origin at an address is near: a request costs little
// there, so that reading by the frame fetches less and is no slower. Far ones are
// read by whole chunks.
func Near(address string) bool {
	k, err := find(address)
	return err == nil && k.near
}

// Absolute returns the address of the same store for a process in any folder:
// paths in it become absolute. What is wrong with the address is a [URLError].
func Absolute(address string) (string, error) {
	k, err := find(address)
	if err != nil {
		return "", err
	}
	if k.scheme == "dir" {
		path := strings.TrimPrefix(address, "dir:")
		if path == "" {
			return address, nil
		}
		path, err = filepath.Abs(path)
		return "dir:" + path, err
	}
	if err := k.check(address); err != nil {
		return "", &URLError{address, err.Error()}
	}
	base, query, _ := strings.Cut(address, "?")
	values, err := url.ParseQuery(query)
	if err != nil || values.Get("ca") == "" {
		return address, nil
	}
	file, err := filepath.Abs(values.Get("ca"))
	if err != nil {
		return "", err
	}
	values.Set("ca", file)
	return base + "?" + values.Encode(), nil
}

func openDir(_ context.Context, address string, o Options) (origin.Origin, error) {
	path := strings.TrimPrefix(address, "dir:")
	if path == "" {
		return nil, &URLError{address, "the path is missing"}
	}
	return notNil(dir.Open(path, o.Create))
}

func openS3(ctx context.Context, address string, o Options) (origin.Origin, error) {
	c, err := s3.ParseURL(address)
	if err != nil {
		return nil, &URLError{address, err.Error()}
	}
	c.Logger, c.Ahead, c.AheadIn = o.Logger, o.Ahead, o.AheadIn
	return notNil(s3.Open(ctx, c, o.Create))
}

func checkRegistry(address string) error {
	if _, _, is, err := registry.ParseImageURL(address); is {
		return err
	}
	_, _, err := registry.ParseURL(address)
	return err
}

// openImage opens a converted image, which can only be read.
func openImage(ctx context.Context, address string, o Options) (origin.Origin, error) {
	ref, c, _, err := registry.ParseImageURL(address)
	if err != nil {
		return nil, &URLError{address, err.Error()}
	}
	if o.Create {
		return nil, &URLError{address, "an image at a tag can only be read: leave out the tag or digest to write into the repository"}
	}
	c.Log, c.Keychain, c.Spare = o.Logger, o.Keychain, o.Spare
	return notNil(registry.OpenImage(ctx, ref, c))
}

// openRegistry opens a repository, which is an empty origin until something is
// published there.
func openRegistry(ctx context.Context, address string, o Options) (origin.Origin, error) {
	if _, _, is, _ := registry.ParseImageURL(address); is {
		return openImage(ctx, address, o)
	}
	repository, c, err := registry.ParseURL(address)
	if err != nil {
		return nil, &URLError{address, err.Error()}
	}
	c.Log, c.Keychain, c.Ahead, c.AheadIn, c.Spare = o.Logger, o.Keychain, o.Ahead, o.AheadIn, o.Spare
	return notNil(registry.Open(ctx, repository, c))
}

func openHTTP(ctx context.Context, address string, o Options) (origin.Origin, error) {
	c, err := http.ParseURL(address)
	if err != nil {
		return nil, &URLError{address, err.Error()}
	}
	if o.Create {
		return nil, origin.ErrReadOnly
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
