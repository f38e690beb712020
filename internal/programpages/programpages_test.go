package programpages

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// table is of a program with relocations, between other mappings.
const table = `00400000-00f5c000 r-xp 00000000 fe:00 12345                              /usr/bin/a rivulet (deleted)
Size:              11632 kB
Rss:                9328 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00f5c000-01af8000 r--p 00b5c000 fe:00 12345                              /usr/bin/a rivulet (deleted)
Rss:                7792 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
01af8000-01b00000 r--p 016f8000 fe:00 12345                              /usr/bin/a rivulet (deleted)
Anonymous:            32 kB
01b00000-01b89000 rw-p 016f8000 fe:00 12345                              /usr/bin/a rivulet (deleted)
Anonymous:             0 kB
01b89000-03bf2000 rw-p 00000000 00:00 0 
Anonymous:           100 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 12345                      /usr/bin/a rivulet (deleted)
Anonymous:             0 kB
`

func TestClean(t *testing.T) {
	both := []mapping{{0x400000, 0xf5c000}, {0xf5c000, 0x1af8000}}
	for name, tc := range map[string]struct {
		table, program string
		want           []mapping
	}{
		"program":           {table, "/usr/bin/a rivulet (deleted)", both},
		"heap before it":    {"c000000000-c000400000 rw-p 00000000 00:00 0\nAnonymous: 4096 kB\n" + table, "/usr/bin/a rivulet (deleted)", both},
		"another program":   {table, "/usr/bin/a", nil},
		"breakpoint set":    {strings.Replace(table, "Anonymous:             0", "Anonymous:             4", 1), "/usr/bin/a rivulet (deleted)", both[1:]},
		"nothing":           {"", "/usr/bin/a", nil},
		"counts left out":   {"00400000-00f5c000 r-xp 00000000 fe:00 1 /a\nRss: 4 kB\n", "/a", nil},
		"not to be written": {"00400000-00f5c000 -w-p 00000000 fe:00 1 /a\nAnonymous: 0 kB\n", "/a", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := clean(strings.NewReader(tc.table), tc.program)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("got %x, %v; want %x", got, err, tc.want)
			}
		})
	}
}

func TestCleanRefuses(t *testing.T) {
	for _, bad := range []string{
		"00400000 r-xp 0 fe:00 1 /a\n",
		"00400000-00400000 r-xp 0 fe:00 1 /a\n",
		"zz-00400000 r-xp 0 fe:00 1 /a\n",
		"\n",
		"00400000-00f5c000 r-xp 0 fe:00 1 /a\nAnonymous: many kB\n",
	} {
		if got, err := clean(strings.NewReader(bad), "/a"); !errors.Is(err, errSyntax) {
			t.Errorf("%q: got %x, %v; want %v", bad, got, err, errSyntax)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add(table, "/usr/bin/a rivulet (deleted)")
	f.Add("00400000-00f5c000 r-xp 0 fe:00 1 /a\nAnonymous: 0 kB\n", "/a")
	f.Add("Anonymous: 0 kB\n", "")
	f.Fuzz(func(t *testing.T, smaps, program string) {
		list, err := clean(strings.NewReader(smaps), program)
		if err != nil && list != nil {
			t.Errorf("%x and %v", list, err)
		}
		for _, m := range list {
			if m.from >= m.to {
				t.Errorf("%x", m)
			}
		}
	})
}
