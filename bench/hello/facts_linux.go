package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

var processorName = regexp.MustCompile(`(?m)^model name\s*: (.*)$`)

// facts are what a result depends on: the machine, and versions of programs.
func facts(ctx context.Context) []string {
	var list []string
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		list = append(list, "Linux "+unix.ByteSliceToString(name.Release[:]))
	}
	var memory unix.Sysinfo_t
	if unix.Sysinfo(&memory) == nil {
		list = append(list, fmt.Sprintf("%d GiB of memory", (memory.Totalram*uint64(memory.Unit)+1<<29)>>30))
	}
	processor := "processors"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := processorName.FindSubmatch(text); m != nil {
			processor = string(m[1])
		}
	}
	list = append(list, fmt.Sprintf("%d × %s", runtime.NumCPU(), processor), runtime.Version())
	for _, args := range [][]string{
		{"containerd", "--version"}, {"runc", "--version"}, {"registry", "--version"}, {"containerd-rivulet", "--version"}, {"mkfs.erofs", "--version"},
		{"containerd-stargz-grpc", "--version"}, {"soci-snapshotter-grpc", "--version"}, {"redis-server", "--version"},
	} {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			continue // it is not here, or does not say
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if !strings.HasPrefix(first, args[0]) {
			first = args[0] + ": " + first
		}
		list = append(list, first)
	}
	return list
}
