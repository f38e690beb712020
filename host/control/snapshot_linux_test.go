package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
)

// shown is a frontend that remembers what it offers.
type shown map[string]blockdev.Device

func (s shown) Offer(_ context.Context, o host.Offer) (host.Offered, error) {
	s[o.Where] = o.Device
	return offered{}, nil
}
func (shown) Begin() error                                       { return nil }
func (shown) Release(context.Context) ([]keep.Descriptor, error) { return nil, nil }

type offered struct{}

func (offered) Address() string                    { return "here" }
func (offered) Done() <-chan struct{}              { return nil }
func (offered) Err() error                         { return nil }
func (offered) Detach(context.Context, bool) error { return nil }

// TestSnapshot freezes a disk over the socket, reads it while it is written to, and
// hangs up.
func TestSnapshot(t *testing.T) {
	store := memory.New()
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = publish.Image(t.Context(), store, []string{"dir:" + tree}, publish.Options{Salt: salt, Signer: signer, Open: true, Name: "tree", TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	front := shown{}
	h, err := host.New(host.Config{
		Open: func(context.Context, string) (host.Source, error) {
			return host.Source{View: generation.NewView(store, generation.Options{}), Near: true}, nil
		},
		Unwrappers: func(context.Context, []string) ([]seal.Unwrapper, error) { return nil, nil },
		Frontends:  map[string]host.Frontend{"shown": front},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	spec := host.Spec{Image: "tree", Store: "memory", Frontend: "shown", Where: "here", Overlay: &host.Overlay{}}
	infos, err := h.Attach(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	w := front["here"].(blockdev.Writer)
	put := func(text string) {
		t.Helper()
		if _, err := w.WriteAt([]byte(text), 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	put("before")
	if err := w.Discard(1<<30+8192, 4096); err != nil {
		t.Fatal(err)
	}
	server := &Server{Host: h}
	socket, _ := serve(t, server)
	s, err := client(t, socket).Snapshot(t.Context(), infos[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	put("after!")
	if want := []Range{{1 << 30, 4096, false}, {1<<30 + 8192, 4096, true}}; s.Size != 2<<30 || s.Info.Digest != infos[0].Digest || !slices.Equal(s.Changed, want) {
		t.Errorf("%d bytes of %s, changed %v", s.Size, s.Info.Digest, s.Changed)
	}
	b := make([]byte, 6)
	if n, err := s.ReadAt(b, 1<<30); n != 6 || err != nil || string(b) != "before" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if n, err := s.ReadAt(b, s.Size-3); n != 3 || err != io.EOF {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if n, err := s.ReadAt(b, s.Size); n != 0 || err != io.EOF {
		t.Errorf("read past the end: %d, %v", n, err)
	}
	s.Close()
	if n, err := s.ReadAt(b, 0); n != 0 || err == nil {
		t.Errorf("read after the end: %d, %v", n, err)
	}
	for left := 1; left > 0; time.Sleep(time.Millisecond) {
		left = 0
		server.snapshots.Range(func(any, any) bool { left++; return true })
	}
	if _, err := client(t, socket).Snapshot(t.Context(), "nosuch"); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("snapshot of nothing: %v", err)
	}
}

func TestRange(t *testing.T) {
	for _, bad := range []string{`{}`, `[1,2]`, `[1,2,true,4]`, `["1",2,true]`, `[1.5,2,true]`} {
		if err := json.Unmarshal([]byte(bad), new(Range)); err == nil {
			t.Errorf("%s is a range", bad)
		}
	}
	want := Range{1 << 50, 1, true}
	b, err := json.Marshal(want)
	var got Range
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	if err != nil || got != want {
		t.Errorf("%s: %+v, %v", b, got, err)
	}
}
