// Package sandbox runs programs of an image, and of strangers, on this machine: in user,
// mount, PID, IPC, UTS and network namespaces of their own, on a root that they can only
// read, without privileges, under a filter of system calls, and within bounds of memory,
// processes, processor time, time, disk and output.
//
// bubblewrap makes the namespaces. A program gets nothing of the host but the folders
// that [Spec] names, read-only, and gives nothing back but what it writes to its
// standard output: so what it leaves behind is nothing. Its disk is in memory, and is
// gone with it. All of its processes end with it, with the caller's context, and with
// the caller's process.
package sandbox

import (
	"errors"
	"io"
	"strings"
	"time"
)

// Limits bounds what a run may take. A zero field means its default.
type Limits struct {
	Memory    int64         // bytes of all processes together, and of each by the kernel; default 500 MiB
	Disk      int64         // bytes of /tmp, which are memory too; default 512 MiB
	Output    int64         // bytes written to Stdout; default 1 GiB
	Processes int           // at one time, threads counted; default 256. Without root, somewhat more
	CPU       time.Duration // of one process; default 10 min
	Time      time.Duration // of the run; default 15 min
}

func (l Limits) withDefaults() Limits {
	if l.Memory == 0 {
		l.Memory = 500 << 20
	}
	if l.Disk == 0 {
		l.Disk = 512 << 20
	}
	if l.Output == 0 {
		l.Output = 1 << 30
	}
	if l.Processes == 0 {
		l.Processes = 256
	}
	if l.CPU == 0 {
		l.CPU = 10 * time.Minute
	}
	if l.Time == 0 {
		l.Time = 15 * time.Minute
	}
	return l
}

// A Bind is a file or folder of the host that the program can read. To a socket in it, it can
// connect.
type Bind struct {
	Source string // on the host
	Dest   string // in the sandbox, below /run or /tmp
}

// A Spec says what to run. Args[0] is looked for in the root.
type Spec struct {
	Root   string   // folder that becomes the root; has the folders dev, proc, run and tmp
	Args   []string // program and arguments
	Env    []string // NAME=VALUE; nothing is inherited
	Dir    string   // working folder; default /tmp
	Binds  []Bind
	Stdin  io.Reader
	Stdout io.Writer // nil: what the program writes is dropped
	Limits Limits
}

// ErrUnavailable is returned (wrapped) where nothing can be run: bubblewrap is missing, the
// kernel allows no user namespaces, or the machine is not one of those supported.
var ErrUnavailable = errors.New("no sandbox")

// ErrNoProgram is returned (wrapped) if the root has no such program.
var ErrNoProgram = errors.New("no such program")

// An Error says why a run failed.
type Error struct {
	Reason string // "took more than 500 MiB of memory", "exit status 1"
	Output string // the end of what it wrote to its standard error
}

func (e *Error) Error() string {
	last := strings.TrimSpace(e.Output)
	if i := strings.LastIndexByte(last, '\n'); i >= 0 {
		last = strings.TrimSpace(last[i+1:])
	}
	if last == "" {
		return e.Reason
	}
	return e.Reason + ": " + last
}

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

const tailBytes = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

var errOutput = errors.New("too much output")

// bounded refuses more than left bytes.
type bounded struct {
	to   io.Writer
	left int64
	over bool // read once the writer is done
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		b.over = true
		return 0, errOutput
	}
	if b.to == nil {
		return len(p), nil
	}
	return b.to.Write(p)
}
