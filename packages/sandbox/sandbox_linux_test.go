//go:build amd64 || arm64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// root returns a folder with a shell in it, to be a sandbox's root.
func root(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err == nil {
		_, err = exec.LookPath("bwrap")
	}
	if err != nil {
		need(t, err)
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "dev", "proc", "run", "tmp", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755)
	}
	if err == nil {
		err = os.Symlink("busybox", filepath.Join(dir, "bin/sh"))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "etc/secret"), []byte("of root"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(context.Background(), Spec{Root: dir, Args: []string{"/bin/sh", "-c", "exit 0"}}); err != nil {
		need(t, err)
	}
	return dir
}

// need skips a test that the machine cannot run, unless nothing may be skipped.
func need(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("RIVULET_E2E_STRICT") != "" {
		t.Fatal("needs busybox-static, bubblewrap and user namespaces:", err)
	}
	t.Skip("needs busybox-static, bubblewrap and user namespaces:", err)
}

func shell(dir, script string, limits Limits) (string, error) {
	var out bytes.Buffer
	err := Run(context.Background(), Spec{
		Root: dir, Args: []string{"/bin/sh", "-c", "alias b=/bin/busybox\n" + strings.ReplaceAll(script, "b ", "/bin/busybox ")},
		Stdin: strings.NewReader("input\n"), Stdout: &out, Limits: limits, Env: []string{"A=b c"},
		Binds: []Bind{{Source: filepath.Join(dir, "etc"), Dest: "/run/given/etc"}},
	})
	return out.String(), err
}

func TestRun(t *testing.T) {
	dir := root(t)
	out, err := shell(dir, `read x; echo "$x $A $(b id -u) $PWD"; b ls /run/given/etc`, Limits{})
	if want := "input b c 1000 /tmp\nsecret\n"; err != nil || out != want {
		t.Errorf("got %q, want %q: %v", out, want, err)
	}
	_, err = shell(dir, `echo first >&2; echo why >&2; exit 7`, Limits{})
	var failed *Error
	if !errors.As(err, &failed) || err.Error() != "exit status 7: why" || !strings.Contains(failed.Output, "first") {
		t.Errorf("failure: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	over := errors.New("over")
	time.AfterFunc(50*time.Millisecond, func() { cancel(over) })
	if err := Run(ctx, Spec{Root: dir, Args: []string{"/bin/busybox", "sleep", "1000"}}); !errors.Is(err, over) {
		t.Errorf("cancelled: %v", err)
	}
	if err := Run(context.Background(), Spec{Root: dir, Args: []string{"none"}}); !errors.Is(err, ErrNoProgram) {
		t.Errorf("a program that is not there: %v", err)
	}
	if err := Run(context.Background(), Spec{Root: dir, Args: []string{"/bin/sh"}, Binds: []Bind{{dir, "/etc"}}}); err == nil {
		t.Error("a bind over the root: no error")
	}
}

// TestHostile runs what wants more than it may have. Each is stopped, with one line that
// says by what, and none of its processes is left.
func TestHostile(t *testing.T) {
	dir := root(t)
	small := Limits{Memory: 64 << 20, Disk: 4 << 20, Output: 1 << 20, Processes: 16, CPU: time.Second, Time: 2 * time.Minute} // a busy machine gives a second of a processor in many
	quick, many := small, small
	many.Processes = 64
	quick.Time = 300 * time.Millisecond
	for _, c := range []struct {
		name, script, want string
		limits             Limits
	}{
		{"forks", `f() { f | f & }; (f) 2>/dev/null; i=0; while [ $i -lt 50 ]; do b sleep 100 & i=$((i+1)); done; wait`, "can't fork: Resource temporarily unavailable", small},
		{"memory of one", `b tail /dev/zero`, "of memory", small},
		{"memory of many", `for i in 1 2 3 4 5 6; do (x=$(b head -c 30000000 /dev/zero | b tr '\0' a); b sleep 100) & done; wait`, "took more than 64 MiB of memory", many},
		{"disk", `b dd if=/dev/zero of=/tmp/x bs=1M count=100 2>&1 | b grep -o No.space.* >&2; exit 1`, "exit status 1: No space left on device", small},
		{"other disks", `for d in /dev /dev/shm /run; do b dd if=/dev/zero of=$d/x bs=1M count=100 2>/dev/null && exit 0; done; exit 9`, "exit status 9", small},
		{"output", `b cat /dev/zero`, "wrote more than 1 MiB", small},
		{"processor", `while :; do :; done`, "was killed: it may have taken more than 1s of processor time", small},
		{"time", `b sleep 1000`, "took longer than 300ms", quick},
		{"time, stopped", `kill -STOP $$; b sleep 1`, "took longer than 300ms", quick},
		{"writes to the root", `echo x >/etc/passwd`, "exit status 1: /bin/sh: can't create /etc/passwd: Read-only file system", small},
		{"writes to what is given", `echo x >/run/given/etc/passwd`, "exit status 1: /bin/sh: can't create /run/given/etc/passwd: Read-only file system", small},
		{"reads root's files", `b cat /etc/secret`, "exit status 1: cat: can't open '/etc/secret': Permission denied", small},
		{"mounts", `b mount -t tmpfs x /tmp`, "exit status 1: mount: permission denied (are you root?)", small},
		{"namespaces", `b unshare -r b true`, "exit status 1: unshare: unshare(0x10000000): Operation not permitted", small},
		{"sees others", `[ $(b ls /proc | b grep -c '^[0-9]') -lt 6 ] || exit 0; exit 3`, "exit status 3", small},
	} {
		if os.Geteuid() != 0 && c.name == "reads root's files" {
			continue // a user's own files are readable
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			_, err := shell(dir, c.script, c.limits)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s (%v)", err, c.want, time.Since(start))
			}
			if strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

// TestSockets lets a program look for a server on the host, by address and by the names of
// Unix sockets.
func TestSockets(t *testing.T) {
	dir := root(t)
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	_, port, err := net.SplitHostPort(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello\n")
			_ = c.Close()
		}
	}()
	script := "b nc 127.0.0.1 " + port
	if out, err := shell(dir, script, Limits{}); err == nil || out != "" {
		t.Errorf("a program reached the host: %q, %v", out, err)
	}
}

// TestOutlives starts a process in the background and ends: it goes too.
func TestOutlives(t *testing.T) {
	dir := root(t)
	mark := fmt.Sprint(1_000_000 + os.Getpid())
	if _, err := shell(dir, "(trap '' HUP TERM INT; exec b setsid b sleep "+mark+") & b sleep 0.1; exit 0", Limits{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a process of the sandbox has outlived it", func() bool { return !alive(t, mark) })
}

// TestParentKilled kills a process that runs something in a sandbox: that goes too.
func TestParentKilled(t *testing.T) {
	if dir := os.Getenv("SANDBOX_TEST_ROOT"); dir != "" { // the process
		err := Run(context.Background(), Spec{Root: dir, Args: []string{"/bin/busybox", "sleep", os.Getenv("SANDBOX_TEST_MARK")}})
		t.Fatal("ended:", err)
	}
	dir := root(t)
	mark := fmt.Sprint(2_000_000 + os.Getpid())
	cmd := exec.Command(os.Args[0], "-test.run=^TestParentKilled$")
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_ROOT="+dir, "SANDBOX_TEST_MARK="+mark)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing runs", func() bool { return alive(t, mark) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "a process of the sandbox has outlived who ran it", func() bool { return !alive(t, mark) })
}

// TestParentKilledUnseen kills it where unshare has not said yet that its child is to end with it.
func TestParentKilledUnseen(t *testing.T) {
	dir := root(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs root, whose sandboxes are made by unshare:", err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\nfor a; do shift; [ $a = --kill-child=KILL ] && a=--fork; set -- \"$@\" \"$a\"; done\n" + unshare + ` "$@"` + "\n"
	if err := os.WriteFile(filepath.Join(bin, "unshare"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprint(4_000_000 + os.Getpid())
	cmd := exec.Command(os.Args[0], "-test.run=^TestParentKilled$")
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_ROOT="+dir, "SANDBOX_TEST_MARK="+mark, "PATH="+bin+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing runs", func() bool { return alive(t, mark) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "a process of the sandbox has outlived who ran it", func() bool { return !alive(t, mark) })
}

// TestParentKilledEarly kills it while the sandbox is being made, at any moment.
func TestParentKilledEarly(t *testing.T) {
	dir := root(t)
	for i := range 25 {
		mark := fmt.Sprint(3_000_000 + os.Getpid()*100 + i)
		cmd := exec.Command(os.Args[0], "-test.run=^TestParentKilled$")
		cmd.Env = append(os.Environ(), "SANDBOX_TEST_ROOT="+dir, "SANDBOX_TEST_MARK="+mark)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "nothing is begun", func() bool { return mentioned(t, mark) })
		time.Sleep(time.Duration(i) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		eventually(t, "a process of a sandbox in the making has outlived who made it", func() bool { return !mentioned(t, mark) })
	}
}

// mentioned reports whether a process has mark as an argument.
func mentioned(t *testing.T, mark string) bool {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if line, err := os.ReadFile(p); err == nil && bytes.Contains(line, []byte("\x00"+mark+"\x00")) {
			return true
		}
	}
	return false
}

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func alive(t *testing.T, mark string) bool {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if line, err := os.ReadFile(p); err == nil && bytes.HasPrefix(line, []byte("/bin/busybox\x00sleep\x00"+mark)) {
			return true
		}
	}
	return false
}

// TestVariablesAreHidden looks for a password among the command lines of all processes.
func TestVariablesAreHidden(t *testing.T) {
	const secret = "the-password-of-an-index"
	dir := root(t)
	in, hold := io.Pipe()
	out, heard := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := Run(context.Background(), Spec{
			Root: dir, Args: []string{"/bin/sh", "-c", "echo $S; read x"}, Env: []string{"S=" + secret}, Stdin: in, Stdout: heard,
		})
		_ = heard.CloseWithError(err)
		done <- err
	}()
	told := make([]byte, len(secret))
	if _, err := io.ReadFull(out, told); err != nil || string(told) != secret {
		t.Fatalf("it has %q: %v", told, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(all) == 0 {
		t.Fatal("no processes:", err)
	}
	for _, file := range all {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(secret)) {
			t.Errorf("everybody sees it: %.60q", line)
		}
	}
	_, _ = io.WriteString(hold, "\n")
	_ = hold.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestVariables(t *testing.T) {
	for _, v := range []string{"none", "A=b\x00--ro-bind\x00/\x00/"} {
		if b, err := (&Spec{Env: []string{v}}).variables(); err == nil {
			t.Errorf("%q: %q", v, b)
		}
	}
}
