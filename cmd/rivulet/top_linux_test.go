package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo terminal of a size; slave is what a program gets.
func openTerminal(t *testing.T, columns, lines uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	resize(t, master, columns, lines)
	return master, slave
}

func resize(t *testing.T, master *os.File, columns, lines uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: lines, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// A screen keeps what a program has written.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// frame returns the last whole frame.
func (s *screen) frame() string {
	frames := strings.Split(s.String(), topLeft)
	if len(frames) < 2 {
		return ""
	}
	if last := frames[len(frames)-1]; strings.Contains(last, eraseBelow) {
		return last
	}
	return frames[len(frames)-2]
}

func (s *screen) await(t *testing.T, what string, ok func(frame string) bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(s.frame()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v:\n%q", what, bound, s.String())
		}
	}
}

// TestTopInTerminal watches a disk, resizes, sorts and quits.
func TestTopInTerminal(t *testing.T) {
	s := newSlowHost(t)
	master, slave := openTerminal(t, 150, 20)
	cmd := exec.Command("rivulet", "top", "--interval", "100ms")
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	var seen screen
	go func() { _, _ = io.Copy(&seen, master) }() // ends with master
	seen.await(t, "a frame", func(f string) bool {
		return strings.Contains(f, "agent v1.2.3 up ") && strings.Contains(f, "tree") && strings.Contains(f, "ready") && strings.Contains(f, "r reads*")
	})
	if err := s.read(1024, 1000); err != nil {
		t.Fatal(err)
	}
	_, _ = master.WriteString("s")
	seen.await(t, "the new order", func(f string) bool { return strings.Contains(f, "s slow*") })
	resize(t, master, 30, 5)
	seen.await(t, "the new size", func(f string) bool {
		lines := strings.Split(f, "\r\n")
		return len(lines) <= 5 && strings.Contains(f, "q quits; sort by r reads b by…")
	})
	_, _ = master.WriteString("q")
	if err := cmd.Wait(); err != nil {
		t.Errorf("quit: %v", err)
	}
	ended = true
	if all := seen.String(); !strings.HasPrefix(all, enterScreen) {
		t.Errorf("began with %.40q", all)
	}
	seen.await(t, "the old screen", func(string) bool { return strings.HasSuffix(seen.String(), leaveScreen) })
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil || after.Lflag != before.Lflag || after.Oflag != before.Oflag {
		t.Errorf("the terminal's mode was %+v, is %+v, %v", before, after, err)
	}
}

// TestTopOnce prints a frame where there is no terminal.
func TestTopOnce(t *testing.T) {
	s := newSlowHost(t)
	text := s.run(exitOK, "top", "--interval", "100ms")
	if strings.Contains(text, "\x1b") || !strings.Contains(text, "DISK ") || !strings.Contains(text, "tree ") || strings.Contains(text, "q quits") {
		t.Errorf("printed\n%q", text)
	}
	text = s.run(exitNoAgent, "top", "--once", "--agent", s.home+"/nosuch.sock")
	if !strings.Contains(text, "start one with 'rivulet agent'") {
		t.Error(text)
	}
	s.run(exitUsage, "top", "--sort", "age")
	s.run(exitUsage, "top", "--interval", "1ms")
}
