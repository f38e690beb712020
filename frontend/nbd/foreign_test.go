package nbd

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
)

// tool runs a program that must end well, and returns what it prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s (Debian: qemu-utils, libnbd-bin, python3-libnbd, fio): %v", name, err)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// foreign serves 8 MiB, half of them holes, and returns URI and flat file.
func foreign(t *testing.T) (u, flat string) {
	t.Helper()
	want := blockdevtest.Pattern(8<<20, 11)
	copy(want[1<<20:2<<20], make([]byte, 1<<20))
	flat = filepath.Join(t.TempDir(), "flat")
	if err := os.WriteFile(flat, want, 0o600); err != nil {
		t.Fatal(err)
	}
	d := blockdevtest.NewMemory(want, func(page int64) bool { return page >= 1024 })
	addr := start(t, &Server{}, Export{Name: "a disk", Description: "for tests", Device: d},
		Export{Name: "other/name", Device: d})
	return uri(t, addr, "a disk"), flat
}

func TestQemu(t *testing.T) {
	u, flat := foreign(t)
	if out := tool(t, "qemu-img", "info", u); !strings.Contains(out, "virtual size: 8 MiB") {
		t.Error(out)
	}
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", u, flat)
	copied := filepath.Join(t.TempDir(), "copy")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "-m", "16", "-W", u, copied)
	tool(t, "cmp", flat, copied)
	// Data, then a hole, of one length on one connection.
	tool(t, "qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", "-c", "read -P 0 1M 4k",
		"-c", "read 2M 64k", "-c", "read -P 0 1M 64k", u)
}

func TestLibnbd(t *testing.T) {
	u, flat := foreign(t)
	if out := tool(t, "nbdinfo", u); !strings.Contains(out, "export-size: 8388608") ||
		!strings.Contains(out, "can_multi_conn: true") || !strings.Contains(out, "is_read_only: true") {
		t.Error(out)
	}
	if out := tool(t, "nbdinfo", "--list", u); !strings.Contains(out, `export="other/name"`) ||
		!strings.Contains(out, "description: for tests") {
		t.Error(out)
	}
	if out := tool(t, "nbdinfo", "--map", u); !strings.Contains(out, "hole,zero") {
		t.Error(out)
	}
	out := strings.Join(strings.Fields(tool(t, "nbdinfo", "--map=rivulet:local", u)), " ")
	if !strings.HasPrefix(out, "0 4194304 0") || !strings.Contains(out, "4194304 4194304 1") {
		t.Errorf("map of rivulet:local: %s", out)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	tool(t, "nbdcopy", "--connections=4", "--requests=16", u, copied)
	tool(t, "cmp", flat, copied)
}

// TestNbdsh runs a script in libnbd's shell, which is a Python module. It sends through libnbd what it would refuse to send by itself.
func TestNbdsh(t *testing.T) {
	u, _ := foreign(t)
	runNbdsh(t, fmt.Sprintf(`
import errno
h.set_strict_mode(0)
h.add_meta_context("rivulet:local")
h.connect_uri(%q)
def fails(no, f):
    try:
        f()
    except nbd.Error as e:
        assert e.errnum == no, (e.errnum, no)
    else:
        assert False, "no error"
size = h.get_size()
fails(errno.EINVAL, lambda: h.pread(1, size))
fails(errno.EINVAL, lambda: h.pread(4096, size - 1))
fails(errno.EPERM, lambda: h.pwrite(b"x" * 70000, 0))
fails(errno.EPERM, lambda: h.trim(512, 0))
fails(errno.EPERM, lambda: h.zero(512, size))
fails(errno.EINVAL, lambda: h.cache(512, size))
fails(errno.EINVAL, lambda: h.block_status(512, size, lambda *a: None))
chunks = []
def chunk(buf, off, kind, err):
    chunks.append(kind)
    return 0
data = h.pread_structured(1 << 21, 0, chunk)
assert len(chunks) > 1 and nbd.READ_HOLE in chunks, chunks
chunks = []
assert h.pread_structured(1 << 21, 0, chunk, flags=nbd.CMD_FLAG_DF) == data
assert chunks == [nbd.READ_DATA], chunks
runs = []
h.block_status(1 << 20, 4 << 20, lambda c, o, e, err: runs.append((c, len(e))), flags=nbd.CMD_FLAG_REQ_ONE)
assert runs == [("rivulet:local", 2)], runs
h.flush()
h.shutdown()
`, u))
}

// runNbdsh runs a script in libnbd's shell.
func runNbdsh(t *testing.T, script string) {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import nbd").Run() == nil {
			tool(t, python, "-m", "nbd", "-c", script)
			return
		}
	}
	t.Skip("needs libnbd for Python (Debian: python3-libnbd)")
}

// foreignWriter serves a device of 16 MiB that can be written.
func foreignWriter(t *testing.T) (u string, d *blockdevtest.Scratch) {
	t.Helper()
	d = blockdevtest.NewScratch(blockdevtest.Pattern(16<<20, 12))
	return uri(t, start(t, &Server{}, Export{Name: "w", Device: d}), "w"), d
}

func TestQemuWrites(t *testing.T) {
	u, _ := foreignWriter(t)
	tool(t, "qemu-io", "-f", "raw", "-c", "write -P 7 1000 5M", "-c", "write -z 2M 64k", "-c", "write -zu 3M 64k",
		"-c", "discard 4M 4k", "-c", "write -f -P 9 15M 1M", "-c", "aio_write -P 3 8M 4M", "-c", "aio_flush", "-c", "flush", u)
	out := tool(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 7 1000 2096152", "-c", "read -P 0 2M 64k", "-c", "read -P 0 3M 64k",
		"-c", "read -P 0 4M 4k", "-c", "read -P 9 15M 1M", "-c", "read -P 3 8M 4M", "-c", "read -P 7 3211264 64k", u)
	if strings.Contains(out, "verification failed") {
		t.Error(out)
	}
}

// TestNbdcopyWrites copies a file to a device and back.
func TestNbdcopyWrites(t *testing.T) {
	u, d := foreignWriter(t)
	want := blockdevtest.Pattern(16<<20, 13)
	flat := filepath.Join(t.TempDir(), "flat")
	if err := os.WriteFile(flat, want, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "nbdcopy", "--connections=4", "--requests=16", "--flush", flat, u)
	d.Crash() // it flushed
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes than the file's are on the medium, %v", err)
	}
	tool(t, "nbdcopy", "--request-size=33554432", "--destination-is-zero", flat, u)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", u, flat)
}

func TestNbdshWrites(t *testing.T) {
	u, _ := foreignWriter(t)
	runNbdsh(t, fmt.Sprintf(`
import errno
h.set_strict_mode(0)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(%q)
def fails(no, f):
    try:
        f()
    except nbd.Error as e:
        assert e.errnum == no, (e.errnum, no)
    else:
        assert False, "no error"
size = h.get_size()
assert not h.is_read_only() and h.can_fua() and h.can_flush() and h.can_trim() and h.can_zero()
assert h.can_multi_conn() and not h.can_fast_zero()
data = bytes(range(256)) * 20000
h.pwrite(data, 777)
assert h.pread(len(data), 777) == data
h.pwrite(b"fua", 5, flags=nbd.CMD_FLAG_FUA)
h.zero(10000, 1000, flags=nbd.CMD_FLAG_NO_HOLE)
h.zero(10000, 20000)
h.trim(1 << 20, 1 << 20, flags=nbd.CMD_FLAG_FUA)
assert h.pread(10000, 1000) == bytes(10000) and h.pread(10000, 20000) == bytes(10000)
assert h.pread(1 << 20, 1 << 20) == bytes(1 << 20)
assert h.pread(1000, 0)[5:8] == b"fua"
fails(errno.ENOSPC, lambda: h.pwrite(b"x" * 70000, size - 1))
fails(errno.EINVAL, lambda: h.pwrite(b"", 0))
fails(errno.EINVAL, lambda: h.trim(512, size))
fails(errno.EINVAL, lambda: h.zero(512, 0, flags=nbd.CMD_FLAG_FAST_ZERO))
runs = []
h.block_status(1 << 20, 1 << 20, lambda c, o, e, err: runs.extend(e))
assert runs == [1 << 20, 3], runs
h.flush()
h.shutdown()
`, u))
}

func TestFioVerify(t *testing.T) {
	u, _ := foreignWriter(t)
	tool(t, "fio", "--name=x", "--ioengine=nbd", "--uri="+u, "--rw=randrw", "--bsrange=4k-2m", "--iodepth=32", "--size=16m",
		"--verify=crc32c", "--verify_state_save=0", "--fsync=20", "--output="+os.DevNull)
}

func TestFio(t *testing.T) {
	u, _ := foreign(t)
	tool(t, "fio", "--name=x", "--ioengine=nbd", "--uri="+u, "--rw=randread", "--bsrange=512-128k",
		"--blockalign=512", "--iodepth=32", "--size=8m", "--loops=2", "--output="+os.DevNull)
}

func TestURI(t *testing.T) {
	for _, c := range []struct {
		addr   net.Addr
		name   string
		secure bool
		want   string
	}{
		{&net.UnixAddr{Name: "/run/a b&c", Net: "unix"}, "x/y z?#%", false, "nbd+unix:///x%2Fy%20z%3F%23%25?socket=%2Frun%2Fa+b%26c"},
		{&net.UnixAddr{Name: "@abc", Net: "unix"}, "", true, "nbds+unix:///?socket=%00abc"},
		{&net.TCPAddr{IP: net.IPv4(1, 2, 3, 4), Port: 5}, "é", false, "nbd://1.2.3.4:5/%C3%A9"},
		{&net.TCPAddr{IP: net.IPv6unspecified, Port: 10809}, "d", true, "nbds://[::1]:10809/d"},
	} {
		got, err := URI(c.addr, c.name, c.secure)
		if err != nil || got != c.want {
			t.Errorf("URI(%v, %q) = %q, %v; want %q", c.addr, c.name, got, err, c.want)
		}
		if _, err := url.Parse(got); err != nil {
			t.Error(err)
		}
	}
	if _, err := URI(&net.IPAddr{}, "", false); err == nil {
		t.Error("URI of an IP address: no error")
	}
}
