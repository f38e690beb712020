package packages

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// npmTarball returns a package of npm with one file.
func npmTarball(t testing.TB, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "package/index.js", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err = errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestNode(t *testing.T) {
	tarballs := map[string][]byte{"/a.tgz": npmTarball(t, "a"), "/b.tgz": npmTarball(t, "b")}
	tarballs["/@s/c/-/c-1.0.0.tgz"] = npmTarball(t, "c")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if data, ok := tarballs[r.URL.Path]; ok {
			_, _ = w.Write(data)
			return
		}
		http.NotFound(w, r)
	}))
	defer s.Close()
	entry := func(file string) map[string]any {
		sum := sha512.Sum512(tarballs[file])
		return map[string]any{"version": "1.0.0", "resolved": s.URL + file, "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}
	}
	lockFile := func(change func(packages map[string]map[string]any)) string {
		all := map[string]map[string]any{"": {}, "node_modules/a": entry("/a.tgz"), "node_modules/a/node_modules/b": entry("/b.tgz"), "node_modules/b": entry("/b.tgz")}
		all["node_modules/a"]["bin"] = map[string]string{"run": "index.js"}
		all["node_modules/b"]["hasInstallScript"] = true
		all["node_modules/@s/c"] = entry("/@s/c/-/c-1.0.0.tgz")
		delete(all["node_modules/@s/c"], "resolved") // it is the registry's
		change(all)
		data, err := json.Marshal(map[string]any{"lockfileVersion": 3, "packages": all})
		file := filepath.Join(t.TempDir(), "package-lock.json")
		if err = errors.Join(err, os.WriteFile(file, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	open := func(c *Cache, src string) ([]string, map[string]string, []string, error) {
		var told []string
		n := &Node{Cache: c, Registry: s.URL + "/", TempDir: t.TempDir(), Tell: func(line string) { told = append(told, line) }}
		img, err := n.Open(context.Background(), []string{"npm:" + src}, nil)
		if err != nil {
			return nil, nil, nil, err
		}
		if img.Labels[NodeLabel] == "" {
			t.Error("no lock in the image")
		}
		files := make(map[string]string)
		for _, l := range img.Layers {
			for path, data := range read(t, l) {
				files[path] = data
			}
		}
		return diffIDs(img), files, told, nil
	}
	cache := func() *Cache {
		c, err := OpenCache(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := lockFile(func(map[string]map[string]any) {})
	c := cache()
	ids, files, told, err := open(c, good+"@/var/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 4 || files["var/task/node_modules/@s/c/index.js"] != "c" || files["var/task/node_modules/a/index.js"] != "a" || files["var/task/node_modules/a/node_modules/b/index.js"] != "b" || files["var/task/node_modules/b/index.js"] != "b" {
		t.Errorf("files %v", files)
	}
	if len(told) != 1 || !strings.Contains(told[0], "install scripts, which are not run") {
		t.Errorf("told %q", told)
	}
	if again, _, _, err := open(cache(), good+"@/var/task"); err != nil || !slices.Equal(again, ids) {
		t.Errorf("anew: %v, %v", again, err)
	}
	if other, _, _, err := open(c, good); err != nil || slices.Equal(other, ids) {
		t.Errorf("elsewhere: %v, %v", other, err)
	}
	for want, file := range map[string]string{
		"and the lock says":      lockFile(func(all map[string]map[string]any) { all["node_modules/a"]["resolved"] = s.URL + "/b.tgz" }),
		"the index answers 404":  lockFile(func(all map[string]map[string]any) { all["node_modules/a"]["resolved"] = s.URL + "/c.tgz" }),
		"comes from no registry": lockFile(func(all map[string]map[string]any) { all["node_modules/a"]["resolved"] = "file:../a" }),
		"not a place for":        lockFile(func(all map[string]map[string]any) { all["node_modules/../a"] = entry("/a.tgz") }),
		"no such file":           filepath.Join(t.TempDir(), "package-lock.json"),
		"want an absolute path":  good + "@/a/../b",
		`version "../`:           lockFile(func(all map[string]map[string]any) { all["node_modules/a"]["version"] = "../../x" }),
	} {
		if _, _, _, err := open(cache(), file); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
