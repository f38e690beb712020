package loopmount

import (
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestTable(t *testing.T) {
	all, err := mountinfo.GetMountsFromReader(strings.NewReader(`22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /mnt/disks ro,nosuid shared:9 master:2 - fuse.rivulet rivulet ro
31 22 0:26 / /mnt/disks2 ro - tmpfs tmpfs rw
32 22 7:3 / /mnt/a\040b\134c ro - ext4 /dev/loop3 ro
33 22 7:4 / /mnt/twice ro - ext4 /dev/loop4 ro
34 22 7:5 / /mnt/twice ro - ext4 /dev/loop5 ro
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		`/mnt/a b\c`: "/dev/loop3",
		"/mnt/twice": "/dev/loop4 /dev/loop5", // the topmost last
		"/mnt":       "",
	} {
		var got []string
		for _, m := range at(all, dir) {
			got = append(got, m.Source)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("at %s: %q, want %q", dir, got, want)
		}
	}
	for file, want := range map[string]string{
		"/mnt/disks/x":  "/mnt/disks",
		"/mnt/disks2/x": "/mnt/disks2",
		"/mnt/disks":    "/mnt/disks",
		"/mnt/disk":     "/",
	} {
		if m := holding(all, file); m == nil || m.Mountpoint != want {
			t.Errorf("holding %s: %+v, want %q", file, m, want)
		}
	}
	if m := holding(nil, "/x"); m != nil {
		t.Errorf("a mount found in no table: %+v", m)
	}
}
