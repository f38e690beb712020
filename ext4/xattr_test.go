package ext4

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// acl makes an ACL of entries of tag, permissions and ID as system calls
// carry it.
func acl(entries ...[3]uint32) []byte {
	p := le.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		p = le.AppendUint16(p, uint16(e[0]))
		p = le.AppendUint16(p, uint16(e[1]))
		p = le.AppendUint32(p, e[2])
	}
	return p
}

const noID = 1<<32 - 1

var fullACL = acl([3]uint32{aclUserObj, 7, noID}, [3]uint32{aclUser, 6, 1000}, [3]uint32{aclUser, 5, 1 << 31},
	[3]uint32{aclGroupObj, 5, noID}, [3]uint32{aclGroup, 4, 70_000}, [3]uint32{aclMask, 7, noID}, [3]uint32{aclOther, 1, noID})

func TestXattrs(t *testing.T) {
	body := func(n int) []byte { return bytes.Repeat([]byte{0xa5}, n) }
	var many []Xattr
	for i := range 40 {
		many = append(many, Xattr{"trusted." + strings.Repeat("n", 40-i), body(i)})
	}
	cases := []struct {
		name  string
		list  []Xattr
		block bool
	}{
		{"none", nil, false},
		{"empty value", []Xattr{{"user.a", nil}}, false},
		{"inode full", []Xattr{{"user.a", body(92 - 4 - 20)}}, false},
		{"inode over", []Xattr{{"user.a", body(92 - 4 - 20 + 1)}}, true},
		{"block full", []Xattr{{"user.a", body(BlockSize - 32 - 4 - 20)}}, true},
		{"both", []Xattr{{"user.large", body(3000)}, {"security.selinux", []byte("system_u:object_r:bin_t:s0\x00")}, {"user.s", []byte("x")}}, true},
		{"many", many, true},
		{"longest name", []Xattr{{"user." + strings.Repeat("n", 255-5), body(9)}}, true},
		{"not ASCII", []Xattr{{"user.größe", body(10)}, {"trusted.\xff\x80", body(100)}}, true},
		{"ACL", []Xattr{{"system.posix_acl_access", fullACL}, {"user.a", body(1)}, {"trusted.z", body(200)}}, true},
		{"capability", []Xattr{{"security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}}, false},
	}
	root := directoryNode()
	for _, test := range cases {
		x, err := encodeXattrs(test.list)
		if err != nil || (x.block != nil) != test.block {
			t.Errorf("%s: block %t, want %t, %v", test.name, x.block != nil, test.block, err)
		}
		n := regularNode([]byte(test.name))
		if test.name == "ACL" {
			n.inode.Mode = ModeRegular | 0o771 // the group's bits are the mask's
		}
		n.inode.Xattrs = test.list
		root.entries = append(root.entries, entry{test.name, n})
	}
	dir := directoryNode()
	dir.inode.Xattrs = []Xattr{{"system.posix_acl_default", fullACL}}
	root.entries = append(root.entries, entry{"directory", dir})
	link := linkNode(strings.Repeat("t", 60))
	link.inode.Xattrs = []Xattr{{"trusted.a", body(500)}}
	root.entries = append(root.entries, entry{"link", link})
	disk := build(t, testConfig(), root, 0).file(t)
	fsck(t, disk)
	compareTree(t, mountDisk(t, disk, "ro,noload"), root)
}

func TestXattrOrder(t *testing.T) {
	a := []Xattr{{"user.bb", []byte("1")}, {"user.c", []byte("2")}, {"security.a", make([]byte, 90)}, {"trusted.a", make([]byte, 80)}}
	b := []Xattr{a[3], a[1], a[2], a[0]}
	x, err := encodeXattrs(a)
	must(t, err)
	y, err := encodeXattrs(b)
	must(t, err)
	if x.body != y.body || !bytes.Equal(x.block, y.block) {
		t.Error("the order in which attributes come changes their encoding")
	}
}

func TestBadXattrs(t *testing.T) {
	value := make([]byte, BlockSize-32-4-20+1)
	for _, test := range []struct {
		name string
		list []Xattr
		want error
	}{
		{"no prefix", []Xattr{{"a", nil}}, ErrXattr},
		{"unknown prefix", []Xattr{{"other.a", nil}}, ErrXattr},
		{"empty name", []Xattr{{"user.", nil}}, ErrXattr},
		{"NUL", []Xattr{{"user.a\x00", nil}}, ErrXattr},
		{"long name", []Xattr{{"user." + strings.Repeat("n", 256), nil}}, ErrXattr},
		{"inline data", []Xattr{{"system.data", nil}}, ErrXattr},
		{"twice", []Xattr{{"user.a", nil}, {"user.b", nil}, {"user.a", []byte("x")}}, ErrXattr},
		{"large value", []Xattr{{"user.a", value}}, ErrXattrTooLarge},
		{"huge value", []Xattr{{"user.a", make([]byte, 1<<20)}}, ErrXattrTooLarge},
		{"large together", []Xattr{{"user.a", value[:2500]}, {"user.b", value[:2500]}}, ErrXattrTooLarge},
		{"empty ACL", []Xattr{{"system.posix_acl_access", nil}}, ErrXattr},
		{"ACL on the disk's form", []Xattr{{"system.posix_acl_access", []byte{1, 0, 0, 0}}}, ErrXattr},
		{"short ACL", []Xattr{{"system.posix_acl_default", fullACL[:len(fullACL)-1]}}, ErrXattr},
		{"ACL tag", []Xattr{{"system.posix_acl_default", acl([3]uint32{3, 7, noID})}}, ErrXattr},
	} {
		w, _ := newTestWriter(t, testConfig())
		ino := &Inode{Number: FirstInode, Mode: ModeRegular, Links: 1, Xattrs: test.list}
		if err := w.Add(ino); !errors.Is(err, test.want) || !strings.Contains(err.Error(), "inode 11") {
			t.Errorf("%s: %v", test.name, err)
		}
		if ino.Xattrs = nil; w.Add(ino) != nil {
			t.Errorf("%s: writer is of no use afterwards", test.name)
		}
	}
}

func FuzzXattrs(f *testing.F) {
	f.Add("user.a", []byte("x"), "trusted.b", []byte("y"))
	f.Add("system.posix_acl_access", fullACL, "security.capability", make([]byte, 20))
	f.Fuzz(func(t *testing.T, name1 string, value1 []byte, name2 string, value2 []byte) {
		x, err := encodeXattrs([]Xattr{{name1, value1}, {name2, value2}})
		if err != nil {
			return
		}
		if x.block != nil && len(x.block) != BlockSize {
			t.Errorf("block of %d bytes", len(x.block))
		}
	})
}
