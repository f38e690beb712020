package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
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
	for _, program := range []string{"containerd", "runc", "registry", "mkfs.erofs", "containerd-stargz-grpc", "soci-snapshotter-grpc", "redis-server"} {
		if v := versionOf(ctx, program); v != "" {
			list = append(list, program+" "+v)
		}
	}
	return list
}

// machine returns the line that says what results depend on. Its identity is another one if rivulet's
// programs are another build, or a fact is another one.
func (b *bench) machine(ctx context.Context) (*result, error) {
	snapshotter, err := identity("containerd-rivulet")
	if err != nil {
		return nil, err
	}
	known := facts(ctx)
	h := sha256.Sum256([]byte(strings.Join(append([]string{b.publisher, snapshotter}, known...), "\n")))
	return &result{Kind: kindMachine, Identity: hex.EncodeToString(h[:6]), Facts: known}, nil
}

var number = regexp.MustCompile(`\d+\.\d+[\w.+~-]*`)

// versionOf returns a program's version, "" if it is not here: what it was built from, or what it says.
func versionOf(ctx context.Context, program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	if info, err := buildinfo.ReadFile(path); err == nil {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
		if strings.HasPrefix(info.Main.Version, "v") {
			return info.Main.Version
		}
	}
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return ""
	}
	return number.FindString(string(out))
}
