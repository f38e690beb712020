package packages

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// addInstallation puts an installation of size bytes into c that was used so long ago.
func addInstallation(t *testing.T, c *Cache, name string, size int64, ago ...time.Duration) *Installed {
	t.Helper()
	in := &Installed{Key: strings.Repeat(fmt.Sprintf("%02x", name[0]), 32), Name: name, DiffID: "sha256:" + strings.Repeat("0", 64), Size: size}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var uses strings.Builder
	for _, d := range ago {
		fmt.Fprintln(&uses, time.Now().Add(-d).UnixNano())
	}
	for file, data := range map[string][]byte{
		c.path("installed", in.Key+".tar"):  make([]byte, size),
		c.path("installed", in.Key+".json"): data,
		c.path("uses", "installed-"+in.Key): []byte(uses.String()),
	} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func TestTrim(t *testing.T) {
	ctx := context.Background()
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	addInstallation(t, c, "often", 1000, 40*day, 39*day, 38*day)
	addInstallation(t, c, "lately", 1000, 2*day) // once, so it goes before what was used often
	addInstallation(t, c, "now", 100_000, time.Minute)
	addInstallation(t, c, "unused", 1000)
	held := addInstallation(t, c, "held", 1000)
	base := c.path("bases", strings.Repeat("ab", 32))
	gone := c.path("uses", "files-gone")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(base, "root"), 0o700),
		os.WriteFile(filepath.Join(base, "bytes"), []byte("5000"), 0o600),
		os.WriteFile(gone, nil, 0o600),
		os.Chtimes(gone, time.Now(), time.Now().Add(-2*forgotten)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := c.lock(ctx, "package-"+held.Key) // somebody makes it
	if err != nil {
		t.Fatal(err)
	}
	names := func() string {
		list, err := c.List()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, in := range list {
			out = append(out, in.Name)
		}
		return strings.Join(out, " ")
	}
	c.Bound = 102_000
	if err := c.Trim(ctx); err != nil || names() != "held lately now often unused" {
		t.Errorf("nothing was added: %s, %v", names(), err)
	}
	c.grew()
	if err := c.Trim(ctx); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "held now often" {
		t.Errorf("left are %s", got)
	}
	for _, p := range []string{base, gone} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is there still", p)
		}
	}
	unlock()
	c.Bound = 1
	c.grew()
	if err := c.Trim(ctx); err != nil || names() != "now" {
		t.Errorf("beyond any bound: %s, %v", names(), err)
	}
}

func TestUses(t *testing.T) {
	c, err := OpenCache(filepath.Join(t.TempDir(), "of [me")) // which is no pattern
	if err != nil {
		t.Fatal(err)
	}
	for range maxUses + 3 {
		c.used(fileKind, "x")
	}
	if uses := readUses(c.path("uses", "files-x")); len(uses) != maxUses || !slices.IsSortedFunc(uses, time.Time.Compare) || time.Since(uses[0]) > time.Minute {
		t.Errorf("uses %v", uses)
	}
	if err := os.WriteFile(c.path("uses", "files-x"), []byte("x\n\n12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if uses := readUses(c.path("uses", "files-x")); len(uses) != 1 {
		t.Errorf("of a file that is damaged: %v", uses)
	}
}

// TestGive has a thing used after it was chosen to go.
func TestGive(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := addInstallation(t, c, "x", 1000, 48*time.Hour)
	things, err := c.things()
	if err != nil || len(things) != 1 {
		t.Fatalf("%d things: %v", len(things), err)
	}
	c.used(installedKind, in.Key)
	if err := c.give(things[0]); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.installed(in.Key); !ok {
		t.Error("it is gone, while somebody uses it")
	}
}

// TestSweep leaves what killed processes leave, and what a living one makes.
func TestSweep(t *testing.T) {
	ctx := context.Background()
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	left := []string{c.path("bases", ".ab.X", "root"), c.path("installed", ".cd.tar.X"), c.path("installed", ".cd.json.X"), c.path("files", ".12.X", "file")}
	held := c.path("bases", ".ef.X")
	for _, p := range append(left, held) {
		if err := os.MkdirAll(p, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := c.lock(ctx, "base-ef")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	c.grew()
	if err := c.Trim(ctx); err != nil {
		t.Fatal(err)
	}
	for _, p := range left {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is there still", p)
		}
	}
	if _, err := os.Stat(held); err != nil {
		t.Errorf("what somebody makes: %v", err)
	}
}
