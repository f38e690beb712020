package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/store/dir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// A published is a directory store with something in its first generation.
type published struct {
	path    string
	origin  *dir.Origin
	store   origin.Store
	chunks  []chunktest.Object
	object  origin.Digest
	content []byte // of the object
}

func publish(t *testing.T) *published {
	t.Helper()
	p := &published{path: t.TempDir(), content: bytes.Repeat([]byte("a block map "), 30_000)}
	var err error
	if p.origin, err = dir.Open(p.path, true); err != nil {
		t.Fatal(err)
	}
	p.store = p.origin.Generation(1)
	p.chunks = chunktest.Fill(t, p.store)
	if p.object, err = p.store.PutObject(ctx, p.content); err != nil {
		t.Fatal(err)
	}
	for _, note := range []string{"one", "two"} {
		if err := p.store.Attach(ctx, p.object, "note", []byte(note)); err != nil {
			t.Fatal(err)
		}
	}
	for _, where := range []origin.Pointers{p.origin, p.store} {
		if err := where.SwapPointer(ctx, "names/Some%41/Image:1", nil, []byte("value")); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// open opens what handler serves, below a path.
func open(t *testing.T, handler http.Handler) *Origin {
	t.Helper()
	server := httptest.NewServer(http.StripPrefix("/some/path", handler))
	t.Cleanup(server.Close)
	return openURL(t, server.URL+"/some/path")
}

func openURL(t *testing.T, url string) *Origin {
	t.Helper()
	c, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o, err := Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// check reads everything that was published.
func (p *published) check(t *testing.T, o *Origin) {
	t.Helper()
	s := o.Generation(1)
	if b, err := s.GetObject(ctx, p.object, origin.MaxObjectBytes); err != nil || !bytes.Equal(b, p.content) {
		t.Errorf("object: %d bytes, %v", len(b), err)
	}
	if _, err := s.GetObject(ctx, p.object, int64(len(p.content)-1)); err == nil || !strings.Contains(err.Error(), p.object.String()) {
		t.Errorf("an object over the limit: %v", err)
	}
	for _, pointers := range []origin.Pointers{o, s} {
		if v, err := pointers.GetPointer(ctx, "names/Some%41/Image:1"); err != nil || string(v) != "value" {
			t.Errorf("pointer: %q, %v", v, err)
		}
	}
	var notes []string
	if err := s.ListAttachments(ctx, p.object, "note", func(b []byte) error { notes = append(notes, string(b)); return nil }); err != nil || len(notes) != 2 {
		t.Errorf("attachments: %q, %v", notes, err)
	}
	for what, err := range map[string]error{
		"object":                      func() error { _, err := s.GetObject(ctx, origin.Digest{}, 10); return err }(),
		"pointer":                     func() error { _, err := s.GetPointer(ctx, "none"); return err }(),
		"chunk":                       func() error { _, err := s.Stat(ctx, chunktest.Absent); return err }(),
		"chunk of another generation": func() error { _, err := o.Generation(2).Stat(ctx, p.chunks[0].ID); return err }(),
	} {
		if !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("absent %s: %v; want ErrNotFound", what, err)
		}
	}
	if err := s.ListAttachments(ctx, origin.Digest{}, "note", func([]byte) error { return errors.New("one") }); err != nil {
		t.Errorf("attachments of nothing: %v", err)
	}
}

func TestFileServer(t *testing.T) {
	p := publish(t)
	o := open(t, http.FileServer(http.Dir(p.path)))
	p.check(t, o)
	chunktest.TestSource(t, o.Generation(1), p.chunks)
	chunktest.TestReader(t, chunk.NewDoor(o.Generation(1)), p.chunks)
	origintest.TestRequests(t, o.Generation(1), p.chunks)
	for _, c := range p.chunks {
		if n, err := o.Generation(1).Stat(ctx, c.ID); err != nil || n != int64(len(c.Bytes)) {
			t.Errorf("Stat = %d, %v; want %d", n, err, len(c.Bytes))
		}
	}
}

func TestRefuses(t *testing.T) {
	p := publish(t)
	o := open(t, http.FileServer(http.Dir(p.path)))
	s, c := o.Generation(1), p.chunks[0]
	_, putErr := s.Put(ctx, c.ID, c.Bytes)
	_, objectErr := s.PutObject(ctx, nil)
	_, copyErr := o.CopyChunk(ctx, c.ID, 1, 2)
	for what, err := range map[string]error{
		"Put": putErr, "PutObject": objectErr, "CopyChunk": copyErr,
		"Remove": s.Remove(ctx, c.ID), "RemoveObject": s.RemoveObject(ctx, p.object),
		"Attach": s.Attach(ctx, p.object, "note", nil), "SwapPointer": o.SwapPointer(ctx, "p", nil, nil),
		"DeleteGeneration": o.DeleteGeneration(ctx, 1, nil),
	} {
		if !errors.Is(err, origin.ErrReadOnly) {
			t.Errorf("%s: %v; want ErrReadOnly", what, err)
		}
	}
	for what, err := range map[string]error{
		"List": s.List(ctx, nil), "ListObjects": s.ListObjects(ctx, nil), "ListPointers": o.ListPointers(ctx, "", nil),
		"ListGenerations": o.ListGenerations(ctx, nil),
	} {
		if !errors.Is(err, origin.ErrNoListing) {
			t.Errorf("%s: %v; want ErrNoListing", what, err)
		}
	}
	if err := s.Flush(ctx); err != nil {
		t.Errorf("Flush: %v", err)
	}
	for _, bad := range []string{"", "a//b", "../x"} {
		if _, err := o.GetPointer(ctx, bad); err == nil || errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("pointer %q: %v", bad, err)
		}
	}
	if err := s.ListAttachments(ctx, p.object, "../x", nil); err == nil {
		t.Error("a bad kind is taken")
	}
}

func TestTombstone(t *testing.T) {
	p := publish(t)
	for name, content := range map[string][]byte{"removed": place.Tombstone(), "long": make([]byte, origin.MaxPointerBytes+1), "empty": {}} {
		cell := place.AppendCell(nil, place.Pointer(name), content)
		if err := os.WriteFile(filepath.Join(p.path, place.Pointer(name)), cell, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	o := open(t, http.FileServer(http.Dir(p.path)))
	if _, err := o.GetPointer(ctx, "removed"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a removed pointer: %v; want ErrNotFound", err)
	}
	if _, err := o.GetPointer(ctx, "long"); err == nil || errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a pointer over the limit: %v", err)
	}
	if v, err := o.GetPointer(ctx, "empty"); err != nil || v == nil || len(v) != 0 {
		t.Errorf("an empty pointer: %q, %v", v, err)
	}
}

func TestCorrupt(t *testing.T) {
	p := publish(t)
	at := filepath.Join(p.path, place.Generation(1), place.Hashed(place.Objects, p.object))
	bad := bytes.Clone(p.content)
	bad[100] ^= 1
	if err := os.WriteFile(at, bad, 0o666); err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(p.path, place.Generation(1), place.Attached(p.object, "bad"), place.Index)
	if err := os.MkdirAll(filepath.Dir(index), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(index, []byte("no index\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	s := open(t, http.FileServer(http.Dir(p.path))).Generation(1)
	if _, err := s.GetObject(ctx, p.object, origin.MaxObjectBytes); err == nil || !strings.Contains(err.Error(), p.object.String()+": corrupt") {
		t.Errorf("a damaged object: %v", err)
	}
	if err := s.ListAttachments(ctx, p.object, "bad", nil); err == nil {
		t.Error("a damaged index is read")
	}
}

func TestOpenRefuses(t *testing.T) {
	const secret = "signature-1234"
	status := func(code int, header ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		})
	}
	for name, c := range map[string]struct {
		handler http.Handler
		want    string
	}{
		"nothing there": {status(404), origin.ErrNoStore.Error()},
		"gone":          {status(410), origin.ErrNoStore.Error()},
		"another thing": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }), origin.ErrVersion.Error()},
		"forbidden":     {status(403), "allow reading to all"},
		"in trouble":    {status(503), "try again later"},
		"strange":       {status(418), "status 418"},
		"in circles": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"?token="+secret, http.StatusFound)
		}), "redirects"},
		"encoded": {status(200, "Content-Encoding", "gzip"), "encoded"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.handler)
			defer server.Close()
			u, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Open(ctx, Config{Base: u})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// TestRedirect follows to another place, and never out of TLS.
func TestRedirect(t *testing.T) {
	p := publish(t)
	files := httptest.NewServer(http.FileServer(http.Dir(p.path)))
	defer files.Close()
	away := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, files.URL+r.URL.EscapedPath()+"?token=secret", http.StatusTemporaryRedirect)
	})
	p.check(t, open(t, away))
	secure := httptest.NewUnstartedServer(away)
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	defer secure.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ParseURL(secure.URL + "?ca=" + file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, c); err == nil || !strings.Contains(err.Error(), "from https to http") || strings.Contains(err.Error(), "token") {
		t.Errorf("out of TLS: %v", err)
	}
	secure.Config.Handler = http.FileServer(http.Dir(p.path))
	o, err := Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	p.check(t, o)
}

func TestCancelled(t *testing.T) {
	p := publish(t)
	hang := make(chan struct{})
	files := http.FileServer(http.Dir(p.path))
	o := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" {
			<-hang
		}
		files.ServeHTTP(w, r)
	}))
	defer close(hang)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := o.Generation(1).Fetch(short, p.chunks[0].ID, make([]byte, 10), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Fetch = %v; want DeadlineExceeded", err)
	}
}

func TestParseURL(t *testing.T) {
	for _, good := range []string{"https://host", "https://host:1/a/b/", "http://127.0.0.1:1/x", "http://h/?insecure=true", "https://h/a%20b?ca=f&connections=3"} {
		if _, err := ParseURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "ftp://h", "https://", "https:h", "http://example.com/", "https://u:p@h", "https://h/#f", "https://h/a/../b", "https://h//a", "https://h?x=y", "https://h?ca=a&ca=b", "https://h/%zz"} {
		if _, err := ParseURL(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
