package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// TestDeletedGenerationIsUnlisted looks at the list of an image's referrers, in
// a registry that does not keep it itself, and which has somebody else's too.
func TestDeletedGenerationIsUnlisted(t *testing.T) {
	ctx := context.Background()
	_, host := faulty(t, false)
	o := hasty(t, host, Options{})
	_, image := pushImage(t, o, "3.12", "amd64")
	stranger := newManifest("application/vnd.example.sbom")
	stranger.Subject = &v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: hashOf(image), Size: 1}
	if err := o.client.ensureEmpty(ctx); err != nil {
		t.Fatal(err)
	}
	theirs, err := o.client.writeReferrer(ctx, "sbom", stranger)
	if err != nil {
		t.Fatal(err)
	}
	list := small(1, 5)
	d := publishDisk(t, o.Generation(1), image, list)
	attach(t, o.Generation(1), d, "age", "a wrap")
	attach(t, o.Generation(1), origin.Sum([]byte("absent")), "age", "another")
	if all, _, err := o.client.readReferrersTag(ctx, hashOf(image)); err != nil || len(all) != 2 {
		t.Fatalf("the image has referrers %v, %v; want 2", all, err)
	}
	if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	all, _, err := o.client.readReferrersTag(ctx, hashOf(image))
	if err != nil || len(all) != 1 || all[0].Digest != theirs.Digest {
		t.Errorf("the image has referrers %v, %v; want the other's alone", all, err)
	}
	left := tagsOf(t, o)
	slices.Sort(left)
	if want := []string{"3.12", "sbom", referrersTag(hashOf(image))}; !slices.Equal(left, want) {
		t.Errorf("tags left: %q, want %q", left, want)
	}
}

// TestEndlessReferrers has a list that never ends, of pages without an item.
func TestEndlessReferrers(t *testing.T) {
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				h.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", string(types.OCIImageIndex))
			w.Header().Set("Link", "<"+r.URL.Path+`>; rel="next"`)
			_, _ = w.Write([]byte(`{"schemaVersion":2,"manifests":[]}`))
		})
	})
	o := hasty(t, host, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := o.client.referrers(ctx, hashOf(origin.Sum(nil)), "x")
	if err == nil || !strings.Contains(err.Error(), "pages") {
		t.Errorf("got %v, want that there are too many pages", err)
	}
}

// TestManyAttachments lists more than there may be.
func TestManyAttachments(t *testing.T) {
	ctx := context.Background()
	_, host := faulty(t, false)
	o := hasty(t, host, Options{})
	s := o.Generation(1)
	d, err := s.PutObject(ctx, []byte("an object"))
	if err != nil {
		t.Fatal(err)
	}
	attach(t, s, d, "age", "a wrap")
	desc := o.generation(1).objects[d]
	err = o.client.changeReferrersTag(ctx, desc.Digest, func(list []v1.Descriptor) []v1.Descriptor {
		for len(list) <= origin.MaxAttachments {
			list = append(list, v1.Descriptor{MediaType: types.DockerLayer, Digest: hashOf(origin.Sum([]byte{byte(len(list)), byte(len(list) >> 8)})), ArtifactType: list[0].ArtifactType})
		}
		return list
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	err = s.ListAttachments(ctx, d, "age", func([]byte) error { calls++; return nil })
	if err == nil || calls != 0 || !strings.Contains(err.Error(), "more than") {
		t.Errorf("ListAttachments = %v after %d calls; want an error before any", err, calls)
	}
}

// TestAttachingAtOnce attaches from many goroutines, through several openings of
// the repository, without the referrers API.
func TestAttachingAtOnce(t *testing.T) {
	ctx := context.Background()
	_, host := faulty(t, false)
	first := hasty(t, host, Options{})
	d, err := first.Generation(1).PutObject(ctx, []byte("an object"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	var wg sync.WaitGroup
	for i := range 20 {
		data := strings.Repeat("x", i+1)
		want = append(want, data)
		o := reopen(t, first)
		wg.Go(func() {
			if err := o.Generation(1).Attach(ctx, d, "note", []byte(data)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var got []string
	err = reopen(t, first).Generation(1).ListAttachments(ctx, d, "note", func(b []byte) error { got = append(got, string(b)); return nil })
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("attachments %q, %v", got, err)
	}
}

// TestQuietRegistry leaves out what registries need not say: the digest of what
// they send, and where the next page is.
func TestQuietRegistry(t *testing.T) {
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			for key, values := range rec.Header() {
				w.Header()[key] = values
			}
			w.Header().Del("Docker-Content-Digest")
			w.Header().Del("Link")
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		})
	})
	o := hasty(t, host, Options{})
	origintest.TestPointerRace(t, o)
	list := small(1, 5)
	d := publishDisk(t, o.Generation(1), origin.Digest{}, list)
	attach(t, o.Generation(1), d, "age", "a wrap")
	checkDoor(t, reopen(t, o), list, false)
	if err := o.DeleteGeneration(context.Background(), 1, func(int) {}); err != nil {
		t.Error(err)
	}
	if left := tagsOf(t, o); len(left) != 1 {
		t.Errorf("tags left: %q, want the counter's", left)
	}
}

func TestNextPage(t *testing.T) {
	from, err := url.Parse("https://registry.example/v2/a/tags/list?n=10")
	if err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]string{
		`</v2/a/tags/list?n=10&last=x>; rel="next"`:                    "https://registry.example/v2/a/tags/list?n=10&last=x",
		`<https://registry.example/v2/a/tags/list?last=x>; rel="next"`: "https://registry.example/v2/a/tags/list?last=x",
		`<?last=x>; rel=next`:                                          "https://registry.example/v2/a/tags/list?last=x",
		`<https://other.example/v2/a/tags/list?last=x>; rel="next"`:    "", // our login would go there
		`<http://registry.example/v2/a/tags/list?last=x>; rel="next"`:  "",
		`</v2/a/tags/list?last=x>; rel="prev"`:                         "",
		`/v2/a/tags/list`:                                              "",
		`<:bad>; rel="next"`:                                           "",
		"":                                                             "",
	} {
		resp := &http.Response{Request: &http.Request{URL: from}, Header: http.Header{"Link": {link}}}
		if got := nextPage(resp); got != want {
			t.Errorf("Link %s: next page %q, want %q", link, got, want)
		}
	}
}

// TestPagesOfReferrers follows a list that comes in parts, of a registry that
// does not filter.
func TestPagesOfReferrers(t *testing.T) {
	all := make([]v1.Descriptor, 7)
	for i := range all {
		all[i] = v1.Descriptor{Digest: hashOf(origin.Sum([]byte{byte(i)})), Size: 1, ArtifactType: []string{"a", "b"}[i%2]}
	}
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				h.ServeHTTP(w, r)
				return
			}
			from := len(r.URL.Query().Get("page")) // so many are done
			to := min(from+3, len(all))
			if to < len(all) {
				w.Header().Set("Link", "<?page="+strings.Repeat("x", to)+`>; rel="next"`)
			}
			w.Header().Set("Content-Type", string(types.OCIImageIndex)+"; charset=utf-8")
			_ = json.NewEncoder(w).Encode(v1.IndexManifest{SchemaVersion: 2, Manifests: all[from:to]})
		})
	})
	o := hasty(t, host, Options{})
	got, err := o.client.referrers(context.Background(), hashOf(origin.Digest{}), "a")
	if err != nil || len(got) != 4 {
		t.Errorf("%d referrers of type a, %v; want 4", len(got), err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		e    Error
		want error
		text string
	}{
		{Error{Status: 401, Method: "GET"}, ErrUnauthorized, "docker login registry.example"},
		{Error{Status: 403, Method: "PUT"}, ErrDenied, "may not do that in repository a/b"},
		{Error{Status: 404, Method: "GET", Code: "MANIFEST_UNKNOWN"}, chunk.ErrNotFound, "not found"},
		{Error{Status: 404, Method: "POST", Code: "NAME_UNKNOWN"}, nil, "no repository a/b"},
		{Error{Status: 405, Method: "DELETE"}, ErrNoDelete, "storage.delete.enabled"},
		{Error{Status: 400, Method: "DELETE", Code: "UNSUPPORTED"}, ErrNoDelete, "storage.delete.enabled"},
		{Error{Status: 405, Method: "PUT"}, nil, "405 Method Not Allowed"},
		{Error{Status: 413, Method: "PUT"}, nil, "smaller packs"},
		{Error{Status: 429, Method: "GET"}, ErrTooMany, "try again later"},
		{Error{Status: 500, Method: "GET", Code: "UNKNOWN"}, nil, "500 Internal Server Error (UNKNOWN)"},
	} {
		c.e.Registry, c.e.Repository = "registry.example", "a/b"
		if text := c.e.Error(); !strings.Contains(text, c.text) || strings.Contains(text, "\n") {
			t.Errorf("%+v says %q, want %q", c.e, text, c.text)
		}
		for _, sentinel := range []error{ErrUnauthorized, ErrDenied, chunk.ErrNotFound, ErrNoDelete, ErrTooMany} {
			if errors.Is(&c.e, sentinel) != (c.want == sentinel) {
				t.Errorf("%+v is %v: %v", c.e, sentinel, c.want != sentinel)
			}
		}
	}
	for _, s := range []string{"lower", "WITH SPACE", "A\n", strings.Repeat("A", maxCodeBytes+1), "Bearer x"} {
		if got := code(s); got != "" {
			t.Errorf("code %q is shown as %q", s, got)
		}
	}
}

// TestListedAttachments reads small attachments out of lists of referrers, but for one
// of which a list says something else than its manifest does.
func TestListedAttachments(t *testing.T) {
	for _, c := range []struct {
		name      string
		api, lies bool
		read      int // manifests of attachments
	}{
		{"referrers", true, false, 1},
		{"a list that lies", true, true, 2},
		{"no referrers", false, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := new(registrytest.Faults)
			host := registrytest.Memory(t, c.api, func(h http.Handler) http.Handler {
				f.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !c.lies || !strings.Contains(r.URL.Path, "/referrers/") {
						h.ServeHTTP(w, r)
						return
					}
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
					w.WriteHeader(rec.Code)
					_, _ = w.Write([]byte(strings.ReplaceAll(rec.Body.String(), "c21hbGw=", "c21hbGs=")))
				})
				return f
			})
			o := hasty(t, host, Options{})
			d := publishDisk(t, o.Generation(1), origin.Digest{}, small(1, 3))
			attach(t, o.Generation(1), d, "note", "small")
			attach(t, o.Generation(1), d, "note", strings.Repeat("large", 1000))
			again := reopen(t, o).Generation(1)
			f.Reset()
			var got []string
			err := again.ListAttachments(context.Background(), d, "note", func(b []byte) error {
				got = append(got, string(b[:5]))
				return nil
			})
			slices.Sort(got)
			if err != nil || !slices.Equal(got, []string{"large", "small"}) {
				t.Errorf("%q, %v", got, err)
			}
			if n := f.Count(http.MethodGet, "/manifests/sha256:"); n != c.read {
				t.Errorf("%d manifests were read, want %d: %v", n, c.read, f)
			}
		})
	}
}
