package programpages

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// resident returns how many KiB of the program's code are in this process, after
// touching all of it if told to.
func resident(t *testing.T, touch bool) uint64 {
	t.Helper()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Skip(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = f.Close() }()
	code := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if !strings.HasSuffix(key, ":") {
			m, mode, path, err := parse(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			if code = path == program && mode == "r-xp"; code && touch {
				if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(m.from), uintptr(m.to-m.from), unix.MADV_POPULATE_READ); errno != 0 {
					t.Skipf("Linux before 5.14: %v", errno)
				}
			}
		}
		if code && key == "Rss:" {
			n, err := kibibytes(value)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no code of %s in the table: %v", program, lines.Err())
	return 0
}

func TestRelease(t *testing.T) {
	before := resident(t, true)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t, false); after >= before {
		t.Errorf("%d KiB of code are resident, before %d", after, before)
	}
}
