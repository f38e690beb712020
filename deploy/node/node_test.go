package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A machine is a folder that stands for one, and what was run on it.
type machine struct {
	*Node
	t    *testing.T
	ran  []string
	fail string // commands that begin so fail
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t}
	m.Node = &Node{Root: t.TempDir(), Programs: t.TempDir(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Run: m.run}
	m.write(m.Programs, "rivulet", "program 1")
	m.write(m.Programs, "containerd-rivulet", "program 2")
	m.write(m.Root, "proc/1/mountinfo", "")
	m.write(m.Root, "etc/default/other", "of somebody else")
	m.write(m.Root, "etc/systemd/system/other.service", "of somebody else")
	return m
}

func (m *machine) run(_ context.Context, program string, args ...string) error {
	line := strings.Join(append([]string{program}, args...), " ")
	m.ran = append(m.ran, line)
	if m.fail != "" && strings.HasPrefix(line, m.fail) {
		return errors.New("it fails")
	}
	return nil
}

func (m *machine) write(dir, name, text string) {
	m.t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.Root, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// all lists what is on the machine, with modes.
func (m *machine) all() string {
	m.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(m.Root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		b.WriteString(strings.TrimPrefix(p, m.Root) + " " + info.Mode().String() + "\n")
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return b.String()
}

func (m *machine) took() (ran []string) {
	ran, m.ran = m.ran, nil
	return ran
}

func want(t *testing.T, what string, got []string, lines ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(lines, "\n") {
		t.Errorf("%s ran:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

const allUnits = "rivulet-cached.service rivulet-agent.service containerd-rivulet.service"

// TestInstallAndRemove leaves a machine as it was.
func TestInstallAndRemove(t *testing.T) {
	ctx := t.Context()
	m := newMachine(t)
	before := m.all()
	s := Settings{Snapshotter: "--store s3://bucket/images", Cache: "--size 10G"}
	if err := m.Install(ctx, s); err != nil {
		t.Fatal(err)
	}
	want(t, "the first install", m.took(), "systemctl daemon-reload", "systemctl enable --now "+allUnits,
		"systemctl reload-or-restart rivulet-agent.service", "systemctl restart rivulet-cached.service containerd-rivulet.service")
	if got := m.read("etc/default/containerd-rivulet"); got != "OPTIONS=--store s3://bucket/images\n" {
		t.Errorf("settings are %q", got)
	}
	for _, unit := range units {
		if !strings.Contains(m.read("etc/systemd/system/"+unit), "ExecStart=/usr/local/bin/") {
			t.Errorf("%s does not start what was installed", unit)
		}
	}
	if info, err := os.Stat(filepath.Join(m.Root, "usr/local/bin/rivulet")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the program: %v, %v", info, err)
	}
	if err := m.Install(ctx, s); err != nil {
		t.Fatal(err)
	}
	want(t, "the same again", m.took(), "systemctl enable --now "+allUnits)
	m.write(m.Programs, "rivulet", "a new version")
	if err := m.Install(ctx, s); err != nil {
		t.Fatal(err)
	}
	if got := m.took(); len(got) != 4 || m.read("usr/local/bin/rivulet") != "a new version" {
		t.Errorf("a new version: ran %q", got)
	}
	m.write(m.Root, "var/lib/rivulet/containerd/metadata.db", "left by the services")
	m.write(m.Root, "var/cache/rivulet/chunk", "left by the services")
	m.write(m.Root, "run/rivulet/agent.sock", "left by the services")

	m.fail = "/usr/local/bin/rivulet"
	if err := m.Remove(ctx); !errors.Is(err, ErrInUse) {
		t.Errorf("removed while disks are in use: %v", err)
	}
	want(t, "that", m.took(), "systemctl is-active --quiet rivulet-agent.service", "/usr/local/bin/rivulet agent --agent /run/rivulet/agent.sock detach --all")
	m.fail = ""
	m.write(m.Root, "proc/1/mountinfo", "36 35 98:0 / /var/lib/rivulet/containerd/disks/a rw shared:1 - ext4 /dev/loop0 ro\n")
	if err := m.Remove(ctx); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "disks/a") {
		t.Errorf("removed while something is mounted: %v", err)
	}
	m.took()
	if err := os.Remove(filepath.Join(m.Root, "proc/1/mountinfo")); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(ctx); err == nil || m.read("var/lib/rivulet/containerd/metadata.db") == "" {
		t.Errorf("removed while nobody knows what is mounted: %v", err)
	}
	m.took()
	m.write(m.Root, "proc/1/mountinfo", "")
	if err := m.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	want(t, "remove", m.took(), "systemctl is-active --quiet rivulet-agent.service", "/usr/local/bin/rivulet agent --agent /run/rivulet/agent.sock detach --all",
		"systemctl disable --now containerd-rivulet.service rivulet-agent.service rivulet-cached.service", "systemctl daemon-reload")
	for _, d := range []string{"var/cache", "var/lib", "var", "run"} { // made by write above
		_ = os.Remove(filepath.Join(m.Root, d))
	}
	if after := m.all(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
	if err := m.Remove(ctx); err != nil || len(m.took()) != 0 {
		t.Errorf("removed twice: %v", err)
	}
}

// TestInstallGoesOn has systemd fail, and the installer be killed, at every step: the next one goes on.
func TestInstallGoesOn(t *testing.T) {
	ctx := t.Context()
	m := newMachine(t)
	before := m.all()
	m.fail = "systemctl daemon-reload"
	if err := m.Install(ctx, Settings{}); err == nil {
		t.Fatal("systemd fails, and nobody is told")
	}
	m.took()
	m.fail = "systemctl restart"
	if err := m.Install(ctx, Settings{}); err == nil {
		t.Fatal("systemd fails, and nobody is told")
	}
	m.fail = ""
	all := strings.Join(m.took(), "\n")
	if err := m.Install(ctx, Settings{}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.took(), "\n"); got != all || !strings.Contains(got, "daemon-reload") {
		t.Errorf("after failures ran:\n%s\nand then:\n%s", all, got)
	}
	if err := m.Install(ctx, Settings{}); err != nil {
		t.Fatal(err)
	}
	want(t, "the same again", m.took(), "systemctl enable --now "+allUnits)

	// Killed between the note of a new version and the new version, twice.
	for _, program := range []string{"a new version", "a newer version"} {
		m.write(m.Programs, "rivulet", program)
		if err := m.Install(ctx, Settings{}); err != nil {
			t.Fatal(err)
		}
		m.write(m.Root, "usr/local/bin/rivulet", "program 1")
	}
	m.write(m.Root, "usr/local/bin/rivulet"+newSuffix, "a new ver")
	m.write(m.Root, "var/cache/rivulet/chunk", "left by the services")
	m.fail = "systemctl daemon-reload"
	if err := m.Remove(ctx); err == nil || m.read("var/cache/rivulet/chunk") == "" {
		t.Errorf("systemd fails, and nobody is told: %v", err)
	}
	m.fail = "systemctl disable" // of units that are not there
	m.took()
	if err := m.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(m.Root, "var/cache"))
	_ = os.Remove(filepath.Join(m.Root, "var/lib"))
	_ = os.Remove(filepath.Join(m.Root, "var"))
	if after := m.all(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// TestOthersFiles leaves what it has not written.
func TestOthersFiles(t *testing.T) {
	m := newMachine(t)
	m.write(m.Root, "usr/local/bin/rivulet", "somebody's own")
	before := m.all()
	if err := m.Install(t.Context(), Settings{}); err == nil || !strings.Contains(err.Error(), "/usr/local/bin/rivulet") {
		t.Errorf("installed over another program: %v", err)
	}
	if after := m.all(); after != before || len(m.took()) != 0 {
		t.Errorf("and left\n%s", after)
	}
	if err := os.Remove(filepath.Join(m.Root, "usr/local/bin/rivulet")); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{"--store 'a b'", "a\nb"} {
		if err := m.Install(t.Context(), Settings{Cache: options}); err == nil {
			t.Errorf("options %q were taken", options)
		}
	}
	if err := m.Install(t.Context(), Settings{}); err != nil {
		t.Fatal(err)
	}
	m.write(m.Root, "etc/default/rivulet-cached", "OPTIONS=--size 1T\n")
	if err := m.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.read("etc/default/rivulet-cached"); got != "OPTIONS=--size 1T\n" {
		t.Errorf("what was changed is %q", got)
	}
	m.fail = "systemctl"
	if err := m.Install(t.Context(), Settings{Cache: "--size 1T"}); err == nil {
		t.Error("systemd fails, and nobody is told")
	}
}

// TestSettings: they may have secrets, so others cannot read them; and what somebody has changed on the
// machine stays.
func TestSettings(t *testing.T) {
	ctx, m := t.Context(), newMachine(t)
	const name = "etc/default/rivulet-cached"
	install := func(options, want string) {
		t.Helper()
		if err := m.Install(ctx, Settings{Cache: options}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(m.Root, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if got := m.read(name); got != want {
			t.Errorf("settings are %q, want %q", got, want)
		}
	}
	install("--size 1G", "OPTIONS=--size 1G\n")
	install("--size 2G", "OPTIONS=--size 2G\n")
	if err := os.Chmod(filepath.Join(m.Root, name), 0o644); err != nil { // as an earlier version had it
		t.Fatal(err)
	}
	install("--size 2G", "OPTIONS=--size 2G\n")
	m.write(m.Root, name, "OPTIONS=--size 1G\n") // as it was once: that is a change too
	install("--size 2G", "OPTIONS=--size 1G\n")
	if err := os.Chmod(filepath.Join(m.Root, name), 0o644); err != nil { // what is changed may have secrets too
		t.Fatal(err)
	}
	m.write(m.Root, name, "OPTIONS=--size 5G\n")
	install("--size 2G", "OPTIONS=--size 5G\n")
	install("--size 3G", "OPTIONS=--size 5G\n")
	if err := os.Remove(filepath.Join(m.Root, name)); err != nil {
		t.Fatal(err)
	}
	install("--size 3G", "OPTIONS=--size 3G\n")
}

// FuzzRecord reads any record.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version": 1, "files": {"etc/a": "00"}, "dirs": ["etc"]}`))
	f.Add([]byte(`{"version": 1, "files": {"../etc/a": "00"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		for p := range r.Files {
			if !filepath.IsLocal(p) {
				t.Errorf("path %q", p)
			}
		}
	})
}
