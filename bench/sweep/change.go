package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/ext4"
)

// addedTo are the images whose second layer gets one package more.
var addedTo = []string{"python3", "nginx", "nodejs", "openjdk", "postgres"}

// made returns a file of size bytes with content that is nowhere else; version
// tells two of one path apart.
func made(path string, size int64, version int) file {
	f := file{path: path, size: size}
	for left := size; left > 0; left -= ext4.BlockSize {
		name := fmt.Appendf(nil, "%s %d %d %d", path, size, version, left)
		f.add(append(name, make([]byte, 64)...))
		f.last[len(f.last)-1] = uint16(min(left, ext4.BlockSize))
	}
	f.finish()
	return f
}

// aPackage is what one more package brings and changes: 30 small files and a
// library of 300 KiB, where dpkg puts them, and the files that list packages.
func aPackage() []file {
	const doc, info = "usr/share/doc/libsweep1/", "var/lib/dpkg/info/libsweep1:amd64."
	out := []file{
		made("usr/lib/x86_64-linux-gnu/libsweep.so.1.0.0", 300<<10, 0),
		made("usr/bin/sweepctl", 30<<10, 0), made("usr/share/man/man1/sweepctl.1.gz", 2<<10, 0),
		made(doc+"copyright", 3<<10, 0), made(doc+"changelog.Debian.gz", 1<<10, 0), made(doc+"NEWS.gz", 900, 0),
		made(info+"list", 1500, 0), made(info+"md5sums", 1800, 0), made(info+"shlibs", 30, 0),
		made(info+"symbols", 4000, 0), made(info+"triggers", 60, 0), made(info+"postinst", 200, 0),
	}
	for i := range 19 {
		out = append(out, made(fmt.Sprintf("usr/share/libsweep/table%02d.dat", i), int64(700+i*1301), 0))
	}
	return out
}

// listings are files that every installation of a package writes anew.
var listings = []string{"etc/ld.so.cache", "var/cache/ldconfig/aux-cache", "var/lib/dpkg/status", "var/lib/dpkg/status-old",
	"var/log/apt/history.log", "var/log/apt/term.log", "var/log/dpkg.log", "var/log/alternatives.log", "var/lib/apt/extended_states"}

// withPackage returns the files of a layer that installed one package more.
func withPackage(files []file) []file {
	out := append(slices.Clone(files), aPackage()...)
	for i := range files {
		if slices.Contains(listings, files[i].path) {
			out[i] = made(files[i].path, files[i].size+400, 1)
		}
	}
	slices.SortStableFunc(out, func(a, b file) int { return strings.Compare(walkKey(a.path), walkKey(b.path)) })
	return out
}

// walkKey orders paths as a walk does.
func walkKey(path string) string { return strings.ReplaceAll(path, "/", "\x00") }

// added measures one package more.
func (c *collection) added(f *figures, segments map[string]*segment) error {
	f.packages = make(map[string]float64)
	for _, name := range addedTo {
		ids := c.layers[name]
		if len(ids) < 2 {
			continue
		}
		after, err := cut(withPackage(c.byID[ids[1]].files), f.point)
		if err != nil {
			return err
		}
		before := c.chunks(name, segments)
		all := make(map[chunkID]bool)
		for i, id := range ids {
			if i != 1 {
				segments[id].into(all)
			}
		}
		after.into(all)
		f.packages[name] = float64(missing(all, before)) / float64(len(all))
	}
	return nil
}

// changed measures the change of one small file of a large layer: to another
// of the same size, one longer by 5000 bytes, one of half the size.
func (c *collection) changed(f *figures, segments map[string]*segment) error {
	ids := c.layers[changedImage]
	if len(ids) < 2 {
		return nil
	}
	id := ids[len(ids)-2]
	files := c.byID[id].files
	before := make(map[chunkID]bool)
	segments[id].into(before)
	const samples = 40
	for n := range samples {
		i := (2*n + 1) * len(files) / (2 * samples)
		for files[i].size > 64<<10 {
			i++
		}
		for v, size := range []int64{files[i].size, files[i].size + 5000, (files[i].size + 1) / 2} {
			edited := slices.Clone(files)
			edited[i] = made(files[i].path, size, 1+v)
			s, err := cut(edited, f.point)
			if err != nil {
				return err
			}
			after := make(map[chunkID]bool)
			s.into(after)
			f.fresh = append(f.fresh, missing(after, before))
		}
	}
	slices.Sort(f.fresh)
	return nil
}
