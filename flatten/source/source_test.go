package source

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/flatten"
)

// tarOf returns an archive of small files, NAME then CONTENT.
func tarOf(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(pairs); i += 2 {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1]))})
		if err == nil {
			_, err = w.Write([]byte(pairs[i+1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// storedLayer is a layer with any bytes, type and diff ID.
type storedLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l storedLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

func layerOf(stored []byte, mediaType types.MediaType, uncompressed []byte) v1.Layer {
	return storedLayer{static.NewLayer(stored, mediaType), sha256Of(uncompressed)}
}

func imageOf(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = arch, "linux"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(img, types.OCIConfigJSON)
}

// mixed is an image with a layer of each kind of compression.
func mixed(t testing.TB, arch string) v1.Image {
	a, b, c := tarOf(t, "a", "1"+arch), tarOf(t, "d/b", "22"), tarOf(t, ".wh.a", "", "c", "333")
	return imageOf(t, arch, layerOf(gzipOf(t, a), types.DockerLayer, a),
		layerOf(zstdOf(t, b), types.OCILayerZStd, b), layerOf(c, types.OCIUncompressedLayer, c))
}

// tree opens and reads an image and lists its files with their contents.
func tree(t testing.TB, opts Options, sources ...string) (*Image, string) {
	t.Helper()
	img, text, err := read(t, opts, sources...)
	if err != nil {
		t.Fatal(err)
	}
	return img, text
}

func read(t testing.TB, opts Options, sources ...string) (*Image, string, error) {
	t.Helper()
	opts.TempDir = t.TempDir()
	img, err := Open(context.Background(), sources, opts)
	if err != nil {
		return nil, "", err
	}
	var layers []*flatten.Layer
	for _, l := range img.Layers {
		f, err := os.CreateTemp(opts.TempDir, "spool")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		layer, err := l.Read(context.Background(), f)
		if err != nil {
			return img, "", errors.Join(err, img.Close())
		}
		if layer.DiffID != l.DiffID {
			t.Errorf("layer's diff ID %s, want %s", layer.DiffID, l.DiffID)
		}
		layers = append(layers, layer)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	merged, err := flatten.Merge(layers)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	err = merged.Walk(func(path string, n *flatten.Node) error {
		if in := n.Inode; in.Kind == flatten.File {
			l := layers[in.Layer]
			data := make([]byte, in.Size)
			_, err := l.Data.ReadAt(data, l.Entries[in.Entry].Data)
			fmt.Fprintf(&b, "%s=%s ", path, data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return img, b.String(), nil
}

const mixedTree = "c=333 d/b=22 "

func digestOf(t testing.TB, img v1.Image) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func push(t testing.TB, ref string, img v1.Image, opts ...remote.Option) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img, opts...); err != nil {
		t.Fatal(err)
	}
}

func serve(t testing.TB, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	s := httptest.NewServer(wrap(registry.New()))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestRegistry(t *testing.T) {
	host := serve(t, func(h http.Handler) http.Handler { return h })
	want := mixed(t, "amd64")
	push(t, host+"/team/app:v1", want)
	var told int64
	img, text := tree(t, Options{Progress: func(_ *Layer, n int64) { told += n }}, host+"/team/app:v1")
	if text != mixedTree || img.Digest != digestOf(t, want) || img.Reference != host+"/team/app:v1" {
		t.Errorf("got %q, digest %s, reference %s", text, img.Digest, img.Reference)
	}
	if config, err := want.RawConfigFile(); err != nil || !bytes.Equal(config, img.Config) {
		t.Errorf("configuration %s, err %v", img.Config, err)
	}
	if told != img.Layers[0].Size+img.Layers[1].Size+img.Layers[2].Size {
		t.Errorf("progress told of %d bytes", told)
	}
	tree(t, Options{}, host+"/team/app@"+img.Digest.String())
	for _, missing := range []string{"/team/app:v2", "/none"} {
		if _, _, err := read(t, Options{}, host+missing); err == nil {
			t.Errorf("%s: no error", missing)
		}
	}
}

func spoolFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "file")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestRegistryPlatform(t *testing.T) {
	host := serve(t, func(h http.Handler) http.Handler { return h })
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"amd64", "arm64"} {
		img := imageOf(t, arch, layerOf(tarOf(t, "arch", arch), types.OCIUncompressedLayer, tarOf(t, "arch", arch)))
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref, err := name.ParseReference(host + "/multi")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		if _, text := tree(t, Options{Platform: &v1.Platform{OS: "linux", Architecture: arch}}, host+"/multi"); text != "arch="+arch+" " {
			t.Errorf("%s: got %q", arch, text)
		}
	}
	_, _, err = read(t, Options{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}, host+"/multi")
	if err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("unknown platform: %v", err)
	}
}

func TestRegistryCredentials(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("user:secret"))
	host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Basic "+auth {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", home)
	t.Setenv("XDG_RUNTIME_DIR", home)
	if _, _, err := read(t, Options{}, host+"/private"); err == nil {
		t.Error("no credentials: no error")
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := Options{}
	opts.setDefaults()
	push(t, host+"/private", mixed(t, "amd64"), remote.WithAuthFromKeychain(opts.Keychain))
	if _, text := tree(t, Options{}, host+"/private"); text != mixedTree {
		t.Errorf("got %q", text)
	}
}

func writeLayout(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range images {
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: tag})); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLayout(t *testing.T) {
	one := writeLayout(t, map[string]v1.Image{"v1": mixed(t, "amd64")})
	two := writeLayout(t, map[string]v1.Image{"v1": mixed(t, "amd64"), "a/b:v2": mixed(t, "arm64")})
	for _, src := range []string{one, one + ":v1", two + ":v1", two + ":a/b:v2", two + "@" + digestOf(t, mixed(t, "arm64")).String()} {
		if _, text := tree(t, Options{}, "oci:"+src); text != mixedTree {
			t.Errorf("%s: got %q", src, text)
		}
	}
	for src, want := range map[string]string{two: "choose one", two + ":v3": "there are", t.TempDir(): "index.json"} {
		if _, _, err := read(t, Options{}, "oci:"+src); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", src, err, want)
		}
	}
}

func TestDockerArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a:b.tar")
	ref, err := name.ParseReference("example.com/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	a, b := tarOf(t, "a", "1"), tarOf(t, "b", "2")
	img := imageOf(t, "amd64", layerOf(gzipOf(t, a), types.DockerLayer, a), layerOf(gzipOf(t, b), types.DockerLayer, b))
	if err := tarball.WriteToFile(file, ref, img); err != nil {
		t.Fatal(err)
	}
	got, text := tree(t, Options{}, "docker-archive:"+file)
	if id, err := img.ConfigName(); text != "a=1 b=2 " || err != nil || got.Digest != id {
		t.Errorf("got %q, digest %s", text, got.Digest)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, gzipOf(t, data), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, text := tree(t, Options{}, "docker-archive:"+file); text != "a=1 b=2 " || again.Digest != got.Digest {
		t.Errorf("compressed: got %q, digest %s", text, again.Digest)
	}
}

func TestTarAndStack(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return "tar:" + file
	}
	data := tarOf(t, "b", "2", "a", "1")
	whole := write("plain", data)
	img, text := tree(t, Options{}, whole)
	if text != "a=1 b=2 " || img.Digest != sha256Of(img.Config) {
		t.Errorf("got %q, digest %s", text, img.Digest)
	}
	for _, src := range []string{write("gz", gzipOf(t, data)), write("zst", zstdOf(t, data)), write("sorted", tarOf(t, "a", "1", "b", "2"))} {
		if again, _ := tree(t, Options{}, src); again.Digest != img.Digest {
			t.Errorf("%s: digest %s, want %s", src, again.Digest, img.Digest)
		}
	}
	if _, text := tree(t, Options{}, whole, write("upper", tarOf(t, ".wh.a", "", "c", "3"))); text != "b=2 c=3 " {
		t.Errorf("stack: got %q", text)
	}
	base := writeLayout(t, map[string]v1.Image{"": mixed(t, "amd64")})
	stacked, text := tree(t, Options{}, "oci:"+base, whole)
	if text != "a=1 b=2 "+mixedTree || !bytes.Contains(stacked.Config, []byte(`"architecture":"amd64"`)) {
		t.Errorf("stack: got %q, configuration %s", text, stacked.Config)
	}
	for _, n := range []int{100, 700, len(data) - 1024, len(data) - 1} {
		if _, _, err := read(t, Options{}, write("cut", data[:n])); err == nil {
			t.Errorf("cut at %d of %d: no error", n, len(data))
		}
	}
}

func TestForms(t *testing.T) {
	for _, src := range []string{"", "http://x/y", "docker:x:y", "UPPER"} {
		if _, err := Open(context.Background(), []string{src}, Options{}); err == nil || !strings.Contains(err.Error(), "docker-archive:FILE") {
			t.Errorf("%q: %v does not list the forms", src, err)
		}
	}
	if _, err := Open(context.Background(), nil, Options{}); err == nil || !strings.Contains(err.Error(), Forms) {
		t.Errorf("no source: %v", err)
	}
}

func TestDamagedLayers(t *testing.T) {
	plainTar := tarOf(t, "f", strings.Repeat("content ", 1000))
	stored := gzipOf(t, plainTar)
	dir := writeLayout(t, map[string]v1.Image{"": imageOf(t, "amd64", layerOf(stored, types.OCILayer, plainTar))})
	sum := sha256.Sum256(stored)
	blob := filepath.Join(dir, "blobs", "sha256", fmt.Sprintf("%x", sum))
	flipped := func(at int) []byte {
		b := bytes.Clone(stored)
		b[at] ^= 4
		return b
	}
	for name, data := range map[string][]byte{
		"first byte": flipped(0), "middle": flipped(len(stored) / 2), "last byte": flipped(len(stored) - 1),
		"cut": stored[:len(stored)/2], "empty": {}, "longer": append(bytes.Clone(stored), 0),
	} {
		if err := os.WriteFile(blob, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := read(t, Options{}, "oci:"+dir)
		var layer *LayerError
		var digest *DigestError
		if !errors.As(err, &layer) || layer.Index != 0 {
			t.Errorf("%s: %v, want a LayerError", name, err)
		}
		if flip := len(data) == len(stored); flip != errors.As(err, &digest) {
			t.Errorf("%s: %v, DigestError wanted: %v", name, err, flip)
		}
	}
}

// TestArchive hands out a layer's archive, which its reader need not read to the end
// to have it checked.
func TestArchive(t *testing.T) {
	plainTar := tarOf(t, "f", strings.Repeat("content ", 1000))
	stored := gzipOf(t, plainTar)
	dir := writeLayout(t, map[string]v1.Image{"": imageOf(t, "amd64", layerOf(stored, types.OCILayer, plainTar))})
	img, err := Open(context.Background(), []string{"oci:" + dir}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = img.Close() }()
	var got []byte
	readAll := func(r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	}
	readSome := func(r io.Reader) error {
		_, err := io.ReadFull(r, make([]byte, 100))
		return err
	}
	if err := img.Layers[0].Archive(context.Background(), readAll); err != nil || !bytes.Equal(got, plainTar) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(plainTar), err)
	}
	if err := img.Layers[0].Archive(context.Background(), readSome); err != nil {
		t.Errorf("read in part: %v", err)
	}
	refused := errors.New("refused")
	if err := img.Layers[0].Archive(context.Background(), func(io.Reader) error { return refused }); !errors.Is(err, refused) || !errors.As(err, new(*LayerError)) {
		t.Errorf("the reader's error became %v", err)
	}
	damaged := bytes.Clone(stored)
	damaged[len(damaged)-6] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", fmt.Sprintf("%x", sha256.Sum256(stored))), damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := img.Layers[0].Archive(context.Background(), readSome); err == nil {
		t.Error("a damaged layer of which little was read is taken")
	}
}

func TestWrongLayers(t *testing.T) {
	data := tarOf(t, "f", "x")
	zipped := gzipOf(t, data)
	for _, tc := range []struct {
		want  string
		layer v1.Layer
	}{
		{"uncompressed layer is corrupt", layerOf(zipped, types.OCILayer, []byte("other"))},
		{"is not zstd but gzip", layerOf(zipped, types.OCILayerZStd, data)},
		{"is not gzip but uncompressed", layerOf(data, types.DockerLayer, data)},
		{"unsupported type", layerOf(zipped, "application/x-other", data)},
		{"not distributed", layerOf(zipped, types.DockerForeignLayer, data)},
		{"decompress", layerOf(append(bytes.Clone(zipped), "tail"...), types.OCILayer, data)},
		{"decompress", layerOf(zipped[:len(zipped)-9], types.OCILayer, data)},
	} {
		dir := writeLayout(t, map[string]v1.Image{"": imageOf(t, "amd64", tc.layer)})
		if _, _, err := read(t, Options{}, "oci:"+dir); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %q", err, tc.want)
		}
	}
	twice := append(gzipOf(t, data[:700]), gzipOf(t, data[700:])...)
	dir := writeLayout(t, map[string]v1.Image{"": imageOf(t, "amd64", layerOf(twice, types.OCILayer, data))})
	if _, text := tree(t, Options{}, "oci:"+dir); text != "f=x " {
		t.Errorf("two gzip members: got %q", text)
	}
}
