package packages

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/python"
)

// writeWheel writes a wheel without dependencies into a folder.
func writeWheel(t *testing.T, dir, name, version string, files map[string]string) {
	t.Helper()
	file, data := wheelOf(t, name, version, nil, files)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, file), data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func versionsOf(t *testing.T, text string) string {
	t.Helper()
	l, err := lock.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range l.Packages {
		out = append(out, p.Name+" "+p.Version)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestSourceOfIndex asks for packages that need one of which the index has no wheel: it is
// built, once, without a network, and what it needs in turn is resolved.
func TestSourceOfIndex(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	var told []string
	p.Tell = func(line string) { told = append(told, line) }
	x.files["ss-1.tar.gz"] = builtSource(t, "ss")
	file, data := wheelOf(t, "tt", "1", []string{"ss>=1"}, map[string]string{"tt.py": "import ss\n"})
	x.files[file] = data
	img, err := p.Open(context.Background(), []string{"pip:tt"}, below)
	if err != nil {
		t.Fatal(err)
	}
	if got := versionsOf(t, img.Labels[Label]); got != "cc 3, ss 1, tt 1" {
		t.Errorf("chosen: %s", got)
	}
	if text := img.Labels[Label]; !strings.Contains(text, x.url+"/files/ss-1.tar.gz") || strings.Contains(text, "/run/rivulet") {
		t.Errorf("the lock: %s", text)
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "ss-1.tar.gz is built") {
		t.Errorf("told %q", told)
	}
	// From the lock, by somebody else.
	at := filepath.Join(t.TempDir(), "pylock.toml")
	if err := os.WriteFile(at, []byte(img.Labels[Label]), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := newPython(t, t.TempDir()).Open(context.Background(), []string{"pylock:" + at}, below)
	if err != nil || !slices.Equal(diffIDs(again), diffIDs(img)) {
		t.Errorf("from the lock: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(p.TempDir, "rivulet-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	x.files["uu-1.tar.gz"] = []byte("no archive")
	if _, err := p.Open(context.Background(), []string{"pip:uu"}, below); err == nil || !strings.Contains(err.Error(), "uu-1.tar.gz: read source distribution") {
		t.Errorf("what is no archive: %v", err)
	}
}

// builtSource returns a source distribution that needs cc, and imports it.
func builtSource(t *testing.T, name string) []byte {
	t.Helper()
	file, data := wheelOf(t, name, "1", []string{"cc"}, map[string]string{name + ".py": "import cc\n"})
	code := "import sys, os\nDATA = bytes.fromhex('" + hexOf(data) + "')\ndef build_wheel(to, *_):\n open(os.path.join(to, '" + file + "'), 'wb').write(DATA)\n return '" + file + "'\n"
	source, err := os.ReadFile(sourceOf(t, name, code))
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// TestResolvingRunsNothing asks in all ways for a package whose build tells of itself: none runs it
// where there is a network.
func TestResolvingRunsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	source, err := os.ReadFile(sourceOf(t, "ss", "raise SystemExit('the code has run')\n"))
	if err != nil {
		t.Fatal(err)
	}
	x.files["ss-1.tar.gz"] = source
	file := filepath.Join(t.TempDir(), "r.txt")
	if err := os.WriteFile(file, []byte("--no-binary :all:\nss\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	resolvers := []string{"pip"}
	if _, err := exec.LookPath("uv"); err == nil {
		resolvers = append(resolvers, "uv")
	}
	for _, p.Resolver = range resolvers {
		for _, src := range []string{"pip:ss @ " + x.url + "/files/ss-1.tar.gz", "requirements:" + file} {
			if _, err := p.Open(context.Background(), []string{src}, below); err == nil || strings.Contains(err.Error(), "has run") || !strings.Contains(err.Error(), "ss") {
				t.Errorf("%s, by %s: %v", src, p.Resolver, err)
			}
		}
	}
}

// TestHostsOfIndex has an index lead to another host: that is not asked, and the user is told, until
// it is named.
func TestHostsOfIndex(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	there := newIndex(t)
	file, data := wheelOf(t, "far", "1", nil, map[string]string{"far.py": ""})
	there.files[file] = data
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<a href='%s/files/%s#sha256=%x'>%s</a>\n", there.url, file, sha256.Sum256(data), file)
	}))
	defer s.Close()
	t.Setenv("PIP_INDEX_URL", s.URL+"/simple")
	t.Setenv("PIP_RETRIES", "0")
	host := strings.TrimPrefix(there.url, "http://")
	_, err := p.Open(context.Background(), []string{"pip:far"}, below)
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "it was not let to "+host) {
		t.Errorf("a host that is not named: %v", err)
	}
	p.Hosts = []string{host}
	if _, err := p.Open(context.Background(), []string{"pip:far"}, below); err != nil {
		t.Error(err)
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// TestOptions takes requirements with options of pip's: folders of wheels, a private index
// beside the other, and constraints, of a file and of pip's settings.
func TestOptions(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	private := newIndex(t)
	newIndex(t) // the default one from now on
	file, data := wheelOf(t, "mine", "7", nil, map[string]string{"mine.py": ""})
	private.files[file] = data
	dir := t.TempDir()
	for _, v := range []string{"1", "2", "3"} {
		writeWheel(t, filepath.Join(dir, "wheels"), "here", v, map[string]string{"here.py": "v = " + v + "\n"})
	}
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	t.Setenv("PIP_CONSTRAINT", write("global.txt", "here<3\n"))
	write("c.txt", "bb<2\n")
	img, err := p.Open(context.Background(), []string{"requirements:" + write("r.txt", "-c c.txt\n--extra-index-url "+private.url+"/simple\n--find-links ./wheels\nhere\nmine\nbb\n")}, below)
	if err != nil {
		t.Fatal(err)
	}
	if got := versionsOf(t, img.Labels[Label]); got != "bb 1.5, here 2, mine 7" {
		t.Errorf("chosen: %s", got)
	}
	if text := img.Labels[Label]; strings.Contains(text, dir) || strings.Contains(text, "/run/rivulet") {
		t.Errorf("the lock has a folder of this machine: %s", text)
	}
	if _, err := p.Open(context.Background(), []string{"requirements:" + write("bad.txt", "-f nowhere\nhere\n")}, below); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// TestUV has uv resolve what pip does: the same layers, in an order that puts first what is needed.
func TestUV(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	if _, err := exec.LookPath("uv"); err != nil {
		if os.Getenv("RIVULET_E2E_STRICT") != "" {
			t.Fatal("needs uv:", err)
		}
		t.Skip("needs uv:", err)
	}
	ctx := context.Background()
	p := newPython(t, t.TempDir())
	x := newIndex(t)
	byPip, err := p.Open(ctx, []string{"pip:aa"}, below)
	if err != nil {
		t.Fatal(err)
	}
	p.Resolver = "uv"
	byUV, err := p.Open(ctx, []string{"pip:aa"}, below)
	if err != nil {
		t.Fatal(err)
	}
	one, two := diffIDs(byPip), diffIDs(byUV)
	slices.Sort(one)
	slices.Sort(two)
	if !slices.Equal(one, two) {
		t.Errorf("by pip %s, by uv %s", byPip.Labels[Label], byUV.Labels[Label])
	}
	l, err := lock.Parse([]byte(byUV.Labels[Label]))
	if err != nil {
		t.Fatal(err)
	}
	if l.Packages[0].Name != "cc" || l.Packages[2].Name != "aa" || strings.Join(l.Tool.Rivulet.Requested, " ") != "aa" {
		t.Errorf("the lock: %s", byUV.Labels[Label])
	}
	if got := l.Why("cc", strings.ToLower); len(got) != 1 || strings.Join(got[0], ">") != "aa>bb>cc" {
		t.Errorf("why cc: %v", got)
	}
	_, err = p.Open(ctx, []string{"pip:aa", "pip:cc>3"}, below)
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "cc>3") {
		t.Errorf("what cannot be: %v", err)
	}
	// What has no wheel is built as pip would have it.
	x.files["ss-1.tar.gz"] = builtSource(t, "ss")
	var told []string
	p.Tell = func(line string) { told = append(told, line) }
	img, err := p.Open(ctx, []string{"pip:ss"}, below)
	if err != nil {
		t.Fatal(err)
	}
	if got := versionsOf(t, img.Labels[Label]); got != "cc 3, ss 1" {
		t.Errorf("chosen: %s", got)
	}
	if len(told) < 2 || !strings.HasPrefix(told[0], "uv finds no wheel of ss") {
		t.Errorf("told %q", told)
	}
	t.Setenv("PATH", "/nowhere")
	if _, err := python.NewUV(ctx); !errors.Is(err, python.ErrNoUV) {
		t.Errorf("without uv: %v", err)
	}
}
