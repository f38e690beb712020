package publish

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ociLayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// A member is one entry of an archive.
type member struct {
	tar.Header
	body string
}

func fileMember(name, body string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(body)), Mode: 0o644}, body}
}

func linkMember(kind byte, name, target string) member {
	return member{Header: tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o644}}
}

func archiveOf(t testing.TB, members []member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range members {
		if err := w.WriteHeader(&members[i].Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(members[i].body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A tarLayer is an uncompressed layer that claims to have some diff ID.
type tarLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l tarLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// writeLayers writes an image of these layers and returns its name as a source.
func writeLayers(t testing.TB, layers ...v1.Layer) string {
	t.Helper()
	return writeImage(t, v1.Config{}, layers...)
}

// writeImage is writeLayers for an image that has a configuration.
func writeImage(t testing.TB, config v1.Config, layers ...v1.Layer) string {
	t.Helper()
	dir := t.TempDir()
	index, err := ociLayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err == nil {
		img, err = mutate.Config(img, config)
	}
	if err == nil {
		err = index.AppendImage(mutate.ConfigMediaType(img, types.OCIConfigJSON))
	}
	if err != nil {
		t.Fatal(err)
	}
	return "oci:" + dir
}

func layerOf(t testing.TB, members []member) v1.Layer {
	t.Helper()
	l := static.NewLayer(archiveOf(t, members), types.OCIUncompressedLayer)
	id, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return tarLayer{l, id}
}

// openPublisher returns a publisher that has opened src.
func openPublisher(t testing.TB, store chunk.Sink, src string) *publisher {
	t.Helper()
	o := options(t, "")
	o.Workers = 1
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	p := &publisher{opts: o, progress: newProgress(nil, 1)}
	p.opts.Source.Progress = p.read
	img, err := source.Open(context.Background(), []string{src}, p.opts.Source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	if p.pool, err = newPool(&p.opts, store, &p.counters); err != nil {
		t.Fatal(err)
	}
	p.setImage(img)
	return p
}

// sortedMembers returns n files in walk order, with all else that may stand
// between them.
func sortedMembers(seed uint64, n int) []member {
	rng := rand.New(rand.NewPCG(seed, 1))
	var out []member
	for i := range n {
		dir := fmt.Sprintf("d%04d", i/10)
		if i%10 == 0 {
			out = append(out, member{Header: tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}})
		}
		size := rng.IntN(20 << 10)
		switch rng.IntN(12) {
		case 0:
			size = 200<<10 + rng.IntN(2<<20)
		case 1:
			size = 0
		case 2:
			size = (1 + rng.IntN(3)) << 18 // ends with a block, or a chunk
		}
		body := make([]byte, size)
		if rng.IntN(5) > 0 { // the others are all zeros
			for k := 0; k+8 <= len(body); k += 8 {
				binary.LittleEndian.PutUint64(body[k:], rng.Uint64()&(0x0101010101010101<<(seed%8)))
			}
		}
		name := fmt.Sprintf("%s/f%d", dir, i%10)
		out = append(out, fileMember(name, string(body)))
		switch rng.IntN(8) {
		case 0:
			out = append(out, linkMember(tar.TypeLink, "a"+name[1:5]+fmt.Sprint(i), name))
		case 1:
			out = append(out, linkMember(tar.TypeSymlink, name+"s", "target"))
		case 2:
			out = append(out, member{Header: tar.Header{Typeflag: tar.TypeReg, Name: dir + "/.wh.x"}})
		}
	}
	return out
}

// sameConversion publishes a layer in the two ways and wants one result.
// It returns the error of streaming, and how many bytes were fetched for it.
func sameConversion(t *testing.T, src string) (fetched int64, streamed error) {
	t.Helper()
	ctx := context.Background()
	a, b := memory.New().Generation(1), memory.New().Generation(1)
	p, q := openPublisher(t, a, src), openPublisher(t, b, src)
	_, streamed = p.stream(ctx, p.img.Layers[0])
	got, err := openPublisher(t, a, src).convert(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	want, err := q.spool(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	x, err := got.encode()
	if err != nil {
		t.Fatal(err)
	}
	y, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) || !slices.Equal(got.plan.Pieces, want.plan.Pieces) || got.plan.Chunks != want.plan.Chunks {
		t.Error("streaming gives another segment than reading first")
	}
	if len(p.pool.buffers) != cap(p.pool.buffers) {
		t.Error("a buffer was not given back")
	}
	return p.layerRead[0].Load(), streamed
}

// Where tests are to be short, it takes two layers instead of six.
func TestStreamGivesTheSameSegment(t *testing.T) {
	seeds := uint64(6)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		src := writeLayers(t, layerOf(t, sortedMembers(seed, 60)))
		if _, err := sameConversion(t, src); err != nil {
			t.Errorf("seed %d: not streamed: %v", seed, err)
		}
	}
	none := writeLayers(t, layerOf(t, sortedMembers(0, 0)))
	if _, err := sameConversion(t, none); err != nil {
		t.Errorf("no files: not streamed: %v", err)
	}
}

// Where tests are to be short, the layers have 12 files beside those that are out of
// order, instead of 60.
func TestLayersOutOfOrder(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 100<<10)
	count := 60
	if testing.Short() {
		count = 12
	}
	sorted := sortedMembers(1, count)
	last := len(sorted)
	at := func(i int, m ...member) []member { return slices.Insert(slices.Clone(sorted), i, m...) }
	for name, members := range map[string][]member{
		"early":                      append(at(0, fileMember("z", "early")), fileMember("y", strings.Repeat(big, 12))),
		"late":                       at(last, fileMember("c", "late")),
		"twice":                      at(last, fileMember("z", "one"), fileMember("z", "two")),
		"twice, empty":               at(last, fileMember("z", big), fileMember("z", "")),
		"replaced by a link":         at(last, fileMember("z", big), linkMember(tar.TypeSymlink, "z", "x")),
		"replaced, and has an heir":  at(last, fileMember("y", big), fileMember("ya", big), linkMember(tar.TypeLink, "z", "y"), linkMember(tar.TypeSymlink, "y", "x")),
		"directory replaced":         at(last, fileMember("z/a", big), linkMember(tar.TypeSymlink, "z", "x")),
		"one in, another out":        at(last, fileMember("y", big), linkMember(tar.TypeSymlink, "y", "x"), fileMember("z", big)),
		"order of bytes, not a walk": at(last, fileMember("z-a", big), fileMember("z/a", big)),
	} {
		if testing.Short() && name != "early" && name != "one in, another out" {
			continue // the goroutines are the same
		}
		t.Run(name, func(t *testing.T) {
			read, err := sameConversion(t, writeLayers(t, layerOf(t, members)))
			if !errors.Is(err, errUnordered) {
				t.Errorf("streaming gave %v", err)
			}
			if size := int64(len(archiveOf(t, members))); name == "early" && read > size/2 || read <= 0 || read > size {
				t.Errorf("read %d bytes of %d", read, size)
			}
		})
	}
}

// What was fetched twice counts twice.
func TestFetchedBytesOfUnorderedLayer(t *testing.T) {
	members := append(sortedMembers(2, 40), fileMember("c", "late"))
	r := mustPublish(t, memory.New(), "a", writeLayers(t, layerOf(t, members)))
	if size := int64(len(archiveOf(t, members))); r.FetchedBytes < size+size/2 || r.FetchedBytes > 2*size {
		t.Errorf("%d bytes fetched of a layer of %d that was read twice", r.FetchedBytes, size)
	}
}

// A sparse file of the form that GNU tar writes (PAX, version 1.0): four bytes
// at 3 MiB of 4.
func TestSparseFileIsStreamed(t *testing.T) {
	sorted := sortedMembers(5, 20)
	var attributes string
	for _, r := range []string{"28 GNU.sparse.name=z/sparse\n", "22 GNU.sparse.major=1\n", "22 GNU.sparse.minor=0\n", "31 GNU.sparse.realsize=4194304\n"} {
		attributes += r
	}
	holes := "2\n3145728\n4\n4194304\n0\n"
	data := archiveOf(t, append(sorted, fileMember("pax", attributes),
		fileMember("GNUSparseFile.0/f", holes+strings.Repeat("\x00", 512-len(holes))+"data")))
	header := bytes.Index(data, []byte("pax\x00"))
	block := data[header:][:512]
	block[156] = 'x'
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	l := static.NewLayer(data, types.OCIUncompressedLayer)
	id, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	src := writeLayers(t, tarLayer{l, id})
	if _, err := sameConversion(t, src); err != nil {
		t.Errorf("not streamed: %v", err)
	}
	store := memory.New()
	mustPublish(t, store, "a", src)
	want := make([]byte, 4<<20)
	copy(want[3<<20:], "data")
	if got, err := fs.ReadFile(openFiles(t, store, "a"), "z/sparse"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("sparse file of %d bytes reads back wrong, %v", len(got), err)
	}
}

func TestWrongDiffIDLeavesOnlyChunks(t *testing.T) {
	store := memory.New()
	l := layerOf(t, sortedMembers(3, 60)).(tarLayer)
	l.diffID.Hex = strings.Repeat("5", 64)
	_, err := Image(context.Background(), store, []string{writeLayers(t, l)}, options(t, "a"))
	var digest *source.DigestError
	if !errors.As(err, &digest) {
		t.Fatalf("published: %v", err)
	}
	pointers, chunks := 0, 0
	if err := store.Generation(1).ListPointers(context.Background(), "", func(string) error { pointers++; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := store.Generation(1).List(context.Background(), func(chunk.ID, int64) error { chunks++; return nil }); err != nil {
		t.Fatal(err)
	}
	if pointers != 0 || chunks == 0 {
		t.Errorf("left %d pointers, %d chunks", pointers, chunks)
	}
}

// Layers that all want the one sealer get their turns.
func TestManyLayersShareOneSealer(t *testing.T) {
	var layers []v1.Layer
	for i := range uint64(8) {
		members := sortedMembers(10+i, 30)
		if i%3 == 2 {
			members = append(members, fileMember("c", "late"))
		}
		layers = append(layers, layerOf(t, members))
	}
	src := writeLayers(t, layers...)
	want := mustPublish(t, memory.New(), "a", src)
	o := options(t, "a")
	o.Workers = 1
	r, err := Image(context.Background(), memory.New(), []string{src}, o)
	if err != nil || r.BlockMap != want.BlockMap {
		t.Errorf("one sealer: %+v, %v; want block map %s", r, err, want.BlockMap)
	}
}

// A cancelling sink ends the publication when it gets its nth chunk.
type cancelling struct {
	origin.Store
	cancel context.CancelFunc
	left   chan struct{}
}

func (c *cancelling) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	select {
	case <-c.left:
	default:
		c.cancel()
	}
	return c.Store.Put(ctx, id, object)
}

func TestCancelWhileStreaming(t *testing.T) {
	src := writeLayers(t, layerOf(t, sortedMembers(4, 60)))
	before := runtime.NumGoroutine()
	for n := range 6 {
		ctx, cancel := context.WithCancel(context.Background())
		sink := &cancelling{memory.New().Generation(1), cancel, make(chan struct{}, n)}
		for range n {
			sink.left <- struct{}{}
		}
		p := openPublisher(t, sink, src)
		if _, err := p.convert(ctx, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at chunk %d: %v", n, err)
		}
		if len(p.pool.buffers) != cap(p.pool.buffers) || len(p.pool.sealers) != cap(p.pool.sealers) || len(p.pool.objects) != cap(p.pool.objects) {
			t.Errorf("cancelled at chunk %d: a buffer, a sealer or an object is missing", n)
		}
	}
	if after := runtime.NumGoroutine(); after > before+2 {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}
