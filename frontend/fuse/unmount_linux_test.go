package fuse

import "testing"

func TestTopmost(t *testing.T) {
	const table = `22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/a\040b ro,nosuid - fuse.rivulet rivulet ro
31 22 0:41 / /mnt/c ro - fuse.rivulet rivulet ro
32 22 0:42 / /mnt/c ro - fuse.sshfs host:/ rw
33 22 0:43 / /mnt/d ro master:3 shared:4 - fuse.rivulet rivulet ro
short line
`
	for dir, want := range map[string]bool{"/": false, "/mnt/a b": true, "/mnt/c": false, "/mnt/d": true, "/mnt": false, "/mnt/e": false} {
		if got := topmost(table, dir); got != want {
			t.Errorf("%s: %v, want %v", dir, got, want)
		}
	}
}
