package store

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

var ctx = context.Background()

// TestOpen writes a pointer into each kind of store and reads it through
// another opening.
func TestOpen(t *testing.T) {
	folder := t.TempDir()
	server := s3test.Start(t)
	repository := "oci://" + registrytest.Memory(t, true, nil) + "/a/b"
	for name, address := range map[string]string{"dir": "dir:" + folder, "s3": server.URL(server.NewBucket(t), "p"), "registry": repository} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(ctx, address, Options{})
			if name == "registry" { // an empty origin, until something is published there
				if err != nil {
					t.Errorf("a repository that is not there: %v", err)
				}
			} else if !errors.Is(err, origin.ErrNoStore) || !strings.Contains(err.Error(), address) {
				t.Errorf("what is not there: %v; want ErrNoStore", err)
			}
			o, err := Open(ctx, address, Options{Create: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := o.SwapPointer(ctx, "p", nil, []byte("v")); err != nil {
				t.Fatal(err)
			}
			wantPointer(t, address)
		})
	}
	web := httptest.NewServer(http.FileServer(http.Dir(folder)))
	defer web.Close()
	t.Run("http", func(t *testing.T) { wantPointer(t, web.URL) })
	if _, err := Open(ctx, web.URL, Options{Create: true}); !errors.Is(err, origin.ErrReadOnly) {
		t.Errorf("to write through a web server: %v; want ErrReadOnly", err)
	}
}

func wantPointer(t *testing.T, address string) {
	t.Helper()
	o, err := Open(ctx, address, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := o.GetPointer(ctx, "p"); err != nil || string(v) != "v" {
		t.Errorf("%q, %v", v, err)
	}
}

func TestBadAddress(t *testing.T) {
	for _, bad := range []string{"", "dir", "dir:", "x:y", "/path", "s3://", "s3:bucket", "oci:layout", "oci://h", "oci://h.example/a:tag!", "oci://h.example/a:tag?x=y", "s3://bucket?x=y", "https://", "https://h?x=y", "http://example.com"} {
		_, err := Open(ctx, bad, Options{})
		var wrong *URLError
		if !errors.As(err, &wrong) || wrong.URL != bad {
			t.Errorf("%q: %v; want a URLError", bad, err)
		}
	}
}

// TestImageIsToBeRead: nobody publishes into an image at a tag.
func TestImageIsToBeRead(t *testing.T) {
	_, err := Open(ctx, "oci://localhost:1/a:tag", Options{Create: true})
	var wrong *URLError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "leave out the tag") {
		t.Errorf("%v; want a URLError", err)
	}
}

// TestAddressWithPassword: an address that may have a secret in it is refused, and
// the secret is not repeated, whoever parses it.
func TestAddressWithPassword(t *testing.T) {
	for _, bad := range []string{
		"s3://user:hunter2@bucket/p", "https://hunter2@host/p", "s3://bucket?endpoint=https://user:hunter2@host",
		"s3://bucket?endpoint=https%3A%2F%2Fuser%3Ahunter2%40host", "s3://bucket?secret=hunter2", "ftp://user:hunter2@host", "oci://host/user:hunter2@x", "x://host?password=hunter2",
	} {
		_, err := Open(ctx, bad, Options{})
		var wrong *URLError
		if !errors.As(err, &wrong) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v; want a URLError without the password", bad, err)
		}
		if got, err := Absolute(bad); !errors.As(err, &wrong) || got != "" || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: absolute it is %s, %v; want a URLError", bad, got, err)
		}
	}
	if _, err := Absolute("dir:/a//b@c"); err != nil {
		t.Errorf("a folder: %v", err)
	}
}

func TestNear(t *testing.T) {
	for address, want := range map[string]bool{"dir:x": true, "s3://bucket": false, "oci://h.example/a": false, "https://h": false, "http://localhost": false, "x": false} {
		if Near(address) != want {
			t.Errorf("%s: near is not %v", address, want)
		}
	}
}

func TestAbsolute(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"dir:a/../b":                    "dir:" + filepath.Join(here, "b"),
		"dir:/a":                        "dir:/a",
		"dir:":                          "dir:",
		"s3://bucket/p?region=r":        "s3://bucket/p?region=r",
		"https://h/p?ca=/etc/f":         "https://h/p?ca=%2Fetc%2Ff",
		"oci://h.example/a:tag?ca=/f":   "oci://h.example/a:tag?ca=%2Ff",
		"s3://bucket/p?region=r&ca=x/f": "s3://bucket/p?ca=" + strings.ReplaceAll(filepath.Join(here, "x/f"), "/", "%2F") + "&region=r",
	} {
		if got, err := Absolute(address); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", address, got, err, want)
		}
	}
}
