package packages

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/python"
)

// wheelOf returns a wheel of pure Python.
func wheelOf(t testing.TB, name, version string, requires []string, files map[string]string) (file string, data []byte) {
	t.Helper()
	info := name + "-" + version + ".dist-info/"
	meta := "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\nProvides-Extra: x\n"
	for _, r := range requires {
		meta += "Requires-Dist: " + r + "\n"
	}
	all := map[string]string{info + "METADATA": meta + "\n", info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
	for p, d := range files {
		all[p] = d
	}
	var paths []string
	for p := range all {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	record := ""
	for _, p := range paths {
		sum := sha256.Sum256([]byte(all[p]))
		record += fmt.Sprintf("%s,sha256=%s,%d\n", p, base64.RawURLEncoding.EncodeToString(sum[:]), len(all[p]))
	}
	all[info+"RECORD"] = record + info + "RECORD,,\n"
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, p := range append(paths, info+"RECORD") {
		out, err := w.Create(p)
		if err == nil {
			_, err = out.Write([]byte(all[p]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name + "-" + version + "-py3-none-any.whl", buf.Bytes()
}

// An index is one of packages, on this machine.
type index struct {
	files     map[string][]byte
	downloads atomic.Int64
	url       string
}

func newIndex(t testing.TB) *index {
	t.Helper()
	x := &index{files: make(map[string][]byte)}
	add := func(name, version string, requires []string, files map[string]string) {
		file, data := wheelOf(t, name, version, requires, files)
		x.files[file] = data
	}
	add("aa", "1.0", []string{"bb[x] (>=1,<2)", "dd; sys_platform == 'win32'"}, map[string]string{"aa/__init__.py": "import bb\n", "shared.py": "a = 1\n", "aa/bad.py": "this is no Python\n"})
	add("bb", "1.5", []string{"cc; extra == 'x'"}, map[string]string{"bb.py": "import cc\n", "shared.py": "b = 2\n"})
	add("bb", "2.0", nil, map[string]string{"bb.py": ""})
	add("cc", "3", nil, map[string]string{"space/cc.py": "", "cc.py": "value = 7\n"})
	add("dd", "1", nil, map[string]string{"dd.py": ""})
	add("ee", "1", nil, map[string]string{"space/ee.py": ""})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if file, ok := strings.CutPrefix(r.URL.Path, "/files/"); ok && x.files[file] != nil {
			if !strings.Contains(r.UserAgent(), "pip") {
				x.downloads.Add(1)
			}
			_, _ = w.Write(x.files[file])
			return
		}
		name, ok := strings.CutPrefix(r.URL.Path, "/simple/")
		if name = strings.Trim(name, "/"); !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		for file, data := range x.files {
			if strings.HasPrefix(file, name+"-") {
				fmt.Fprintf(w, "<a href='/files/%s#sha256=%x'>%s</a>\n", file, sha256.Sum256(data), file)
			}
		}
	}))
	t.Cleanup(s.Close)
	x.url = s.URL
	for _, v := range os.Environ() { // this machine's settings are none of the test's
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PIP_") {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
	t.Setenv("PIP_CONFIG_FILE", os.DevNull)
	t.Setenv("PIP_INDEX_URL", s.URL+"/simple")
	return x
}

// below is the layer of an image that this machine's own tree stands for.
var below = []*source.Layer{source.NewLayer(v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)}, 0, nil)}

// newPython returns a Python for the image that this machine is.
func newPython(t testing.TB, dir string) *Python {
	t.Helper()
	target, err := python.Probe(context.Background(), "/")
	if err == nil {
		_, err = python.NewResolver(context.Background())
	}
	if err != nil {
		if os.Getenv("RIVULET_E2E_STRICT") != "" {
			t.Fatal("needs bubblewrap, /usr/bin/python3 and pip:", err)
		}
		t.Skip("needs bubblewrap, /usr/bin/python3 and pip:", err)
	}
	c, err := OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(target)
	at := c.path("bases", chainOf(below))
	if err = errors.Join(err, os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, "target.json"), data, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(at, "root")); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return &Python{Cache: c, TempDir: t.TempDir()}
}

func diffIDs(img *source.Image) (out []string) {
	for _, l := range img.Layers {
		out = append(out, l.DiffID.String())
	}
	return out
}

// read returns the files of a layer.
func read(t testing.TB, l *source.Layer) map[string]string {
	t.Helper()
	out := make(map[string]string)
	if _, err := l.Stream(context.Background(), func(e *flatten.Entry, r io.Reader) error {
		data, err := io.ReadAll(r)
		out[e.Path] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOpen(t *testing.T) {
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	var told []string
	p.Tell = func(line string) { told = append(told, line) }
	ctx := context.Background()
	constraints := filepath.Join(t.TempDir(), "c.txt")
	requirements := filepath.Join(filepath.Dir(constraints), "r.txt")
	if err := errors.Join(os.WriteFile(constraints, []byte("cc<4\n"), 0o600), os.WriteFile(requirements, []byte("-c c.txt\naa >= 1 # comment\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	img, err := p.Open(ctx, []string{"requirements:" + requirements, "pip:ee"}, below)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Parse([]byte(img.Labels[Label]))
	if err != nil {
		t.Fatal(err)
	}
	versions := make(map[string]int)
	for i, p := range l.Packages {
		versions[p.Name+" "+p.Version] = i
	}
	if len(versions) != 4 || len(img.Layers) != 4 {
		t.Fatalf("chosen: %v", versions)
	}
	for _, want := range []string{"aa 1.0", "bb 1.5", "cc 3", "ee 1"} {
		if _, ok := versions[want]; !ok {
			t.Errorf("%s is not chosen: %v", want, versions)
		}
	}
	if got := l.Why("cc", strings.ToLower); len(got) != 1 || strings.Join(got[0], ">") != "aa>bb>cc" {
		t.Errorf("why cc: %v", got)
	}
	first, second := "aa", "bb"
	if versions["aa 1.0"] > versions["bb 1.5"] {
		first, second = second, first
	}
	if len(told) != 1 || !strings.Contains(told[0], first+" and "+second) || !strings.Contains(told[0], "shared.py") || !strings.Contains(told[0], ": "+second+"'s is used") {
		t.Errorf("told %q", told)
	}
	files := read(t, img.Layers[versions["aa 1.0"]])
	var pyc, bad int
	for path, data := range files {
		if strings.HasSuffix(path, ".pyc") {
			pyc++
			if data[4:8] != "\x01\x00\x00\x00" {
				t.Errorf("%s begins with %x", path, data[:16])
			}
			if strings.Contains(path, "bad") {
				bad++
			}
		}
	}
	if pyc != 2 || bad != 0 {
		t.Errorf("%d modules compiled, %d of them bad: %d files", pyc, bad, len(files))
	}

	// Its lock gives the same layers: known, and anew.
	file := filepath.Join(t.TempDir(), "pylock.toml")
	if err := os.WriteFile(file, []byte(img.Labels[Label]), 0o600); err != nil {
		t.Fatal(err)
	}
	n := x.downloads.Load()
	again, err := p.Open(ctx, []string{"pylock:" + file}, below)
	if err != nil || !slices.Equal(diffIDs(again), diffIDs(img)) || again.Labels[Label] != img.Labels[Label] {
		t.Errorf("from the lock: %v", err)
	}
	if got := x.downloads.Load(); got != n || n != 4 {
		t.Errorf("%d downloads, then %d more", n, got-n)
	}
	fresh, err := newPython(t, t.TempDir()).Open(ctx, []string{"pylock:" + file}, below)
	if err != nil || !slices.Equal(diffIDs(fresh), diffIDs(img)) {
		t.Errorf("from the lock, anew: %v", err)
	}
	apart := newPython(t, p.Cache.dir)
	apart.Apart = true
	other, err := apart.Open(ctx, []string{"pylock:" + file}, below)
	if err != nil {
		t.Fatal(err)
	}
	files = read(t, other.Layers[versions["cc 3"]])
	if files["packages/cc==3/cc.py"] != "value = 7\n" {
		t.Errorf("apart: %v", files)
	}
	found := false
	for path, data := range files {
		found = found || strings.HasSuffix(path, "/cc==3.pth") && data == "/packages/cc==3\n"
	}
	if !found {
		t.Errorf("no path file: %v", files)
	}
}

// TestForeignLock chooses of a lock that leaves a choice.
func TestForeignLock(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	entry := func(name, marker, requires string, wheels ...string) string {
		text := fmt.Sprintf("[[packages]]\nname = %q\nmarker = %q\nrequires-python = %q\nwheels = [\n", name, marker, requires)
		for _, w := range wheels {
			sum := sha256.Sum256(x.files[w])
			text += fmt.Sprintf("{url = \"%s/files/%s\", hashes = {sha256 = \"%x\"}},\n", x.url, w, sum)
		}
		return text + "]\n"
	}
	for _, c := range []struct{ lock, want string }{
		{entry("cc", "sys_platform == 'linux'", ">=3", "cc-3-cp27-cp27mu-manylinux1_x86_64.whl", "cc-3-py3-none-any.whl") + entry("dd", "sys_platform == 'win32'", "", "dd-1-py3-none-any.whl"), ""},
		{entry("cc", "", ">=9", "cc-3-py3-none-any.whl"), "needs Python >=9"},
		{entry("cc", "", "", "cc-3-cp27-cp27mu-manylinux1_x86_64.whl", "cc-3-cp26-none-any.whl"), "none of the lock's 2 wheels is for this image"},
	} {
		file := filepath.Join(t.TempDir(), "pylock.toml")
		if err := os.WriteFile(file, []byte("lock-version = \"1.0\"\n"+c.lock), 0o600); err != nil {
			t.Fatal(err)
		}
		img, err := p.Open(context.Background(), []string{"pylock:" + file}, below)
		if c.want == "" && (err != nil || len(img.Layers) != 1) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	lockFile := func(sum string) string {
		file := filepath.Join(t.TempDir(), "pylock.toml")
		text := fmt.Sprintf("lock-version = \"1.0\"\n[[packages]]\nname = \"cc\"\nwheels = [{url = \"%s/files/cc-3-py3-none-any.whl\", hashes = {sha256 = \"%s\"}}]\n", x.url, sum)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "pylock:" + file
	}
	foreign := filepath.Join(t.TempDir(), "cc-3-cp27-cp27mu-linux_x86_64.whl")
	if err := os.WriteFile(foreign, x.files["cc-3-py3-none-any.whl"], 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "r.txt")
	if err := os.WriteFile(bad, []byte("-r r2.txt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		srcs []string
		want string
	}{
		{[]string{"pip:zz"}, "Could not find a version that satisfies the requirement zz"},
		{[]string{"pip:aa", "pip:bb>=2"}, "conflicting dependencies"},
		{[]string{"pip:--index-url=http://127.0.0.1:1"}, "an option is none"},
		{[]string{"pip:"}, "nothing is named"},
		{[]string{"requirements:" + bad}, "r2.txt: no such file"},
		{[]string{lockFile(strings.Repeat("00", 32))}, "and the lock says"},
		{[]string{lockFile(hex.EncodeToString(make([]byte, 32))), lockFile(hex.EncodeToString(make([]byte, 32)))}, "asked for twice"},
		{[]string{"wheel:" + foreign}, "is not for the Python of the image"},
		{[]string{"wheel:" + filepath.Join(t.TempDir(), "none-1-py3-none-any.whl")}, "no such file"},
	} {
		_, err := p.Open(context.Background(), c.srcs, below)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", c.srcs, err, c.want)
		}
	}
	if _, err := p.Open(context.Background(), []string{"pip:aa"}, nil); err == nil || !strings.Contains(err.Error(), "name one first") {
		t.Errorf("no image: %v", err)
	}
	if list, err := p.Cache.List(); err != nil || len(list) != 0 {
		t.Errorf("installed: %v, %v", list, err)
	}
	left, err := filepath.Glob(p.Cache.path("*", ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestOnce has many install the same at once, as processes would: by caches of their own on one
// folder. One does the work, after one that was killed.
func TestOnce(t *testing.T) {
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	file := "cc-3-py3-none-any.whl"
	sum := sha256.Sum256(x.files[file])
	lockFile := filepath.Join(t.TempDir(), "pylock.toml")
	text := fmt.Sprintf("lock-version = \"1.0\"\n[[packages]]\nname = \"cc\"\nwheels = [{url = \"%s/files/%s\", hashes = {sha256 = \"%x\"}}]\n", x.url, file, sum)
	if err := os.WriteFile(lockFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := p.Open(context.Background(), []string{"pylock:" + lockFile}, below)
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.Cache.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("installed: %v, %v", list, err)
	}
	// What a killed one leaves: an archive without its mark, and half of one.
	key := list[0].Key
	if err := errors.Join(os.Remove(p.Cache.path("installed", key+".json")), os.Truncate(p.Cache.path("installed", key+".tar"), 100),
		os.WriteFile(p.Cache.path("installed", "."+key+".tar.XYZ"), []byte("half"), 0o600), os.RemoveAll(p.Cache.path("files", list[0].SHA256))); err != nil {
		t.Fatal(err)
	}
	x.downloads.Store(0)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			c, err := OpenCache(p.Cache.dir)
			if err != nil {
				t.Error(err)
				return
			}
			img, err := (&Python{Cache: c, TempDir: p.TempDir}).Open(context.Background(), []string{"pylock:" + lockFile}, below)
			if err != nil || !slices.Equal(diffIDs(img), diffIDs(first)) {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if n := x.downloads.Load(); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
	if left, err := filepath.Glob(p.Cache.path("*", ".*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if list, err = p.Cache.List(); err != nil || len(list) != 1 {
		t.Fatalf("installed: %v, %v", list, err)
	}
	if err := p.Cache.Remove(list[0]); err != nil {
		t.Fatal(err)
	}
	if list, err = p.Cache.List(); err != nil || len(list) != 0 {
		t.Errorf("removed, and there: %v, %v", list, err)
	}
}

// TestCancelled ends while somebody else installs: nobody waits without bound.
func TestCancelled(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := c.lock(context.Background(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancelCause(context.Background())
	over := errors.New("over")
	cancel(over)
	if _, err := c.lock(ctx, "x"); !errors.Is(err, over) {
		t.Errorf("a lock that is held: %v", err)
	}
}
