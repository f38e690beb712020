// Package lateregexp compiles regular expressions when they are first used: every
// command's start would pay for those of all packages otherwise, in time and in memory
// that an idle process keeps.
package lateregexp

import (
	"regexp"
	"sync"
)

// New returns a function that returns the compiled expr, the same each time; it panics if
// expr is no regular expression, as regexp.MustCompile does. Any number of calls may run at
// once.
func New(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
