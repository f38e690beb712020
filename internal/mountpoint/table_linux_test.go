package mountpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/rivuletfs/rivulet/internal/mountpoint/mountpointtest"
)

func TestParse(t *testing.T) {
	layers := "rw,lowerdir=" + strings.Repeat("/var/lib/layers/1:", 200<<10/18)
	table := `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /mnt/a\040b\134c ro,nosuid shared:9 master:2 - fuse.rivulet rivulet ro
31 22 0:41 / /mnt/c rw - overlay overlay ` + layers + `
32 22 0:42 / /mnt/d rw - tmpfs  rw
33 22 0:43 / /mnt/e rw - cifs //host/share rw,unc=a - b
34 22 7:3 / /mnt/f ro - ext4 /dev/loop3 ro
`
	mounts, err := parse(table, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mounts {
		got = append(got, strings.Join([]string{m.Mountpoint, m.FSType, m.Source}, "|"))
	}
	want := []string{
		"/|ext4|/dev/root", `/mnt/a b\c|fuse.rivulet|rivulet`, "/mnt/c|overlay|overlay", "/mnt/d|tmpfs|", "/mnt/e|cifs|//host/share",
		"/mnt/f|ext4|/dev/loop3",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", got, want)
	}
	if m := mounts[1]; m.ID != 30 || m.Optional != "shared:9 master:2" {
		t.Errorf("%+v", m)
	}
	if one, err := parse(table, mountinfo.SingleEntryFilter("/mnt/c")); err != nil || len(one) != 1 {
		t.Errorf("filtered: %v, %v", one, err)
	}
	for _, bad := range []string{"x", "1 2 3 4 5 - ext4 x", "22 1 254:0 / / rw ext4 /dev/root rw x y", strings.Repeat("x", 200<<10)} {
		if got, err := parse(bad, nil); err == nil {
			t.Errorf("line %.40q: %+v", bad, got)
		}
	}
}

// TestResolveDead wants the name of a mount that nobody can look at.
func TestResolveDead(t *testing.T) {
	dead := mountpointtest.Dead(t)
	dir, err := filepath.EvalSymlinks(filepath.Dir(dead))
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, filepath.Base(dead))
	for _, end := range []string{"", "/", "/.", "//././"} {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(dead+end, link); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{dead + end, link, link + end} {
			if got, err := Resolve(path); err != nil || got != dir {
				t.Errorf("%s, a link to it and %q: %s, %v; want %s", path, end, got, err, dir)
			}
		}
	}
}

func TestTable(t *testing.T) {
	if _, err := os.Stat("/proc/thread-self/mountinfo"); err != nil {
		t.Skip("needs proc: ", err)
	}
	if got, err := Table(mountinfo.SingleEntryFilter("/proc")); err != nil || len(got) != 1 || got[0].FSType != "proc" {
		t.Errorf("/proc: %+v, %v", got, err)
	}
}
