// Package programpages gives back the pages of the program that only its start
// needed.
//
// A start runs the initialisation of every package, builds the command line, opens what
// is to be served. It touches code and tables all over a large program, the kernel maps
// 64 KiB around each touch, and all of that counts as resident for as long as the process
// lives, though most is never looked at again. It is three quarters of what a process
// with one idle disk takes.
package programpages

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A mapping is where a part of the program's file lies in memory.
type mapping struct{ from, to uint64 }

// errSyntax is of a table of mappings that the kernel did not write.
var errSyntax = errors.New("malformed table of mappings")

// clean returns the mappings of program that the process cannot write and has not
// changed: what the dynamic linker relocated, or a debugger put a breakpoint into, is
// nowhere but in memory. smaps is a table as /proc/self/smaps has it. It is read no
// further than it must be, since the kernel counts pages for each line.
func clean(smaps io.Reader, program string) ([]mapping, error) {
	var list []mapping
	var now mapping
	seen, candidate := false, false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		key, value, _ := strings.Cut(line, " ")
		switch {
		case key == "Anonymous:":
			if changed, err := kibibytes(value); err != nil {
				return nil, err
			} else if candidate && changed == 0 {
				list = append(list, now)
			}
			candidate = false
		case !strings.HasSuffix(key, ":"):
			m, mode, path, err := parse(line)
			if err != nil {
				return nil, err
			}
			if path != program && seen {
				return list, nil // the file's mappings lie one after the other
			}
			now, candidate = m, path == program && strings.HasPrefix(mode, "r-")
			seen = seen || path == program
		}
	}
	return list, lines.Err()
}

// parse reads the first line of a mapping: its range, mode, offset, device, inode and,
// after spaces, path.
func parse(line string) (m mapping, mode, path string, err error) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 5 {
		return m, "", "", fmt.Errorf("%w: %.100q", errSyntax, line)
	}
	from, to, _ := strings.Cut(fields[0], "-")
	var errTo error
	m.from, err = strconv.ParseUint(from, 16, 64)
	m.to, errTo = strconv.ParseUint(to, 16, 64)
	if err != nil || errTo != nil || m.from >= m.to {
		return m, "", "", fmt.Errorf("%w: range %.100q", errSyntax, fields[0])
	}
	if len(fields) == 6 {
		path = strings.TrimLeft(fields[5], " ")
	}
	return m, fields[1], path, nil
}

// kibibytes reads a count of the form "   12 kB".
func kibibytes(s string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(s), " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: count %.100q", errSyntax, s)
	}
	return n, nil
}
