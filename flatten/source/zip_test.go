package source

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/flatten"
)

// writeZipFile writes an archive of NAME, CONTENT pairs; a content that begins with
// "-> " makes a symbolic link.
func writeZipFile(t *testing.T, pairs ...string) string {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := 0; i < len(pairs); i += 2 {
		h := &zip.FileHeader{Name: pairs[i], Method: zip.Deflate}
		h.SetMode(0o750)
		target, isLink := strings.CutPrefix(pairs[i+1], "-> ")
		if isLink {
			h.SetMode(0o777 | fs.ModeSymlink)
		}
		out, err := w.CreateHeader(h)
		must(t, err)
		_, err = out.Write([]byte(target))
		must(t, err)
	}
	file := filepath.Join(t.TempDir(), "a.zip")
	must(t, w.Close(), os.WriteFile(file, buf.Bytes(), 0o600))
	return file
}

func TestZip(t *testing.T) {
	file := writeZipFile(t, "z.py", "print()", "bin/run", "#!/bin/sh", "l", "-> bin/run")
	img, l := readOne(t, "zip:"+file+"@/var/task/")
	var got []string
	for _, e := range l.Entries {
		if !e.Implied {
			got = append(got, e.Path)
		}
	}
	if want := "var/task/bin/run var/task/l var/task/z.py"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if e := l.Entries[len(l.Entries)-1]; e.Mode != 0o750 || e.UID != 0 || e.Size != 7 {
		t.Errorf("entry %+v", e)
	}
	// It stands for the same layer as the archive of the same tree.
	var buf bytes.Buffer
	must(t, flatten.WriteArchive(&buf, l))
	tarball := filepath.Join(t.TempDir(), "a.tar")
	must(t, os.WriteFile(tarball, buf.Bytes(), 0o600))
	if again, _ := readOne(t, "tar:"+tarball); again.Layers[0].DiffID != img.Layers[0].DiffID {
		t.Errorf("diff ID %s, as tar %s", img.Layers[0].DiffID, again.Layers[0].DiffID)
	}
	if plain, _ := readOne(t, "zip:"+file); plain.Digest == img.Digest {
		t.Error("the folder changes nothing")
	}
}

func TestZipRefused(t *testing.T) {
	good := writeZipFile(t, "a", "1")
	for src, want := range map[string]string{
		good + "@/a/../b": "want an absolute path",
		good + "@/.wh.x":  "want an absolute path",
		writeZipFile(t, "a", "-> /etc/passwd") + "@/opt": "leads out",
		writeZipFile(t, "../a", "1"):                     `".." in a name`,
		filepath.Join(t.TempDir(), "none.zip"):           "no such file",
		t.TempDir():                                      "not a regular file",
	} {
		_, _, err := read(t, Options{}, "zip:"+src)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", src, err, want)
		}
	}
}
