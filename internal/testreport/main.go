// Testreport turns the output of "go test -json" into what a person wants to
// read: a line a package, all that a failed test said, and every skipped test
// with its reason, which go test hides. It exits with 1 if anything failed.
//
//	go test -json ./... | go run ./internal/testreport
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// An event is a line of "go test -json" (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

// A report gathers what the tests said until it is known whether they passed.
type report struct {
	out                     io.Writer
	said                    map[[2]string][]string // by package and test
	passed, failed, skipped int
	broken                  int // packages that failed without a failed test
	skips                   []string
	failedIn                map[string]bool
}

func main() {
	r := &report{out: os.Stdout, said: map[[2]string][]string{}, failedIn: map[string]bool{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(r.out, lines.Text()) // not of a test: the build's
			continue
		}
		r.add(&e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	os.Exit(r.end())
}

func (r *report) add(e *event) {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "output":
		r.said[key] = append(r.said[key], e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
		} else {
			r.endTest(e)
		}
		delete(r.said, key)
	}
}

func (r *report) endTest(e *event) {
	said := r.said[[2]string{e.Package, e.Test}]
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		r.failedIn[e.Package] = true
		fmt.Fprint(r.out, strings.Join(said, ""))
	case "skip":
		r.skipped++
		r.skips = append(r.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(said)))
	}
}

// reason is what a skipped test said, without the frame that go test puts
// around it.
func reason(said []string) string {
	var words []string
	for _, line := range said {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if file, rest, ok := strings.Cut(line, ": "); ok && strings.Contains(file, ".go:") {
			line = rest
		}
		words = append(words, line)
	}
	return strings.Join(words, " ")
}

func (r *report) endPackage(e *event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok  \t%s\t%.3fs\n", e.Package, e.Elapsed)
	case "fail":
		if !r.failedIn[e.Package] {
			r.broken++
			fmt.Fprint(r.out, strings.Join(r.said[[2]string{e.Package, ""}], ""))
		}
		fmt.Fprintf(r.out, "FAIL\t%s\t%.3fs\n", e.Package, e.Elapsed)
	}
}

// end prints what was skipped and the sum, and returns the exit status.
func (r *report) end() int {
	if len(r.skips) > 0 {
		fmt.Fprintln(r.out, "\nskipped here:")
		for _, s := range r.skips {
			fmt.Fprintln(r.out, "  "+s)
		}
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed+r.broken, r.skipped)
	if r.failed+r.broken > 0 || r.passed == 0 {
		return 1
	}
	return 0
}
