package ext4

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// makeImage makes a file system with mke2fs and opens it.
func makeImage(t testing.TB, size string, args ...string) (*FS, string) {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	args = append([]string{"-q", "-F"}, args...)
	if out, err := tool(t, "mke2fs", append(args, disk, size)...); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return openImage(t, disk), disk
}

func openImage(t testing.TB, disk string) *FS {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// makeTree makes files of many kinds that need no root.
func makeTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, p []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, p, 0o644))
	}
	write("empty", nil)
	write("short", []byte("a few bytes"))
	write("inline", bytes.Repeat([]byte("x"), 100))
	write("a/b/c/deep", bytes.Repeat([]byte("0123456789"), 10_000))
	for i := range 300 {
		write("many/"+strings.Repeat("n", i%200)+string(rune('a'+i%26))+string(rune('A'+i/26)), []byte{byte(i)})
	}
	must(t, os.Symlink("short", filepath.Join(dir, "fast")))
	must(t, os.Symlink(strings.Repeat("./", 100)+"a/b", filepath.Join(dir, "slow")))
	must(t, os.Symlink("/a/b/../b/c", filepath.Join(dir, "a/absolute")))
	must(t, os.Link(filepath.Join(dir, "short"), filepath.Join(dir, "second name")))
	return dir
}

// addSparse makes a file whose pieces need an indirect block of each level.
func addSparse(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	for _, at := range []int64{5 << 10, 1 << 20, 3 << 20, 6 << 20, 70 << 20, 75 << 20} {
		_, err = f.WriteAt([]byte("data"), at)
		must(t, err)
	}
	must(t, f.Truncate(80<<20+5))
	must(t, f.Close())
}

// mkfsModes are the kinds of file systems that the reader knows.
var mkfsModes = []struct {
	name string
	args []string
}{
	{"4k", []string{"-t", "ext4", "-b", "4096"}},
	{"2k", []string{"-t", "ext4", "-b", "2048"}},
	{"1k", []string{"-t", "ext4", "-b", "1024"}},
	{"32bit", []string{"-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum,uninit_bg"}},
	{"64bit gdt_csum", []string{"-t", "ext4", "-O", "64bit,^metadata_csum,uninit_bg"}},
	{"no checksums", []string{"-t", "ext4", "-O", "^metadata_csum,^uninit_bg"}},
	{"csum_seed", []string{"-t", "ext4", "-O", "metadata_csum_seed"}},
	{"indirect", []string{"-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"}},
	{"indirect 4k", []string{"-t", "ext4", "-b", "4096", "-O", "^extent,^64bit,^flex_bg"}},
	{"inline", []string{"-t", "ext4", "-O", "inline_data", "-I", "256"}},
	{"small inodes", []string{"-t", "ext4", "-I", "128"}},
	{"large inodes", []string{"-t", "ext4", "-I", "1024"}},
	{"meta_bg", []string{"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"}},
	{"sparse_super2", []string{"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode,sparse_super2", "-g", "1024"}},
	{"no filetype", []string{"-t", "ext4", "-O", "^filetype"}},
	{"bigalloc", []string{"-t", "ext4", "-O", "bigalloc", "-C", "16384"}},
	{"ea_inode", []string{"-t", "ext4", "-O", "ea_inode"}},
	{"ext2", []string{"-t", "ext2"}},
	{"ext3", []string{"-t", "ext3"}},
	{"revision 0", []string{"-t", "ext2", "-r", "0", "-I", "128"}},
}

func TestReadMkfs(t *testing.T) {
	sequential(t)
	small, tree := makeTree(t), makeTree(t)
	addSparse(t, tree)
	for _, mode := range mkfsModes {
		t.Run(mode.name, func(t *testing.T) {
			tree := tree
			if mode.name == "inline" {
				tree = small // mke2fs 1.47 then gives sparse files a wrong size
			}
			fsys, disk := makeImage(t, "96m", append(mode.args, "-d", tree)...)
			fsck(t, disk)
			compareFS(t, fsys, tree)
		})
	}
}

// TestFS has no large files: fstest reads byte by byte.
func TestReadFSTest(t *testing.T) {
	sequential(t)
	tree := makeTree(t)
	for _, i := range []int{0, 2, 7, 9, 14} {
		mode := mkfsModes[i]
		t.Run(mode.name, func(t *testing.T) {
			fsys, _ := makeImage(t, "16m", append(mode.args, "-d", tree)...)
			if err := fstest.TestFS(fsys, "short", "a/b/c/deep", "many"); err != nil {
				t.Error(err)
			}
		})
	}
}
