package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// defaultPath is PATH where the image has none, as container engines have it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A process is what the guest is there for.
type process struct {
	pid    int
	pty    *os.File       // the terminal's master; nil without one
	copied sync.WaitGroup // its output is with the host
}

// startProcess starts p in the root that is in force.
func startProcess(p *guest.Process, ch *channels) (*process, error) {
	user, err := guest.FindUser(os.DirFS("/"), p.User)
	if err != nil {
		return nil, err
	}
	dir := p.Dir
	if dir == "" {
		dir = "/"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	env := environment(p, user.Home)
	path, err := lookUp(p.Args[0], dir, env)
	if err != nil {
		return nil, err
	}
	attr := &os.ProcAttr{Dir: dir, Env: env, Files: []*os.File{ch.input, ch.output, ch.errors}, Sys: &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: user.UID, Gid: user.GID, Groups: user.Groups},
	}}
	run := new(process)
	if p.Terminal != nil {
		terminal, err := run.openTerminal(p.Terminal, user)
		if err != nil {
			return nil, err
		}
		defer func() { _ = terminal.Close() }()
		attr.Files = []*os.File{terminal, terminal, terminal}
		attr.Sys.Setctty, attr.Sys.Ctty = true, 0
	}
	started, err := os.StartProcess(path, p.Args, attr)
	if err != nil {
		return nil, err
	}
	run.pid = started.Pid
	if run.pty == nil {
		// The host sees the end of the output when the process has closed it.
		_, _, _ = ch.input.Close(), ch.output.Close(), ch.errors.Close()
		return run, nil
	}
	go func() { _, _ = io.Copy(run.pty, ch.input) }()
	run.copied.Go(func() {
		_, _ = io.Copy(ch.output, run.pty) // ends by EIO when nobody has the terminal any more
		_ = ch.output.Close()
	})
	return run, nil
}

// environment returns p's variables, each name once, with those that every process
// has.
func environment(p *guest.Process, home string) []string {
	env := []string{"PATH=" + defaultPath, "HOME=" + home}
	if p.Terminal != nil {
		env = append(env, "TERM=xterm")
	}
	at := map[string]int{}
	var list []string
	for _, e := range append(env, p.Env...) {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			list[i] = e
			continue
		}
		at[name] = len(list)
		list = append(list, e)
	}
	return list
}

// lookUp finds a command as execvp(3) does, by the environment that it will have.
func lookUp(command, dir string, env []string) (string, error) {
	if strings.ContainsRune(command, '/') {
		if !filepath.IsAbs(command) {
			command = filepath.Join(dir, command)
		}
		return command, nil
	}
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		if file := filepath.Join(d, command); isProgram(file) {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: %w: it is in no folder of PATH=%s", command, exec.ErrNotFound, path)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// openTerminal makes a pseudo-terminal and returns its other end.
func (p *process) openTerminal(size *guest.Terminal, user guest.User) (*os.File, error) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	fd := int(pty.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("name of the terminal: %w", err)
	}
	p.pty = pty
	p.resize(size)
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return terminal, terminal.Chown(int(user.UID), 5)
}

func (p *process) resize(size *guest.Terminal) {
	if p.pty == nil || size.Rows == 0 || size.Cols == 0 {
		return
	}
	_ = unix.IoctlSetWinsize(int(p.pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
}

// obey does what the host asks, until the end.
func (p *process) obey(control io.Reader) {
	for m, err := range guest.Messages(control) {
		switch {
		case err != nil:
			return
		case m.Signal != 0:
			_ = unix.Kill(p.pid, unix.Signal(m.Signal))
		case m.Resize != nil:
			p.resize(m.Resize)
		}
	}
}

// wait collects every process that ends, as process 1 must, until this one has.
func (p *process) wait() guest.Exit {
	var exit guest.Exit
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return guest.Exit{Code: 255}
		}
		if pid != p.pid {
			continue
		}
		if status.Signaled() {
			exit = guest.Exit{Code: 128 + int(status.Signal()), Signal: int(status.Signal())}
		} else {
			exit = guest.Exit{Code: status.ExitStatus()}
		}
		break
	}
	// What it has started ends with it, and lets go of the disk and the terminal.
	_ = unix.Kill(-1, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.copied.Wait()
	return exit
}
