//go:build amd64 || arm64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// firstUser begins the user IDs of sandboxes that root starts: no account has them, and
// each run has its own, so that the kernel counts its processes apart.
const firstUser = 0x70000000

var runs atomic.Uint32

const (
	watchEvery = 20 * time.Millisecond // how often memory is looked at
	fileLimit  = 1024                  // open files of a process
	smallDisk  = 1 << 20               // bytes of folders that only hold mount points
)

// Run runs a program and waits until all of its processes are gone. The error is an
// *Error if the program failed or passed a limit, and the context's cause if that ended.
func Run(ctx context.Context, s Spec) (err error) {
	bwrap, err := exec.LookPath("bwrap")
	if err != nil {
		return fmt.Errorf("%w: install bubblewrap (bwrap): %w", ErrUnavailable, err)
	}
	s.Limits = s.Limits.withDefaults()
	if len(s.Args) == 0 {
		return errors.New("sandbox: nothing to run")
	}
	for _, b := range s.Binds {
		if !strings.HasPrefix(b.Dest, "/run/") && !strings.HasPrefix(b.Dest, "/tmp/") {
			return fmt.Errorf("sandbox: %s is neither below /run nor /tmp", b.Dest)
		}
	}
	root := os.Geteuid() == 0
	args := s.arguments(root)
	variables, err := s.variables()
	if err != nil {
		return err
	}
	filter, err := memoryFile("filter", filter())
	if err != nil {
		return fmt.Errorf("%w: filter of system calls: %w", ErrUnavailable, err)
	}
	defer func() { _ = filter.Close() }()
	env, err := memoryFile("variables", variables)
	if err != nil {
		return fmt.Errorf("%w: variables: %w", ErrUnavailable, err)
	}
	defer func() { _ = env.Close() }()
	args = append(args, "--seccomp", "3", "--args", "4", "--")
	args = append(args, s.Args...)

	ctx, cancel := context.WithTimeoutCause(ctx, s.Limits.Time, errTime)
	defer cancel()
	processes := s.Limits.Processes
	if !root {
		processes += ownTasks() + taskSlack
	}
	line := []string{
		"prlimit", "--nproc=" + strconv.Itoa(processes), "--cpu=" + strconv.Itoa(seconds(s.Limits.CPU)), "--core=0",
		"--nofile=" + strconv.Itoa(fileLimit), "--data=" + strconv.FormatInt(s.Limits.Memory, 10), "--memlock=0", "--msgqueue=0",
		"setarch", "-R", bwrap, // without random addresses, so that equal work gives equal bytes
	}
	line = append(line, args...)
	if root {
		line = s.asNobody(line)
	}
	// The disk's memory counts as the group's.
	held, err := newGroup(s.Limits.Memory + s.Limits.Disk + groupSlack)
	if err != nil && !errors.Is(err, errNoGroup) {
		return err
	}
	if held != nil {
		defer held.end()
		line = held.enter(line)
	}
	alive, end, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _, _ = alive.Close(), end.Close() }()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.ExtraFiles, cmd.Stdin = []*os.File{filter, env, alive}, s.Stdin
	var complaint tail
	cmd.Stderr = &complaint
	out := &bounded{to: s.Stdout, left: s.Limits.Output}
	cmd.Stdout = out
	cmd.WaitDelay = time.Second
	// The first of its processes ends with this thread, so that has to last. The others end
	// with the first: root's, as it is a namespace's; else, as bubblewrap sees to it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return s.wait(ctx, cmd, held, &complaint, out)
}

// groupSlack is what the kernel and bubblewrap take beside a program, in bytes.
const groupSlack = 16 << 20

// taskSlack is how many more processes and threads a user may have by the time that a
// program runs in a sandbox of that user's.
const taskSlack = 128

// ownTasks returns how many processes and threads the user has: all of a user's count against
// one limit, but for root's sandboxes, which are users of their own.
func ownTasks() int {
	all, _ := os.ReadDir("/proc")
	n := 0
	for _, p := range all {
		if p.Name()[0] < '0' || p.Name()[0] > '9' {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+p.Name(), &st) != nil || int(st.Uid) != os.Geteuid() {
			continue
		}
		tasks, _ := os.ReadDir("/proc/" + p.Name() + "/task")
		n += len(tasks)
	}
	return n
}

var (
	errTime   = errors.New("took too long")
	errMemory = errors.New("took too much memory")
)

// wait runs cmd under a watch.
func (s *Spec) wait(ctx context.Context, cmd *exec.Cmd, held *group, complaint *tail, out *bounded) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticks := time.NewTicker(watchEvery)
	defer ticks.Stop()
	var err error
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-ctx.Done():
			end(cmd)
			err = <-done
			running = false
		case <-ticks.C:
			if anonymous(cmd.Process.Pid) > s.Limits.Memory || held != nil && held.anonymous() > s.Limits.Memory {
				giveUp(errMemory)
			}
		}
	}
	end(cmd) // what is left of its group
	if held != nil && held.killed() {
		giveUp(errMemory)
	}
	fail := func(format string, args ...any) error {
		return &Error{Reason: fmt.Sprintf(format, args...), Output: string(complaint.text)}
	}
	switch cause := context.Cause(ctx); {
	case cause == errMemory:
		return fail("took more than %d MiB of memory", s.Limits.Memory>>20)
	case cause == errTime:
		return fail("took longer than %v", s.Limits.Time)
	case cause != nil:
		return cause
	case out.over:
		return fail("wrote more than %d MiB", s.Limits.Output>>20)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("sandbox: %w", err)
	case bytes.HasPrefix(complaint.text, []byte("bwrap: execvp ")) && bytes.Contains(complaint.text, []byte(": No such file or directory")):
		return fmt.Errorf("%s: %w", s.Args[0], ErrNoProgram)
	case bytes.HasPrefix(complaint.text, []byte("bwrap: ")):
		return fmt.Errorf("%w: %s", ErrUnavailable, bytes.TrimSpace(complaint.text))
	}
	switch code := exit.ExitCode(); code {
	case 128 + int(unix.SIGXCPU), 128 + int(unix.SIGKILL):
		return fail("was killed: it may have taken more than %v of processor time", s.Limits.CPU)
	default:
		return fail("exit status %d", code)
	}
}

func end(cmd *exec.Cmd) { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }

func seconds(d time.Duration) int { return max(1, int((d+time.Second-1)/time.Second)) }

// prepare binds what a sandbox is to have where another user can reach it, in namespaces of
// its own, and runs the rest. It stays, as root and the first process there: when it is
// killed, so is the rest, whatever that is about to do. It is a program for sh. It is killed with
// unshare, unless that was killed before it had said so: then the pipe tells that the caller is gone.
const prepare = `fail() { echo "bwrap: cannot prepare the root at /mnt" >&2; exit 1; }
{ read -r over <&5; kill -9 -1; } 3<&- 4<&- >/dev/null 2>&1 &
mount -t tmpfs -o mode=755,size=1m tmpfs /mnt || fail
n=0
while [ "$1" != -- ]; do
	if [ -d "$1" ]; then mkdir "/mnt/$n" || fail; else : >"/mnt/$n" || fail; fi
	mount --bind "$1" "/mnt/$n" || fail
	n=$((n + 1))
	shift
done
shift
"$@" 5<&-`

// asNobody returns a command line of root's that runs line as a user that nothing belongs to.
func (s *Spec) asNobody(line []string) []string {
	out := []string{"unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--kill-child=KILL", "--", "sh", "-c", prepare, "sh", s.Root}
	for _, b := range s.Binds {
		out = append(out, b.Source)
	}
	id := strconv.Itoa(firstUser + int((uint32(os.Getpid())<<8|runs.Add(1)&0xff)&0x0fffffff))
	return append(append(out, "--", "setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--"), line...)
}

// arguments are those of bubblewrap up to the filter. Root's are as prepare leaves things.
func (s *Spec) arguments(root bool) []string {
	at := func(n int, path string) string {
		if root {
			return "/mnt/" + strconv.Itoa(n)
		}
		return path
	}
	disk := strconv.FormatInt(s.Limits.Disk, 10)
	small := strconv.Itoa(smallDisk)
	args := []string{
		"--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox",
		"--die-with-parent", "--new-session", "--cap-drop", "ALL",
		"--ro-bind", at(0, s.Root), "/", "--proc", "/proc", "--dev", "/dev",
		"--size", small, "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
		"--size", disk, "--tmpfs", "/tmp", "--size", small, "--tmpfs", "/run",
	}
	for i, b := range s.Binds {
		args = append(args, "--ro-bind", at(i+1, b.Source), b.Dest)
	}
	args = append(args, "--remount-ro", "/run")
	dir := s.Dir
	if dir == "" {
		dir = "/tmp"
	}
	return append(args, "--chdir", dir)
}

// variables are the arguments of bubblewrap that set the program's variables. It reads them from a
// file, as all users of the machine see a command line, and an index's address may have a
// password in it.
func (s *Spec) variables() ([]byte, error) {
	args := []string{"--clearenv"}
	for _, v := range s.Env {
		name, value, ok := strings.Cut(v, "=")
		if !ok || strings.Contains(v, "\x00") {
			return nil, fmt.Errorf("sandbox: variable %q: want NAME=VALUE", name)
		}
		args = append(args, "--setenv", name, value)
	}
	return []byte(strings.Join(args, "\x00") + "\x00"), nil
}

// anonymous returns the memory of a process and of all below it that is in no file, in
// bytes.
func anonymous(pid int) int64 {
	var total int64
	page := int64(os.Getpagesize())
	todo := []int{pid}
	for n := 0; len(todo) > 0 && n < 100_000; n++ {
		pid := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		dir := "/proc/" + strconv.Itoa(pid)
		if b, err := os.ReadFile(dir + "/statm"); err == nil {
			f := strings.Fields(string(b))
			if len(f) > 2 {
				resident, _ := strconv.ParseInt(f[1], 10, 64)
				shared, _ := strconv.ParseInt(f[2], 10, 64)
				total += (resident - shared) * page
			}
		}
		tasks, _ := os.ReadDir(dir + "/task")
		for _, t := range tasks {
			b, err := os.ReadFile(dir + "/task/" + t.Name() + "/children")
			if err != nil {
				continue
			}
			for _, c := range strings.Fields(string(b)) {
				if id, err := strconv.Atoi(c); err == nil {
					todo = append(todo, id)
				}
			}
		}
	}
	return total
}

// memoryFile returns a file that is nowhere but in memory, to be read from its beginning.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
