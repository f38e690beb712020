// Package registry keeps an origin in a repository of an OCI registry.
//
// A registry has blobs, named by their SHA-256, and manifests, which list blobs
// and which tags lead to. Everything that we keep is an artifact manifest with
// a tag of its own:
//
//	rivulet-g1-k-HEX      an index, and the packs that it leads to
//	rivulet-g1-o-HEX      the object HEX; a block map's subject is its image
//	rivulet-g1-x-HEX      index and packs of all chunks of the block map HEX
//	rivulet-g1-p-NAME     a pointer of generation 1
//	rivulet-p-NAME        a pointer of the origin
//
// Chunks are too small and too many to be blobs: they are gathered in packs,
// and read out of them by range. Attachments are referrers of their object's
// manifest. doc/format/registry.md has the rules.
//
// What a reader cannot see from the code:
//
//   - A store learns where chunks lie from indexes, and reads them when it has
//     to: those of one disk with its block map, all of the generation when
//     something is put, listed, or not found. So a read costs one request, and
//     presence none.
//   - Pack blobs are shared: by generations, by repositories (mounted), by
//     images. Deleting a generation deletes its manifests. The registry's own
//     garbage collection then finds the blobs that no manifest lists.
//   - Tags have no compare-and-swap. pointer.go tells what is done instead, and
//     what is left of the problem.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/link"
)

// DefaultPackBytes is the size at which a pack is uploaded.
const DefaultPackBytes = 64 << 20

// Scheme begins the URL of an origin in a registry.
const Scheme = "oci://"

// Options of Open; the zero value is right for nearly everybody.
type Options struct {
	// Keychain finds credentials; nil: docker's configuration and helpers.
	Keychain authn.Keychain
	// Insecure allows plain HTTP, and certificates that are not checked. A
	// registry on the local host is asked over HTTP in any case.
	Insecure bool
	// CAFile has PEM certificates of authorities that are trusted beside the
	// system's; "": none.
	CAFile string
	// Connections bounds the requests under way at one time; 0:
	// link.Connections.
	Connections int
	// Spare is how many connections are opened beside the first; see link.Options. With enough of them, objects
	// are read in pieces.
	Spare int
	// Transport sends requests, instead of what the fields above say, and must
	// not follow redirects; nil: one with connections of its own.
	Transport http.RoundTripper
	// PackBytes is the size at which a pack is uploaded, at least 1 and at most
	// MaxPackBytes minus the largest chunk; 0: DefaultPackBytes.
	PackBytes int64
	// TempDir is where packs are gathered, in unlinked files; "": the system's.
	TempDir string
	// Settle is the time after which another publisher has certainly finished
	// changing a pointer of the origin that it had begun to; 0: DefaultSettle.
	// See SwapPointer.
	Settle time.Duration
	// Ahead names pointers of the origin that Open begins to read, and AheadIn
	// those of generations; see origin.Ahead. Such an origin is to be closed.
	Ahead   []string
	AheadIn map[origin.GenerationID][]string
	// Log is told what an operator should know of the registry; nil: nothing.
	Log *slog.Logger
}

// An Origin is an origin in a repository. Any number of calls may run at once.
type Origin struct {
	pointers
	client *client
	ahead  *origin.Ahead // of pointers; nil: nothing was asked ahead

	mu     sync.Mutex // guards stores
	stores map[origin.GenerationID]*Store
}

var (
	_ origin.Origin = (*Origin)(nil)
	_ origin.Store  = (*Store)(nil)
)

// ParseURL reads oci://REGISTRY/REPOSITORY[?NAME=VALUE&…] with the names ca,
// insecure and connections. The result is for Open.
func ParseURL(address string) (repository string, opts Options, err error) {
	rest, ok := strings.CutPrefix(address, Scheme)
	if !ok {
		return "", opts, errors.New("want oci://REGISTRY/REPOSITORY")
	}
	repository, query, _ := strings.Cut(rest, "?")
	err = link.Parameters(query, map[string]func(string) error{
		"ca":          link.Text(&opts.CAFile),
		"insecure":    link.Bool(&opts.Insecure),
		"connections": link.Count(&opts.Connections),
	})
	if err == nil {
		_, err = parseRepository(repository, opts.Insecure)
	}
	return repository, opts, err
}

// Open opens the origin in the repository that ref names ("oci://HOST/REPO",
// or without the scheme). Open asks the registry how it wants credentials, so
// that it fails where nothing else would work. The repository need not be
// there: one that has nothing of ours is an empty origin.
func Open(ctx context.Context, ref string, opts Options) (*Origin, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("open %s: %w", ref, err)
	}
	repo, err := parseRepository(strings.TrimPrefix(ref, Scheme), opts.Insecure)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", ref, err)
	}
	c := newClient(repo, &opts)
	c.hope = newHopeful(c.sender())
	o := newOrigin(c)
	o.ahead = origin.ReadAhead(ctx, &o.pointers, opts.Ahead...)
	for id, names := range opts.AheadIn {
		g := o.generation(id)
		g.ahead = origin.ReadAhead(ctx, &g.pointers, names...)
	}
	if err := c.open(ctx, "open "+ref); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// Close ends what Open has begun to read. Other calls are not disturbed.
func (o *Origin) Close() {
	if o.ahead != nil {
		o.ahead.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.stores {
		if s.ahead != nil {
			s.ahead.Close()
		}
	}
}

// GetPointer implements [origin.Pointers].
func (o *Origin) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if o.ahead == nil {
		return o.pointers.GetPointer(ctx, name)
	}
	return o.ahead.GetPointer(ctx, name)
}

func newOrigin(c *client) *Origin {
	o := &Origin{client: c, stores: make(map[origin.GenerationID]*Store)}
	o.pointers = pointers{client: c, prefix: "rivulet-", settle: c.opts.Settle}
	return o
}

func parseRepository(ref string, insecure bool) (name.Repository, error) {
	opts := []name.Option{name.StrictValidation}
	if insecure {
		opts = append(opts, name.Insecure)
	}
	if strings.Contains(ref, "@") && !strings.Contains(ref, "@sha256:") {
		return name.Repository{}, errors.New("a user or password does not belong into an address: log in with docker login")
	}
	repo, err := name.NewRepository(ref, opts...)
	if err == nil {
		return repo, nil
	}
	if _, tagged := name.ParseReference(ref); tagged == nil && strings.ContainsAny(ref, "@:") {
		return repo, errors.New("an origin is a repository: leave out the tag or digest")
	}
	return repo, fmt.Errorf("want oci://REGISTRY/REPOSITORY: %w", err)
}

func (o *Options) complete() error {
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	if o.Transport == nil {
		t, err := link.New(link.Options{CAFile: o.CAFile, Connections: o.Connections, Spare: o.Spare})
		if err != nil {
			return err
		}
		t.TLSClientConfig.InsecureSkipVerify = o.Insecure
		o.Transport = t
	}
	if o.PackBytes == 0 {
		o.PackBytes = DefaultPackBytes
	}
	if o.PackBytes < 1 || o.PackBytes > MaxPackBytes-maxChunk {
		return fmt.Errorf("packs of %d bytes: want 1 to %d", o.PackBytes, MaxPackBytes-maxChunk)
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	if o.Settle == 0 {
		o.Settle = DefaultSettle
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Repository returns the repository's name, with the registry's.
func (o *Origin) Repository() string { return o.client.repo.Name() }

// Generation implements [origin.Origin].
func (o *Origin) Generation(id origin.GenerationID) origin.Store { return o.generation(id) }

func (o *Origin) generation(id origin.GenerationID) *Store {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stores[id]
	if s == nil {
		s = newStore(o.client, id)
		o.stores[id] = s
	}
	return s
}
