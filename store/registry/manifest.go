package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/agree"
	"github.com/rivuletfs/rivulet/store/internal/retry"
)

// Media types of what we keep. The type of an artifact stands in its manifest
// twice, since registries differ in where they look.
const (
	typePacks      = "application/vnd.rivulet.packs.v1"       // artifact: an index and the packs it leads to
	typeObject     = "application/vnd.rivulet.object.v1"      // artifact: an object
	typeBlockMap   = "application/vnd.rivulet.blockmap.v1"    // artifact: an object that is a block map
	typeDisk       = "application/vnd.rivulet.disk.v1"        // artifact: block map, index and packs
	typePointer    = "application/vnd.rivulet.pointer.v1"     // artifact: a pointer
	typeSubject    = "application/vnd.rivulet.subject.v1"     // artifact: stands for an object that is not there
	typeAttachment = "application/vnd.rivulet.attachment.v1." // artifact: an attachment; its kind follows
	mediaIndex     = "application/vnd.rivulet.pack-index.v1"  // layer
	mediaPack      = "application/vnd.rivulet.pack.v1"        // layer
	mediaBytes     = "application/octet-stream"               // layer
	mediaEmpty     = "application/vnd.oci.empty.v1+json"      // layer of an artifact that has none

	noteGeneration = "com.github.rivuletfs.generation" // of every manifest, so that no two generations share one
	noteObject     = "com.github.rivuletfs.object"     // the digest of an object
	noteData       = "com.github.rivuletfs.data"       // base64, a small attachment's bytes: lists of referrers have annotations
)

// Bounds of what is read.
const (
	maxManifestBytes = 8 << 20
	maxListBytes     = 8 << 20 // of a page of tags
	maxListPages     = 1 << 12 // of a list
	tagsAtOnce       = 1000
	maxReferrers     = 1 << 16   // of one manifest
	inlineBytes      = 16 << 10  // blobs up to that size stand in the manifest as well, and are read with it
	inlineIndex      = 256 << 10 // so may indexes, of nearly all disks, that a reader needs at once
	listedBytes      = 1 << 10   // attachments up to that size stand in lists of referrers as well
	maxListed        = 512       // referrers that we list with their attachments
)

// noConfig is the blob that artifacts have where images have their configuration.
var noConfig = []byte("{}")

// newManifest returns the manifest of an artifact.
func newManifest(artifact string, layers ...v1.Descriptor) *v1.Manifest {
	config := descriptor(artifact, noConfig)
	if len(layers) == 0 {
		layers = []v1.Descriptor{descriptor(mediaEmpty, noConfig)}
	}
	return &v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifact,
		Config: config, Layers: layers, Annotations: map[string]string{},
	}
}

// descriptor describes a blob that we have. Small ones it holds.
func descriptor(media string, b []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: types.MediaType(media), Digest: hashOf(origin.Sum(b)), Size: int64(len(b))}
	if len(b) <= inlineBytes || media == mediaIndex && len(b) <= inlineIndex {
		d.Data = b
	}
	return d
}

// encodeManifest returns a manifest's bytes, and its descriptor as a subject.
func encodeManifest(m *v1.Manifest) ([]byte, v1.Descriptor) {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // nothing in it can fail
	}
	return b, v1.Descriptor{MediaType: m.MediaType, Digest: hashOf(origin.Sum(b)), Size: int64(len(b)), ArtifactType: m.ArtifactType}
}

// A stored manifest is one that the registry has.
type storedManifest struct {
	v1.Manifest
	bytes []byte
	desc  v1.Descriptor // media type, digest and size
}

// note returns an annotation, "" if it is not there.
func (m *storedManifest) note(key string) string { return m.Annotations[key] }

// writeManifest puts a manifest at a tag or digest.
func (c *client) writeManifest(ctx context.Context, ref string, media types.MediaType, b []byte) error {
	if len(b) > maxManifestBytes {
		return fmt.Errorf("write manifest %s: %d bytes, at most %d are allowed", ref, len(b), maxManifestBytes)
	}
	return c.do(ctx, &request{
		op: "write manifest " + ref, method: http.MethodPut, url: c.url("manifests/%s", ref), body: bytes.NewReader(b), size: int64(len(b)),
		header: http.Header{"Content-Type": {string(media)}},
		want:   []int{http.StatusCreated, http.StatusOK},
		read: func(resp *http.Response) error {
			if resp.Header.Get("OCI-Subject") != "" {
				c.api.Store(referrersYes)
			}
			return nil
		},
	})
}

// manifestHeader is sent with a question for a manifest. What a tag leads to may
// change, so caches are to ask the registry.
func manifestHeader(ref string) http.Header {
	h := http.Header{"Accept": {strings.Join([]string{
		string(types.OCIManifestSchema1), string(types.OCIImageIndex), string(types.DockerManifestSchema2), string(types.DockerManifestList)}, ",")}}
	if _, err := origin.ParseDigest(ref); err != nil {
		h["Cache-Control"] = noCache
	}
	return h
}

var noCache = []string{"no-cache"}

// sameAnswers is how many answers readRaw takes to have two that are the same: while many change a pointer, one
// after the other differs.
const sameAnswers = 16

// readRaw returns the bytes of the manifest at a tag or digest. A digest proves
// them. What is at a tag the registry says the digest of; if it does not, two
// answers have to be the same. If accept returns an error, for bytes that a tag
// cannot lead to, they are asked for again; it may be nil.
func (c *client) readRaw(ctx context.Context, ref string, accept func(b []byte, media types.MediaType) error) ([]byte, types.MediaType, error) {
	var before origin.Digest
	for range sameAnswers {
		b, media, proved, err := c.askRaw(ctx, ref, accept)
		if err != nil || proved || origin.Sum(b) == before {
			return b, media, err
		}
		before = origin.Sum(b)
	}
	return nil, "", fmt.Errorf("read manifest %s: %w: no two answers are the same", ref, origin.ErrCorrupt)
}

// askRaw is readRaw for one answer, and tells whether a digest proves it.
func (c *client) askRaw(ctx context.Context, ref string, accept func([]byte, types.MediaType) error) (b []byte, media types.MediaType, proved bool, err error) {
	err = c.do(ctx, &request{
		op: "read manifest " + ref, method: http.MethodGet, url: c.url("manifests/%s", ref), header: manifestHeader(ref),
		want: []int{http.StatusOK},
		read: func(resp *http.Response) error {
			media = types.MediaType(resp.Header.Get("Content-Type"))
			if b, err = readUpTo(resp, maxManifestBytes); err != nil {
				return err
			}
			want, err := origin.ParseDigest(ref)
			if err != nil { // a tag: the registry says what it leads to, if it does
				want, err = origin.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
			}
			if proved = err == nil; proved && want.Check(b) != nil || !json.Valid(b) {
				return retry.Again(origin.ErrCorrupt)
			}
			if accept == nil {
				return nil
			}
			if err := accept(b, media); err != nil {
				return retry.Again(err)
			}
			return nil
		},
	})
	return b, media, proved, err
}

// readManifest returns the artifact at a tag or digest, which has to be of one
// of the given types.
func (c *client) readManifest(ctx context.Context, ref string, artifacts ...string) (*storedManifest, error) {
	return c.readMatching(ctx, ref, func(*storedManifest) error { return nil }, artifacts...)
}

// readMatching is readManifest for what only some artifacts can be: one in which
// match finds an error is none.
func (c *client) readMatching(ctx context.Context, ref string, match func(m *storedManifest) error, artifacts ...string) (*storedManifest, error) {
	var m *storedManifest
	accept := func(b []byte, media types.MediaType) (err error) {
		if m, err = parseManifest(b, media, artifacts); err == nil {
			c.noteEmpty(m)
			err = match(m)
		}
		if err != nil {
			return fmt.Errorf("%w %s: %w", ErrArtifact, ref, err)
		}
		return nil
	}
	if _, err := origin.ParseDigest(ref); err == nil { // no answer can be better
		b, media, err := c.readRaw(ctx, ref, nil)
		if err == nil {
			err = accept(b, media)
		}
		return m, err
	}
	_, _, err := c.readRaw(ctx, ref, accept)
	return m, err
}

func parseManifest(b []byte, media types.MediaType, artifacts []string) (*storedManifest, error) {
	m := &storedManifest{bytes: b, desc: v1.Descriptor{MediaType: media, Digest: hashOf(origin.Sum(b)), Size: int64(len(b))}}
	if err := json.Unmarshal(b, &m.Manifest); err != nil {
		return nil, err
	}
	if m.MediaType != "" {
		m.desc.MediaType = m.MediaType
	}
	for _, want := range artifacts {
		if string(m.Config.MediaType) == want && len(m.Layers) > 0 {
			m.desc.ArtifactType = want
			return m, nil
		}
	}
	return nil, fmt.Errorf("its type is %.60q", m.Config.MediaType)
}

// readUpTo reads a body of at most max bytes.
func readUpTo(resp *http.Response, max int64) ([]byte, error) {
	if resp.ContentLength > max {
		return nil, fmt.Errorf("the answer has %d bytes, at most %d are allowed", resp.ContentLength, max)
	}
	var b bytes.Buffer
	n, err := b.ReadFrom(http.MaxBytesReader(nil, resp.Body, max))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("the answer has more than %d bytes", max)
	}
	if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, retry.Again(short(err))
	}
	return b.Bytes(), nil
}

// statManifest returns the digest of what is at a tag or digest, or
// chunk.ErrNotFound.
func (c *client) statManifest(ctx context.Context, ref string) (desc v1.Descriptor, err error) {
	err = c.do(ctx, &request{
		op: "look for manifest " + ref, method: http.MethodHead, url: c.url("manifests/%s", ref),
		header: manifestHeader(ref),
		want:   []int{http.StatusOK},
		read: func(resp *http.Response) error {
			desc = v1.Descriptor{MediaType: types.MediaType(resp.Header.Get("Content-Type")), Size: resp.ContentLength}
			desc.Digest, _ = v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
			return nil
		},
	})
	if err != nil || desc.Digest.Algorithm == "sha256" && desc.Size > 0 {
		return desc, err
	}
	b, media, err := c.readRaw(ctx, ref, nil) // not all registries say
	return v1.Descriptor{MediaType: media, Digest: hashOf(origin.Sum(b)), Size: int64(len(b))}, err
}

// deleteRef deletes a tag or a manifest. One that is not there is no error.
func (c *client) deleteRef(ctx context.Context, ref string) error {
	err := c.do(ctx, &request{
		op: "delete " + ref, method: http.MethodDelete, url: c.url("manifests/%s", ref),
		want: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent},
	})
	if errors.Is(err, chunk.ErrNotFound) {
		return nil
	}
	return err
}

// deleteTagged deletes a tag and the manifest that it leads to, and reports
// whether there was one. No manifest of ours has a second tag. Registries
// differ in whether a tag can be deleted by itself, and in whether it goes with
// its manifest.
func (c *client) deleteTagged(ctx context.Context, tag string) (bool, error) {
	desc, err := c.statManifest(ctx, tag)
	if errors.Is(err, chunk.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	tagErr := c.deleteRef(ctx, tag)
	var answer *Error
	if tagErr != nil && !errors.As(tagErr, &answer) {
		return false, tagErr
	}
	if err := c.deleteRef(ctx, desc.Digest.String()); err != nil {
		return false, err
	}
	if tagErr == nil {
		return true, nil
	}
	if now, err := c.statManifest(ctx, tag); err == nil && now.Digest == desc.Digest {
		return false, tagErr
	}
	return true, nil
}

// tags calls fn for each tag of the repository that begins with prefix. Nothing
// proves the names in an answer, so two have to agree.
func (c *client) tags(ctx context.Context, prefix string, fn func(tag string)) error {
	seen := make(map[string]bool)
	at := c.url("tags/list?n=%d", tagsAtOnce)
	for range maxListPages {
		page, err := agree.List(ctx, func(ctx context.Context) (agree.Answer[string], error) { return c.tagPage(ctx, at) },
			func(tag string) string { return tag })
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // nothing was ever pushed
		}
		if err != nil {
			return err
		}
		fresh := 0
		for _, tag := range page.Items {
			if !seen[tag] {
				seen[tag] = true
				fresh++
				if strings.HasPrefix(tag, prefix) {
					fn(tag)
				}
			}
		}
		if fresh == 0 || page.Next == "" {
			return nil
		}
		at = page.Next
	}
	return fmt.Errorf("list tags: more than %d pages", maxListPages)
}

// tagPage asks for a page of tags. If that is full and the registry does not say
// where the list goes on, it is after the last one.
func (c *client) tagPage(ctx context.Context, at string) (agree.Answer[string], error) {
	page, next, err := readPage[struct {
		Tags []string `json:"tags"`
	}](ctx, c, "list tags", at, "")
	if err == nil && next == "" && len(page.Tags) >= tagsAtOnce {
		next = withQuery(c.url("tags/list?n=%d", tagsAtOnce), "last", page.Tags[len(page.Tags)-1])
	}
	return agree.Answer[string]{Items: page.Tags, Next: next}, err
}

// readPage reads a page of a list, and returns where the next one is. If media is
// not "", a page of another type is errNoReferrers.
func readPage[T any](ctx context.Context, c *client, op, at, media string) (page T, next string, err error) {
	err = c.do(ctx, &request{
		op: op, method: http.MethodGet, url: at, header: http.Header{"Cache-Control": noCache}, want: []int{http.StatusOK},
		read: func(resp *http.Response) error {
			if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); media != "" && kind != media {
				return errNoReferrers
			}
			b, err := readUpTo(resp, maxListBytes)
			if err != nil {
				return err
			}
			next = nextPage(resp)
			page = *new(T) // nothing of an answer before
			if err := json.Unmarshal(b, &page); err != nil {
				return retry.Again(errors.New("the answer is no list"))
			}
			return nil
		},
	})
	return page, next, err
}

// nextPage returns the URL that a Link header gives for the next page (RFC
// 8288), if it is one of the same server.
func nextPage(resp *http.Response) string {
	target, params, ok := strings.Cut(resp.Header.Get("Link"), ">")
	if !ok || !strings.Contains(params, "next") {
		return ""
	}
	u, err := resp.Request.URL.Parse(strings.TrimPrefix(strings.TrimSpace(target), "<"))
	if err != nil || u.Host != resp.Request.URL.Host || u.Scheme != resp.Request.URL.Scheme {
		return ""
	}
	return u.String()
}
