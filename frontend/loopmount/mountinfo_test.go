package loopmount

import (
	"strings"
	"testing"
)

const table = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /mnt/disks ro,nosuid shared:9 master:2 - fuse.rivulet rivulet ro
31 22 0:26 / /mnt/disks2 ro - tmpfs tmpfs rw
32 22 7:3 / /mnt/a\040b\134c ro - ext4 /dev/loop3 ro
33 22 7:4 / /mnt/twice ro - ext4 /dev/loop4 ro
34 22 7:5 / /mnt/twice ro - ext4 /dev/loop5 ro
`

func TestMountinfo(t *testing.T) {
	all, err := parseMountinfo(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		`/mnt/a b\c`: "/dev/loop3",
		"/mnt/twice": "/dev/loop4 /dev/loop5", // the topmost last
		"/mnt":       "",
	} {
		var got []string
		for _, e := range at(all, dir) {
			got = append(got, e.source)
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
		if e, ok := holding(all, file); e.dir != want || !ok {
			t.Errorf("holding %s: %q, want %q", file, e.dir, want)
		}
	}
	if _, ok := holding(nil, "/x"); ok {
		t.Error("a mount found in no table")
	}
	for _, line := range []string{"x", "1 2 3 4 5 - ext4 x", "22 1 254:0 / / rw - ext4", strings.Repeat("x", 2<<20)} {
		if _, err := parseMountinfo(strings.NewReader(line)); err == nil {
			t.Errorf("line %.40q parsed", line)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain": "plain", `a\040b`: "a b", `\134`: `\`, `\04`: `\04`, `\`: `\`, `\400`: `\400`, `\089`: `\089`, `\377`: "\xff",
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add(table)
	f.Add("22 1 254:0 / /\\0401 rw - ext4 /dev/root rw")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := parseMountinfo(strings.NewReader(s))
		if err != nil {
			return
		}
		if len(all) > strings.Count(s, "\n")+1 {
			t.Fatal("more mounts than lines")
		}
		for _, e := range all {
			if len(at(all, e.dir)) == 0 {
				t.Fatalf("mount at %q not found again", e.dir)
			}
			if _, ok := holding(all, e.dir); !ok {
				t.Fatalf("mount holding %q not found", e.dir)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{BlockSize: 1}, {BlockSize: 8192}, {BlockSize: -512}, {ReadAhead: 4097}} {
		if _, err := o.check(); err == nil {
			t.Errorf("%+v accepted", o)
		}
	}
	if o, err := (Options{}).check(); err != nil || o.BlockSize != 512 {
		t.Errorf("zero options: %+v, %v", o, err)
	}
}
