package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/internal/agree"
)

// Whether a registry has the referrers API, as far as we know.
const (
	referrersUnknown int32 = iota
	referrersYes
	referrersNo
)

// maxChanges is how often a list of referrers is written until it stays.
const maxChanges = 6

var errNoReferrers = errors.New("the registry has no referrers API")

// referrersTag is the tag that stands for the referrers of a manifest in
// registries without that API (OCI distribution specification 1.1, referrers
// tag schema).
func referrersTag(subject v1.Hash) string { return subject.Algorithm + "-" + subject.Hex }

// referrers returns the manifests that refer to subject and are of that artifact
// type, or of any if that is "". As long as it is not known whether there is the API, the tag is read at the same
// time.
func (c *client) referrers(ctx context.Context, subject v1.Hash, artifact string) ([]referrer, error) {
	var tagged []v1.Descriptor
	var isTagged bool
	var tagErr error
	askTag := func(ctx context.Context) { tagged, isTagged, tagErr = c.readReferrersTag(ctx, subject) }
	var asking sync.WaitGroup
	tagCtx, cancel := context.WithCancel(ctx)
	defer asking.Wait()
	defer cancel()
	api := c.api.Load()
	if api != referrersYes {
		asking.Go(func() { askTag(tagCtx) })
	}
	var all []referrer
	var err error
	if api != referrersNo {
		all, err = c.askReferrers(ctx, subject, artifact)
		if err == nil {
			c.api.Store(referrersYes)
		}
	}
	if api == referrersNo || unsupported(err) {
		if asking.Wait(); api == referrersYes {
			askTag(ctx)
		}
		if err = tagErr; isTagged {
			c.api.Store(referrersNo)
		}
		all = referrersOf(tagged)
	}
	return slices.DeleteFunc(all, func(r referrer) bool { return artifact != "" && r.artifact != artifact }), err
}

// A referrer is what a list says of a manifest.
type referrer struct {
	digest   v1.Hash
	artifact string // its type
	data     string // annotation noteData; "": none
}

func referrersOf(list []v1.Descriptor) []referrer {
	out := make([]referrer, len(list))
	for i, d := range list {
		out[i] = referrer{d.Digest, d.ArtifactType, d.Annotations[noteData]}
	}
	return out
}

// askReferrers asks the API. Nothing proves what is in an answer, so two have to
// agree.
func (c *client) askReferrers(ctx context.Context, subject v1.Hash, artifact string) ([]referrer, error) {
	op := "list referrers of " + subject.String()
	at := c.url("referrers/%v", subject)
	if artifact != "" {
		at = withQuery(at, "artifactType", artifact)
	}
	var all []referrer
	for pages := 0; at != ""; pages++ {
		if pages == maxListPages {
			return nil, fmt.Errorf("%s: more than %d pages", op, maxListPages)
		}
		page, err := agree.List(ctx, func(ctx context.Context) (agree.Answer[referrer], error) {
			page, next, err := readPage[v1.IndexManifest](ctx, c, op, at, string(types.OCIImageIndex))
			return agree.Answer[referrer]{Items: referrersOf(page.Manifests), Next: next}, err
		}, func(r referrer) string { return r.digest.Hex })
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if len(all) > maxReferrers {
			return nil, fmt.Errorf("%s: more than %d", op, maxReferrers)
		}
		at = page.Next
	}
	return all, nil
}

// unsupported reports whether err is how registries without the API answer.
// One that has it says so of an unknown repository only.
func unsupported(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		switch e.Status {
		case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
			return true
		}
	}
	return errors.Is(err, errNoReferrers)
}

// readReferrersTag returns what the tag lists, and whether it is there.
func (c *client) readReferrersTag(ctx context.Context, subject v1.Hash) ([]v1.Descriptor, bool, error) {
	tag := referrersTag(subject)
	b, _, err := c.readRaw(ctx, tag, nil)
	if errors.Is(err, chunk.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	var list v1.IndexManifest
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, true, fmt.Errorf("%w %s: %w", ErrArtifact, tag, err)
	}
	return list.Manifests, true, nil
}

// writeReferrer writes a manifest that may have a subject, and sees to it that
// it can be found by that.
func (c *client) writeReferrer(ctx context.Context, tag string, m *v1.Manifest) (v1.Descriptor, error) {
	b, desc := encodeManifest(m)
	if err := c.writeManifest(ctx, tag, m.MediaType, b); err != nil {
		return desc, err
	}
	return desc, c.list(ctx, m, desc)
}

// list puts a manifest, which is there, on the list of its subject's referrers,
// where the registry does not keep that itself.
func (c *client) list(ctx context.Context, m *v1.Manifest, desc v1.Descriptor) error {
	if m.Subject == nil {
		return nil
	}
	if c.api.Load() == referrersUnknown {
		_, err := c.askReferrers(ctx, m.Subject.Digest, m.ArtifactType)
		switch { // the repository is there, so the answer says what the registry can
		case err == nil:
			c.api.Store(referrersYes)
		case unsupported(err):
			c.api.Store(referrersNo)
			c.opts.Log.Debug("the registry has no referrers API: using the tag schema", "registry", c.repo.RegistryStr())
		default:
			return err
		}
	}
	if c.api.Load() == referrersYes {
		return nil
	}
	desc.Annotations = m.Annotations
	return c.changeReferrersTag(ctx, m.Subject.Digest, func(list []v1.Descriptor) []v1.Descriptor {
		if slices.ContainsFunc(list, func(d v1.Descriptor) bool { return d.Digest == desc.Digest }) {
			return list
		}
		if len(list) >= maxListed {
			desc.Annotations = maps.Clone(desc.Annotations)
			delete(desc.Annotations, noteData)
		}
		return append(list, desc)
	})
}

// changeReferrersTag changes what the tag of a subject lists, and reads back
// until the change is there. Tags have no compare-and-swap: of two processes that
// change one list at the very same time, one may still lose its change. Writing
// the referrer again puts it back. What several goroutines want changed at once
// is changed together.
func (c *client) changeReferrersTag(ctx context.Context, subject v1.Hash, change func([]v1.Descriptor) []v1.Descriptor) error {
	tag := referrersTag(subject)
	mine := c.changes.add(tag, change)
	unlock, err := c.locks.lock(ctx, c.repo.Name()+":"+tag)
	if err != nil {
		c.changes.drop(tag, mine)
		return err
	}
	defer unlock()
	if mine.made {
		return mine.err
	}
	all := c.changes.take(tag)
	err = c.changeList(ctx, tag, subject, all)
	if ctx.Err() != nil { // it is our affair alone
		c.changes.giveBack(tag, all, mine)
		return err
	}
	for _, m := range all {
		m.made, m.err = true, err
	}
	return err
}

// changeList makes some changes to one list.
func (c *client) changeList(ctx context.Context, tag string, subject v1.Hash, all []*listChange) error {
	for range maxChanges {
		list, _, err := c.readReferrersTag(ctx, subject)
		if err != nil {
			return err
		}
		changed := false
		for _, m := range all {
			n := len(list)
			list = m.change(list)
			changed = changed || len(list) != n
		}
		if !changed {
			return nil
		}
		b, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: list})
		if err != nil {
			return err
		}
		if err := c.writeManifest(ctx, tag, types.OCIImageIndex, b); err != nil {
			return err
		}
	}
	return fmt.Errorf("write %s: others change it all the time", tag)
}

// A listChange is what a goroutine wants changed of a list. Whoever has the list's lock makes it.
type listChange struct {
	change func([]v1.Descriptor) []v1.Descriptor
	made   bool // and err is what came of it
	err    error
}

// listChanges are those that nobody has begun to make, by tag. The zero value is ready.
type listChanges struct {
	mu   sync.Mutex
	want map[string][]*listChange
}

func (l *listChanges) add(tag string, change func([]v1.Descriptor) []v1.Descriptor) *listChange {
	m := &listChange{change: change}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.want == nil {
		l.want = make(map[string][]*listChange)
	}
	l.want[tag] = append(l.want[tag], m)
	return m
}

// take returns those of a list. The caller has its lock.
func (l *listChanges) take(tag string) []*listChange {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.want[tag]
	delete(l.want, tag)
	return all
}

// drop takes back one that is not wanted any more. Whoever has the list's lock must not find the
// others gone meanwhile.
func (l *listChanges) drop(tag string, m *listChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want[tag] = slices.DeleteFunc(l.want[tag], func(o *listChange) bool { return o == m })
	if len(l.want[tag]) == 0 {
		delete(l.want, tag)
	}
}

// giveBack leaves all but one to others.
func (l *listChanges) giveBack(tag string, all []*listChange, but *listChange) {
	all = slices.DeleteFunc(all, func(m *listChange) bool { return m == but })
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(all) > 0 {
		l.want[tag] = append(all, l.want[tag]...)
	}
}

// unlist takes a manifest, which is about to be deleted or is, off the list of
// its subject's referrers, where the registry does not keep that itself.
func (c *client) unlist(ctx context.Context, m *storedManifest) error {
	if m.Subject == nil || c.api.Load() == referrersYes {
		return nil
	}
	return c.changeReferrersTag(ctx, m.Subject.Digest, func(list []v1.Descriptor) []v1.Descriptor {
		return slices.DeleteFunc(list, func(d v1.Descriptor) bool { return d.Digest == m.desc.Digest })
	})
}

// subjectManifest returns what attachments refer to while their object is not there
// and so has no manifest. It is a function of the object's digest and the generation.
func subjectManifest(generation origin.GenerationID, d origin.Digest) *v1.Manifest {
	m := newManifest(typeSubject)
	m.Annotations[noteGeneration], m.Annotations[noteObject] = generation.String(), d.String()
	return m
}
