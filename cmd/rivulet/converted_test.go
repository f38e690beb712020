package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	none "github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// pushRandom pushes an image of two platforms to a registry and returns its reference.
func pushRandom(t *testing.T, ref string) name.Tag {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	index := v1.ImageIndex(none.Index)
	for _, arch := range []string{"amd64", "arm64"} {
		l, err := random.Layer(100_000, "application/vnd.oci.image.layer.v1.tar+gzip")
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.AppendLayers(none.Image, l)
		if err == nil {
			img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: rootOf(t, img)})
		}
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	return tag
}

func rootOf(t *testing.T, img v1.Image) v1.RootFS {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.RootFS
}

// TestConverted publishes with --converted for one platform after the other, and looks at
// what others see then.
func TestConverted(t *testing.T) {
	for server, start := range map[string]func(testing.TB) string{
		"referrers":    func(t testing.TB) string { return registrytest.Memory(t, true, nil) },
		"no referrers": func(t testing.TB) string { return registrytest.Memory(t, false, nil) },
		"distribution": func(t testing.TB) string { return registrytest.Distribution(t).Addr },
	} {
		t.Run(server, func(t *testing.T) { testConverted(t, start(t)+"/team/app") })
	}
}

func testConverted(t *testing.T, repo string) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	t.Setenv("GOMEMLIMIT", "off")
	tag := pushRandom(t, repo+":1.2")
	plain := mustGet(t, tag)
	maps := map[string]string{} // block maps by platform
	publishes := func(args ...string) (converted string) {
		t.Helper()
		var out, errs bytes.Buffer
		more := args
		args = append([]string{"publish", tag.Name(), "--json", "--size", "64M", "--temp", t.TempDir(), "--store", "oci://" + repo}, args...)
		if code := run(context.Background(), args, &out, &errs); code != exitOK {
			t.Fatalf("%q: status %d, %s", args, code, errs.String())
		}
		var r struct {
			Converted string
			BlockMap  string `json:"block_map"`
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		maps[strings.TrimPrefix(args[len(args)-len(more)+1], "linux/")] = r.BlockMap
		return r.Converted
	}
	if got := publishes("--platform", "linux/amd64"); got != "" {
		t.Errorf("converted to %q without being asked", got)
	}
	if _, err := remote.Get(tag.Context().Tag("1.2-rivulet")); !missing(err) {
		t.Errorf("without --converted, its tag gives %v", err)
	}
	for _, at := range []struct{ tag, flag string }{{"1.2-rivulet", "--converted"}, {"lazy", "--converted-tag=lazy"}} {
		publishes("--platform", "linux/amd64", at.flag)
		said := publishes("--platform", "linux/arm64", at.flag)
		converted := mustGet(t, tag.Context().Tag(at.tag))
		if want := tag.Context().Tag(at.tag).Name() + "@" + converted.Digest.String(); said != want {
			t.Errorf("said to be at %s, and is at %s", said, want)
		}
		if now := mustGet(t, tag); !bytes.Equal(now.Manifest, plain.Manifest) || now.Digest != plain.Digest {
			t.Error("the plain image changed")
		}
		checkPlatforms(t, converted, plain)
	}
	readConverted(t, repo, maps)
}

// readConverted reads the disks of a converted image, by all that it may be called, while
// the generation that they were published into is there, and when it is gone.
func readConverted(t *testing.T, repo string, maps map[string]string) {
	t.Helper()
	command := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, &out, &errs); code != want {
			t.Fatalf("%q: status %d, %s", args, code, errs.String())
		}
		return out.String() + errs.String()
	}
	file := filepath.Join(t.TempDir(), "disk")
	export := func(args ...string) [32]byte {
		t.Helper()
		command(exitOK, append(append([]string{"export"}, args...), file)...)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	store, at, tagged := "--store=oci://"+repo, "oci://"+repo+":1.2-rivulet", repo+":1.2-rivulet"
	want := map[string][32]byte{}
	for arch, d := range maps {
		want[arch] = export(store, d)
	}
	if len(want) != 2 || want["amd64"] == want["arm64"] {
		t.Fatalf("%d disks; no test", len(want))
	}
	check := func(ways ...[]string) {
		t.Helper()
		for _, args := range ways {
			if got := export(args...); got != want[runtime.GOARCH] {
				t.Errorf("%q: other bytes", args)
			}
		}
		for arch, d := range maps {
			if got := export("--store="+at, d); got != want[arch] {
				t.Errorf("%s: other bytes", arch)
			}
		}
		command(exitOK, "verify", at)
		if s := command(exitOK, "ls", "--store="+at); !strings.Contains(s, tagged) {
			t.Errorf("ls does not list it: %s", s)
		}
	}
	check([]string{at}, []string{store, tagged}, []string{"--store=" + at, tagged})
	o, err := registry.Open(t.Context(), repo, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.DeleteGeneration(t.Context(), 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	check([]string{at})
	for _, c := range []struct {
		want string
		args []string
	}{
		{"it has no disk", []string{"inspect", "oci://" + repo + ":1.2"}},
		{"not found", []string{"inspect", store, repo + ":1.2"}},
		{"leave out --store", []string{"inspect", "--store=dir:/nowhere", at}},
		{"leave out", []string{"rm", "--store=" + at, tagged}},
		{"add a converted image's tag", []string{"inspect", "oci://" + repo}},
		{"leave out the tag", []string{"publish", "--store=" + at, "dir:" + t.TempDir(), "--name=x"}},
	} {
		var errs bytes.Buffer
		if code := run(context.Background(), c.args, &errs, &errs); code == exitOK || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%q: status %d, %s; want %q", c.args, code, errs.String(), c.want)
		}
	}
}

// checkPlatforms checks that a converted image has the plain one's manifests, whatever
// platform a client asks for, and a disk of each.
func checkPlatforms(t *testing.T, converted, plain *remote.Descriptor) {
	t.Helper()
	list, from := manifests(t, converted), manifests(t, plain)
	if len(list) != 2*len(from) {
		t.Fatalf("%d manifests, want %d images and as many disks", len(list), len(from))
	}
	disks := map[string]bool{}
	for _, d := range list {
		disks[d.Annotations["com.github.rivuletfs.image"]] = d.Platform != nil && d.Platform.OS == "unknown"
	}
	for i, d := range from {
		if list[i].Digest != d.Digest || !list[i].Platform.Equals(*d.Platform) {
			t.Errorf("a client gets %v, want %v", list[i], d)
		}
		if !disks[d.Digest.String()] {
			t.Errorf("there is no disk of %v", d.Digest)
		}
	}
}

func manifests(t *testing.T, d *remote.Descriptor) []v1.Descriptor {
	t.Helper()
	index, err := d.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Manifests
}

func mustGet(t *testing.T, ref name.Reference) *remote.Descriptor {
	t.Helper()
	d, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func missing(err error) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound
}

// TestConvertedRefused asks for what cannot be converted, which is said before anything
// is done.
func TestConvertedRefused(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	digest := "@sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--converted", "--store", "dir:/nowhere", "127.0.0.1:1/a:1"}, "not in a registry"},
		{[]string{"--converted", "127.0.0.1:1/b:1"}, "such as 127.0.0.1:1/a:TAG"},
		{[]string{"--converted", "127.0.0.1:1/a:1", "dir:x"}, "one image in the repository"},
		{[]string{"--converted", "oci:x:1"}, "one image in the repository"},
		{[]string{"--converted", "127.0.0.1:1/a" + digest}, "--converted-tag"},
		{[]string{"--converted-tag", "1", "127.0.0.1:1/a:1"}, "own tag"},
		{[]string{"--converted-tag", "../x", "127.0.0.1:1/a:1"}, "no tag"},
		{[]string{"--converted-tag", strings.Repeat("x", 129), "127.0.0.1:1/a:1"}, "no tag"},
	} {
		var errs bytes.Buffer
		args := append([]string{"publish", "--store", "oci://127.0.0.1:1/a"}, c.args...)
		code := run(context.Background(), args, &errs, &errs)
		if code != exitUsage || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%q: status %d, %s; want %q", c.args, code, errs.String(), c.want)
		}
	}
}
