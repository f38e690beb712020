package loopmount

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// An entry is one line of /proc/self/mountinfo, see proc(5).
type entry struct {
	id     string // of the mount
	dir    string // mount point
	fsType string
	source string
}

// parseMountinfo reads the whole table, in the order of mounting.
func parseMountinfo(r io.Reader) ([]entry, error) {
	var all []entry
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20) // an overlay's options name every layer
	for s.Scan() {
		e, err := parseEntry(s.Text())
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	return all, nil
}

// parseEntry splits a line at its lone hyphen: before it a growing number of
// fields of which the first is an ID and the fifth the mount point, after it type and source.
func parseEntry(line string) (entry, error) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Split(before, " "), strings.Split(after, " ")
	if !ok || len(left) < 6 || len(right) < 2 {
		return entry{}, fmt.Errorf("mountinfo line %q: too few fields", line)
	}
	return entry{id: left[0], dir: unescape(left[4]), fsType: right[0], source: unescape(right[1])}, nil
}

// unescape undoes the kernel's \ooo for space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isOctal tells three octal digits of a value up to 255.
func isOctal(s string) bool {
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' && s[2] >= '0' && s[2] <= '7'
}

// at returns the mounts at dir, the topmost last.
func at(all []entry, dir string) []entry {
	var there []entry
	for _, e := range all {
		if e.dir == dir {
			there = append(there, e)
		}
	}
	return there
}

// holding returns the mount that a file lies on: the last of those with the
// longest mount point above it.
func holding(all []entry, file string) (entry, bool) {
	best, found := entry{}, false
	for _, e := range all {
		if within(file, e.dir) && (!found || len(e.dir) >= len(best.dir)) {
			best, found = e, true
		}
	}
	return best, found
}

func within(file, dir string) bool {
	return dir == "/" || file == dir || strings.HasPrefix(file, dir+"/")
}
