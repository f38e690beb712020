package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// guestVariable makes this test's program a VMM with a guest, see TestMain.
const guestVariable = "RIVULET_VM_TEST_GUEST"

func TestMain(m *testing.M) {
	if script := os.Getenv(guestVariable); script != "" {
		os.Exit(pretend(script, os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

// pretend is a VMM whose guest's process does what script says: it connects to the
// channels in dir.
func pretend(script, dir string) int {
	conns := map[guest.Channel]net.Conn{}
	for _, c := range guest.Channels() {
		conn, err := net.Dial("unix", filepath.Join(dir, c.Name))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		conns[c] = conn
	}
	say := func(m guest.Message) { _ = m.Write(conns[guest.Control]) }
	fmt.Println("kernel: booting")
	switch script {
	case "silent":
		time.Sleep(time.Hour)
	case "dies":
		return 3
	case "fails":
		say(guest.Message{Failed: "no such command"})
		time.Sleep(time.Hour)
	case "garbage":
		_, _ = conns[guest.Control].Write(bytes.Repeat([]byte("x"), 1<<20))
		time.Sleep(time.Hour)
	}
	say(guest.Message{Started: true})
	if script == "starts and dies" {
		return 3
	}
	if script == "waits" || script == "stubborn" {
		for m, err := range guest.Messages(conns[guest.Control]) {
			if err != nil {
				return 4
			}
			if m.Signal != 0 {
				_, _ = fmt.Fprintf(conns[guest.Output], "signal %d\n", m.Signal)
			}
			if m.Signal == int(syscall.SIGTERM) && script == "waits" {
				say(guest.Message{Exit: &guest.Exit{Code: 143, Signal: 15}})
				return 0
			}
		}
	}
	in, _ := io.ReadAll(conns[guest.Input])
	_, _ = fmt.Fprintf(conns[guest.Output], "read %d\n", len(in))
	_, _ = fmt.Fprintln(conns[guest.Errors], "complaint")
	say(guest.Message{Exit: &guest.Exit{Code: 7}})
	if script == "stays" { // a VMM that does not end with its guest
		_, _ = conns[guest.Output].Write([]byte("."))
		time.Sleep(time.Hour)
	}
	return 0
}

// pretender is a VMM of pretend.
type pretender struct {
	QEMU
	script string
}

func (p pretender) check(*Machine) error { return nil }

func (p pretender) command(m *Machine) (*exec.Cmd, error) {
	cmd := exec.Command(os.Args[0], m.dir)
	cmd.Env = append(os.Environ(), guestVariable+"="+p.script)
	return cmd, nil
}

// testKernel is a kernel with one module.
func testKernel(t *testing.T) *Kernel {
	t.Helper()
	k := &Kernel{Version: "1", Arch: "amd64", Modules: []string{"ext4.ko"}, dir: t.TempDir()}
	write(t, filepath.Join(k.dir, modulesDir, "ext4.ko"), []byte("module"))
	return k
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// options run what a pretender says.
func options(t *testing.T, script string) (m Machine, o Options, out, complaints *bytes.Buffer) {
	t.Helper()
	out, complaints = new(bytes.Buffer), new(bytes.Buffer)
	program := filepath.Join(t.TempDir(), "init")
	write(t, program, []byte("init"))
	dir, err := os.MkdirTemp("", "vm") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, _ := os.ReadDir(dir)
		if len(left) > 0 {
			t.Errorf("%d things are left in the folder of machines", len(left))
		}
		_ = os.RemoveAll(dir)
	})
	return Machine{Kernel: testKernel(t)}, Options{
		VMM: pretender{script: script}, Init: program, TempDir: dir,
		Process: guest.Process{Args: []string{"sh"}},
		Stdin:   strings.NewReader("0123456789"), Stdout: out, Stderr: complaints,
	}, out, complaints
}

func TestRun(t *testing.T) {
	for _, script := range []string{"plain", "stays"} {
		m, o, out, complaints := options(t, script)
		started := 0
		o.Started = func() { started++ }
		var console bytes.Buffer
		o.Console = &console
		if script == "stays" {
			o.Grace = 50 * time.Millisecond
		}
		exit, err := Run(t.Context(), m, o)
		if err != nil || exit != (guest.Exit{Code: 7}) || started != 1 {
			t.Fatalf("%s: %+v, %v, started %d times", script, exit, err, started)
		}
		if !strings.HasPrefix(out.String(), "read 10\n") || complaints.String() != "complaint\n" {
			t.Errorf("%s: output %q, errors %q", script, out, complaints)
		}
		if console.String() != "kernel: booting\n" {
			t.Errorf("console %q", console.String())
		}
	}
}

func TestRunFailures(t *testing.T) {
	for script, want := range map[string]string{
		"silent":          "not been started within",
		"dies":            "ended before the process did",
		"starts and dies": "ended before the process did",
		"fails":           "no such command",
		"garbage":         "control channel of guest",
	} {
		t.Run(script, func(t *testing.T) {
			m, o, _, _ := options(t, script)
			if script == "silent" {
				o.BootTime = 50 * time.Millisecond
			}
			_, err := Run(t.Context(), m, o)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			if start := new(StartError); errors.As(err, start) != (script == "fails") {
				t.Errorf("a StartError or not: %v", err)
			}
			if script == "dies" && !strings.Contains(err.Error(), "kernel: booting") {
				t.Errorf("%v: says nothing of the console", err)
			}
		})
	}
}

// TestRunCanceled ends the context while the process runs: it is told, and its own
// end counts.
func TestRunCanceled(t *testing.T) {
	m, o, out, _ := options(t, "waits")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	signals := make(chan syscall.Signal, 1)
	o.Signals = signals
	o.Started = func() { signals <- syscall.SIGUSR1; cancel() }
	exit, err := Run(ctx, m, o)
	if err != nil || exit != (guest.Exit{Code: 143, Signal: 15}) || !strings.Contains(out.String(), "signal 15\n") {
		t.Errorf("%+v, %v, output %q", exit, err, out.String())
	}

	m, o, _, _ = options(t, "stubborn")
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	o.Started, o.Grace = cancel, 50*time.Millisecond
	if _, err := Run(ctx, m, o); err == nil || !strings.Contains(err.Error(), "after SIGTERM") {
		t.Errorf("one that does not end: %v", err)
	}
}

func TestInitrd(t *testing.T) {
	k, dir := testKernel(t), t.TempDir()
	program, path := filepath.Join(dir, "program"), filepath.Join(dir, "initrd")
	write(t, program, []byte("program"))
	want := guest.Config{Device: "/dev/vda", Transport: guest.Serial, End: guest.Reboot, Process: guest.Process{Args: []string{"sh"}}}
	if err := writeInitrd(path, program, k, &want); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string]string{}
	r := cpio.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = fmt.Sprintf("%v %s", h.FileInfo().Mode(), b)
	}
	for name, w := range map[string]string{
		"init": "-rwxr-xr-x program", "modules/ext4.ko": "-rw-r--r-- module", "dev": "drwxr-xr-x ", "root": "drwxr-xr-x ",
	} {
		if got[name] != w {
			t.Errorf("%s: %q, want %q", name, got[name], w)
		}
	}
	config, err := guest.Decode([]byte(strings.TrimPrefix(got["config.json"], "-rw------- ")))
	if err != nil || !reflect.DeepEqual(config, &want) {
		t.Errorf("configuration %+v, %v", config, err)
	}
}

func TestProcess(t *testing.T) {
	config := []byte(`{"config":{"Entrypoint":["/entry"],"Cmd":["run"],"Env":["A=1"],"WorkingDir":"/srv","User":"www"}}`)
	p, err := Process(config, "", nil, []string{"B=2"})
	if want := (guest.Process{Args: []string{"/entry", "run"}, Env: []string{"A=1", "B=2"}, Dir: "/srv", User: "www"}); err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
	if p, err = Process(config, "", []string{"other"}, nil); err != nil || !reflect.DeepEqual(p.Args, []string{"/entry", "other"}) {
		t.Errorf("with arguments: %+v, %v", p, err)
	}
	if p, err = Process(config, "/bin/sh", []string{"-c"}, nil); err != nil || !reflect.DeepEqual(p.Args, []string{"/bin/sh", "-c"}) || p.User != "www" {
		t.Errorf("with an entry point: %+v, %v", p, err)
	}
	if _, err = Process([]byte(`{}`), "", nil, nil); !errors.Is(err, ErrNoCommand) {
		t.Errorf("without a command: %v", err)
	}
	if _, err = Process([]byte(`[`), "", nil, nil); err == nil {
		t.Error("no JSON: no error")
	}
}

// TestQEMUArgs looks at the arguments that depend on something.
func TestQEMUArgs(t *testing.T) {
	m := Machine{Kernel: testKernel(t), Drive: Drive{NBD: "nbd+unix:///disk?socket=/a,b"}, Memory: 1 << 30, CPUs: 2, dir: "/run/x"}
	q := QEMU{Accel: AccelTCG, Args: []string{"-more"}}
	args := strings.Join(q.args(&m), " ")
	for _, want := range []string{"size=1024M", "-smp 2", "readonly=on,file=nbd+unix:///disk?socket=/a,,b", "-accel tcg", "name=rivulet.control", "-more"} {
		if !strings.Contains(args, want) {
			t.Errorf("arguments without %q: %s", want, args)
		}
	}
	m.Drive = Drive{VhostUser: "/sock", Writable: true}
	if args = strings.Join(q.args(&m), " "); !strings.Contains(args, "path=/sock") || !strings.Contains(args, "vhost-user-blk,chardev=disk") {
		t.Errorf("arguments for vhost-user: %s", args)
	}
	for _, bad := range []Machine{{}, {Drive: Drive{NBD: "a", VhostUser: "b"}}} {
		if err := q.check(&bad); err == nil {
			t.Errorf("%+v: no error", bad.Drive)
		}
	}
	if err := (QEMU{Accel: "steam"}).check(&m); err == nil {
		t.Error("an accelerator that is none: no error")
	}
}

// apiVMMs are those that are driven by requests.
var apiVMMs = map[string]struct {
	vmm   VMM
	calls func(*Machine) []call
}{
	"cloud-hypervisor": {CloudHypervisor{}, CloudHypervisor{}.calls},
	"firecracker":      {Firecracker{}, Firecracker{}.calls},
}

// TestAPISchemas checks each request against testdata/NAME.json: which calls there
// are, which fields each has, of which kind, and which it must have.
func TestAPISchemas(t *testing.T) {
	for name, v := range apiVMMs {
		b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var schemas map[string]schema
		if err := json.Unmarshal(b, &schemas); err != nil {
			t.Fatal(err)
		}
		m := Machine{Kernel: testKernel(t), Drive: Drive{VhostUser: "/sock"}, Memory: 1 << 30, CPUs: 2, dir: "/run/x", cmdline: "quiet"}
		if err := v.vmm.check(&m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := v.vmm.check(&Machine{Drive: Drive{NBD: "a"}}); err == nil {
			t.Errorf("%s: NBD is no error", name)
		}
		for _, c := range v.calls(&m) {
			s, ok := schemas[c.path]
			if !ok {
				t.Errorf("%s: no call %s", name, c.path)
				continue
			}
			b, err := json.Marshal(c.body)
			if err != nil {
				t.Fatal(err)
			}
			var body any
			if err := json.Unmarshal(b, &body); err != nil {
				t.Fatal(err)
			}
			for _, complaint := range s.check(body) {
				t.Errorf("%s %s: %s", name, c.path, complaint)
			}
		}
	}
	// The check itself must find something.
	s := schema{Type: "object", Required: []string{"a"}, Properties: map[string]schema{"a": {Type: "string"}, "b": {Type: "integer"}, "c": {Enum: []string{"x"}, Type: "string"}}}
	for _, bad := range []string{`{}`, `{"a":1}`, `{"a":"","d":1}`, `{"a":"","b":1.5}`, `{"a":"","c":"y"}`, `[]`} {
		var v any
		if err := json.Unmarshal([]byte(bad), &v); err != nil {
			t.Fatal(err)
		}
		if len(s.check(v)) == 0 {
			t.Errorf("%s is right by a schema that it breaks", bad)
		}
	}
}

// A schema is what the tests know of JSON Schema.
type schema struct {
	Type       string            `json:"type"` // "none": no body
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Items      *schema           `json:"items"`
	Enum       []string          `json:"enum"`
}

func (s schema) check(v any) (complaints []string) {
	say := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	switch x := v.(type) {
	case nil:
		if s.Type != "none" {
			say("nothing, want %s", s.Type)
		}
	case string:
		if s.Type != "string" {
			say("string %q, want %s", x, s.Type)
		}
		if len(s.Enum) > 0 && !strings.Contains("|"+strings.Join(s.Enum, "|")+"|", "|"+x+"|") {
			say("%q, want one of %v", x, s.Enum)
		}
	case bool:
		if s.Type != "boolean" {
			say("%v, want %s", x, s.Type)
		}
	case float64:
		if s.Type != "integer" || x != float64(int64(x)) {
			say("number %v, want %s", x, s.Type)
		}
	case []any:
		if s.Type != "array" || s.Items == nil {
			say("a list, want %s", s.Type)
			return complaints
		}
		for _, e := range x {
			complaints = append(complaints, s.Items.check(e)...)
		}
	case map[string]any:
		if s.Type != "object" {
			say("an object, want %s", s.Type)
		}
		for _, name := range s.Required {
			if _, ok := x[name]; !ok {
				say("%s is missing", name)
			}
		}
		for name, e := range x {
			p, ok := s.Properties[name]
			if !ok {
				say("%s is unknown", name)
				continue
			}
			for _, c := range p.check(e) {
				say("%s: %s", name, c)
			}
		}
	}
	return complaints
}

// TestPut has a server that is slow to listen, and one that refuses.
func TestPut(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	var got []string
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.Path+" "+string(b))
		if r.URL.Path == "/bad" {
			http.Error(w, "will not", http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		l, err := net.Listen("unix", socket)
		if err == nil {
			_ = server.Serve(l)
		}
	}()
	err := put(t.Context(), socket, []call{{"/a", fcAction{"x"}}, {"/b", nil}, {"/bad", nil}, {"/never", nil}})
	_ = server.Close()
	<-served
	if err == nil || !strings.Contains(err.Error(), "/bad") || !strings.Contains(err.Error(), "will not") {
		t.Errorf("error %v", err)
	}
	if want := []string{`PUT /a {"action_type":"x"}`, "PUT /b ", "PUT /bad "}; !reflect.DeepEqual(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := put(ctx, filepath.Join(dir, "none"), []call{{"/a", nil}}); err == nil {
		t.Error("nobody listens: no error")
	}
}
