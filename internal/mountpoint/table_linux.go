package mountpoint

import (
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Table returns those of this process's mounts that a filter takes, in the order of mounting. A nil filter takes all.
// What file systems say of themselves (VFSOptions) is left out.
func Table(filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mount table: %w", err)
	}
	return parse(string(table), filter)
}

// parse reads a table in the form of mountinfo (proc(5)). It cuts each line behind its type and source: the options
// that follow name every layer of an overlay, and the library takes lines of at most 64 KiB.
func parse(table string, filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	const separator = " - "
	var short strings.Builder
	for line := range strings.Lines(table) {
		before, after, _ := strings.Cut(line, separator)
		if f := strings.SplitN(after, " ", 3); len(f) == 3 {
			line = before + separator + f[0] + " " + f[1] + " \n" // the library wants options, which may be none
		}
		short.WriteString(line)
	}
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(short.String()), filter)
	if err != nil {
		return nil, fmt.Errorf("mount table: %w", err)
	}
	return mounts, nil
}
