package main

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// TestConvert converts an image of two platforms where it is, and into another
// repository, and looks at what others see then.
func TestConvert(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	t.Setenv("GOMEMLIMIT", "off")
	t.Setenv("RIVULET_STORE", "dir:"+t.TempDir()) // has no part in it
	addr := registrytest.Memory(t, true, nil)
	tag := pushRandom(t, addr+"/team/app:1.2")
	plain := mustGet(t, tag)
	converts := func(args ...string) (names []string) {
		t.Helper()
		var out, errs bytes.Buffer
		args = append([]string{"convert", "--json", "--open", "--temp", t.TempDir()}, args...)
		if code := run(context.Background(), args, &out, &errs); code != exitOK {
			t.Fatalf("%q: status %d, %s", args, code, errs.String())
		}
		for d := json.NewDecoder(&out); d.More(); {
			var r struct{ Name, Converted string }
			if err := d.Decode(&r); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(r.Converted, "@sha256:") {
				t.Errorf("%s was converted to %q", r.Name, r.Converted)
			}
			names = append(names, r.Name)
		}
		return names
	}
	check := func(at name.Tag, names []string) {
		t.Helper()
		if now := mustGet(t, at); !bytes.Equal(now.Manifest, plain.Manifest) {
			t.Errorf("%s is not the image that it was", at)
		}
		checkPlatforms(t, mustGet(t, at.Context().Tag(at.TagStr()+"-rivulet")), plain)
		for _, arch := range []string{"amd64", "arm64"} {
			want := at.Name()
			if arch != runtime.GOARCH {
				want += "-linux-" + arch
			}
			if !strings.Contains(strings.Join(names, " ")+" ", want+" ") {
				t.Errorf("names are %q, want %s among them", names, want)
			}
			var out, errs bytes.Buffer
			if code := run(context.Background(), []string{"verify", want, "--store", "oci://" + at.Context().Name()}, &out, &errs); code != exitOK {
				t.Errorf("verify %s: %s", want, errs.String())
			}
		}
	}
	check(tag, converts(tag.Name()))
	copied, err := name.NewTag(addr + "/other/place:9")
	if err != nil {
		t.Fatal(err)
	}
	check(copied, converts(tag.Name(), copied.Name()))
	one := converts(tag.Name(), addr+"/other/one:1", "--platform", "linux/arm64", "--converted-tag", "lazy")
	if len(one) != 1 || one[0] != addr+"/other/one:1" {
		t.Errorf("one platform: %q", one)
	}
}

func TestConvertMistakes(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	addr := registrytest.Memory(t, true, nil)
	tag := pushRandom(t, addr+"/team/app:1.2")
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{}, exitUsage, "arg"},
		{[]string{"oci:layout"}, exitUsage, "publish"},
		{[]string{"zip:handler.zip"}, exitUsage, "publish"},
		{[]string{"pip:flask"}, exitUsage, "publish"},
		{[]string{tag.Name(), "--store", "dir:/nowhere"}, exitUsage, "own repository"},
		{[]string{tag.Name(), "--platform", "a/b/c/d/e"}, exitUsage, "platform"},
		{[]string{tag.Name(), addr + "/other/app@sha256:" + strings.Repeat("0", 64)}, exitUsage, "target"},
		{[]string{tag.Name(), "--converted-tag", "1.2"}, exitUsage, "own tag"},
		{[]string{addr + "/team/none:1"}, exitFailed, addr + "/team/none:1"},
	} {
		var out, errs bytes.Buffer
		code := run(context.Background(), append([]string{"convert"}, c.args...), &out, &errs)
		if code != c.status || !strings.Contains(errs.String(), c.says) || strings.Count(strings.TrimSpace(errs.String()), "\n") > 1 {
			t.Errorf("%q: status %d, %q; want %d and %q", c.args, code, errs.String(), c.status, c.says)
		}
	}
}
