package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/domain"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/keyring"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store/dir"
)

// A desk is where a user types commands, with everything that is said kept for a
// search.
type desk struct {
	*search
	home string
	env  []string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{search: &search{t: t, forms: map[string]string{}}, home: t.TempDir()}
	kms, end := startKMS()
	t.Cleanup(end)
	d.env = append(os.Environ(), "HOME="+d.home, "RIVULET_STORE=dir:"+d.path("store"), "XDG_CONFIG_HOME="+d.path("config"),
		"XDG_RUNTIME_DIR="+d.path("run"), "TMPDIR="+d.path("tmp"), "RIVULET_KEYS=", "RIVULET_IDENTITY=", "DOCKER_CONFIG="+d.path("docker"))
	for name, value := range awsEnv {
		d.env = append(d.env, name+"="+value)
	}
	d.env = append(d.env, "AWS_SESSION_TOKEN="+sessionToken, "AWS_ENDPOINT_URL_KMS="+kms+"/ok", "KMS="+kms)
	d.write("tmp/.keep", "")
	d.write("tree/f", "something to read")
	return d
}

func (d *desk) path(name string) string { return filepath.Join(d.home, name) }

func (d *desk) write(name, content string) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(d.path(name)), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.path(name), []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// run runs a command line, wants it to end with status, and searches what it says.
func (d *desk) run(status int, line string, env ...string) string {
	d.t.Helper()
	cmd := exec.Command("rivulet", strings.Fields(line)...)
	cmd.Env, cmd.Dir = append(d.env, env...), d.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal to ask on
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		d.t.Errorf("rivulet %.60s: %v, want status %d: %s", line, err, status, out)
	}
	d.in("rivulet "+strings.Fields(line)[0], out)
	return string(out)
}

const (
	sessionToken     = "FwoGZXIvYXdzEBYaDKs3Zg0tokenNOTHINGreal77"
	registryPassword = "correct-horse-battery-staple-9431"
)

// TestSecretsStayHidden: whatever commands do, well or badly, no secret gets into
// what they print, into their arguments, or into what lies outside the keyring.
func TestSecretsStayHidden(t *testing.T) {
	d := newDesk(t)
	d.add("AWS secret access key", []byte(awsEnv["AWS_SECRET_ACCESS_KEY"]))
	d.add("AWS session token", []byte(sessionToken))
	d.add("registry password", []byte(registryPassword))
	d.write("shown/f", "something for everybody")
	d.run(0, "publish dir:tree --name a")
	d.run(0, "publish dir:shown --name o --open")
	identity := d.secrets()
	d.worksWell()
	d.goesWrong(identity)
	d.staysInMemory()
	d.daemons()
	for _, name := range []string{"store", "run", "tmp", "state", "cache"} {
		d.under(d.path(name))
	}
	if d.bytes < 10_000 {
		t.Errorf("searched %d bytes only", d.bytes)
	}
}

// secrets tells the search of all keys that the first publication made, and returns
// the identity.
func (d *desk) secrets() string {
	d.t.Helper()
	ctx := context.Background()
	keys, err := keyring.Open(d.path("config/rivulet"))
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := os.ReadFile(keys.IdentityPath())
	if err != nil {
		d.t.Fatal(err)
	}
	lines := strings.Fields(string(b))
	identity := lines[len(lines)-1]
	d.add("identity", []byte(identity))
	d.add("scalar of the identity", bech32(d.t, identity))
	b, err = os.ReadFile(d.path("config/rivulet/publisher.key"))
	if err != nil {
		d.t.Fatal(err)
	}
	file := strings.Split(string(b), "\n")[1]
	raw, err := base64.StdEncoding.DecodeString(file)
	if err != nil || len(raw) != 158 {
		d.t.Fatalf("publisher key of %d bytes, %v", len(raw), err)
	}
	d.add("publisher key's file", []byte(file))
	d.add("publisher key's seed", raw[62:94])

	ids, err := keys.Identity(nil)
	if err != nil {
		d.t.Fatal(err)
	}
	store, err := dir.Open(d.path("store"), false)
	if err != nil {
		d.t.Fatal(err)
	}
	salt, _, err := domain.Open(ctx, store, seal.DefaultDomain, []seal.Unwrapper{ids})
	if err != nil {
		d.t.Fatal(err)
	}
	d.add("salt", salt.Bytes()[28:60])
	d.imageKeys(store, ids)
	if d.find([]byte(identity)) == nil { // a search that can fail
		d.t.Error("the identity is not found in itself")
	}
	return identity
}

// imageKeys tells the search of the keys of the locked image: its own, and those of
// the chunks that the open one does not have as well.
func (d *desk) imageKeys(store origin.Origin, ids seal.Unwrapper) {
	d.t.Helper()
	ctx, view, shown := context.Background(), generation.NewView(store, generation.Options{}), map[chunk.ID]bool{}
	for _, name := range []string{"o", "a"} {
		image, err := view.Open(ctx, name)
		if err != nil {
			d.t.Fatal(err)
		}
		open, key, err := seal.UnlockKey(ctx, image.Map, store.Generation(1), ids)
		if err != nil {
			d.t.Fatal(err)
		}
		for i := range open.Len() {
			c := open.Chunk(i)
			if name == "a" && !shown[c.ID] {
				d.add(fmt.Sprintf("key of chunk %d", i), c.Key[:])
			}
			shown[c.ID] = true
		}
		if name == "a" {
			d.add("image key", key[:])
		}
	}
}

func (d *desk) worksWell() {
	d.t.Helper()
	d.run(0, "keys", "XDG_CONFIG_HOME="+d.path("other"))
	_, recipient, _ := strings.Cut(d.run(0, "keys", "XDG_CONFIG_HOME="+d.path("other")), "recipient")
	d.write("recipients", strings.Fields(recipient)[0]+"\n")
	for _, line := range []string{
		"publish dir:tree --name a --json", "publish dir:tree --name k --recipient " + kmsKey,
		"ls", "ls a /", "cat a f", "inspect a", "inspect a --json", "df", "diff a o", "verify a --reads 5", "keys", "keys --json",
		"cat k f --identity " + kmsKey, "grant a --recipients-file recipients", "salt ls --json", "salt grant --recipients-file recipients",
		"salt grant " + kmsKey, "salt codec default zstd fastest", "salt rotate", "publish dir:tree --name b", "salt new tenant --codec raw",
		"publish dir:tree --domain tenant --name t", "export a tmp/a.img", "doctor", "rm o",
		"copy a --to dir:tmp/other", "pin a", "pin --json", "unpin a", "profile ls --json", "profile ls a",
		"version",
	} {
		d.run(0, line)
	}
	if err := os.Remove(d.path("tmp/a.img")); err != nil {
		d.t.Error(err)
	}
}

// daemons looks at an agent and a host cache: at their arguments, their logs, their
// folders, what they say of themselves and what commands say that ask them.
func (d *desk) daemons() {
	d.t.Helper()
	nbd := "unix:" + d.path("run/n")
	cached := d.daemon("cached --dir " + d.path("cache") + " --size 64M --min-free 0 --telemetry unix:" + d.path("run/ct"))
	defer cached()
	agent := d.daemon("agent --keep none --state " + d.path("state") + " --slow-read 1ns --telemetry unix:" + d.path("run/at"))
	defer agent()
	for _, line := range []string{
		"agent attach a --json --nbd " + nbd, "agent attach a --writable --overlay " + d.path("vm1.overlay") + " --name w --nbd " + nbd, "agent ls --json",
		"status --json", "cat a f", "cache stats", "cache ls", "overlay ls vm1.overlay",
	} {
		d.run(0, line)
	}
	key, err := os.ReadFile(d.path("vm1.overlay/key"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.add("key of an overlay", key)
	d.run(0, "commit w c --json")
	attached := listedID.FindAllStringSubmatch(d.run(0, "agent ls --json"), -1)
	if len(attached) != 2 {
		d.t.Errorf("attached: %q", attached)
	}
	for _, id := range attached {
		d.run(0, "explain "+id[1]+" --json --reads")
		d.run(0, "agent detach "+id[1])
	}
	d.run(0, "status --json")
	d.run(1, "profile import a bent")
	d.run(1, "commit vm1.overlay x --identity bent")
	d.run(1, "overlay ls tree")
	for _, socket := range []string{"run/ct", "run/at"} {
		d.in(socket, d.scrape(d.path(socket)))
	}
	for _, line := range []string{
		"overlay rm vm1.overlay", "generation list --json", "generation new", "gc plan --json", "gc run", "generation list", "gc alarms",
		"fsck dir:store --json", "fsck dir:store --deep", "cat a f",
	} {
		d.run(0, line)
	}
}

var listedID = regexp.MustCompile(`"id": "([0-9a-f]{16})"`)

// daemon starts a command that stays and waits until others reach it. The result ends it,
// and searches what it said.
func (d *desk) daemon(line string) (end func()) {
	d.t.Helper()
	cmd := exec.Command("rivulet", strings.Fields(line)...)
	var said bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = d.env, d.home, &said, &said
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	socket := line[strings.LastIndex(line, "unix:")+len("unix:"):]
	for limit := time.Now().Add(30 * time.Second); len(d.scrape(socket)) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			d.t.Fatalf("rivulet %.20s does not answer: %s", line, &said)
		}
	}
	return func() {
		d.arguments(cmd.Process.Pid)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			d.t.Errorf("rivulet %.20s: %v: %s", line, err, &said)
		}
		d.in("log of rivulet "+strings.Fields(line)[0], said.Bytes())
	}
}

// scrape returns the metrics that a daemon tells at a socket, none if it does not answer.
func (d *desk) scrape(socket string) []byte {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Get("http://daemon/metrics")
	if err != nil {
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return b
}

// goesWrong makes what can fail fail, near secrets.
func (d *desk) goesWrong(identity string) {
	d.t.Helper()
	last := "0" // which the identity may end in by chance
	if strings.HasSuffix(identity, last) {
		last = "2"
	}
	d.write("bent", identity[:len(identity)-1]+last+"\n")
	d.write("long", identity+" and more\n")
	d.write("ssh", "-----BEGIN OPENSSH PRIVATE KEY-----\n"+identity+"\n-----END OPENSSH PRIVATE KEY-----\n")
	d.write("age", "age-encryption.org/v1\n-> "+identity+"\n")
	for _, file := range []string{"bent", "long", "ssh", "age", "missing", "tree"} {
		d.run(1, "cat a f --identity "+file)
	}
	d.run(1, "cat a f", "XDG_CONFIG_HOME="+d.path("nobody"))
	d.run(2, "cat a f", "RIVULET_IDENTITY="+identity)
	d.run(2, "mount a tmp", "RIVULET_IDENTITY="+identity)
	d.run(2, "serve a --identity "+identity)
	d.run(2, "cat a f --require-signature "+identity)
	d.run(2, "publish dir:tree --name x --trust-publisher "+identity)
	d.run(2, "grant a "+identity)
	d.run(1, "publish dir:tree --name x --recipients-file bent")
	d.run(2, "cat a f --require-signature bent")
	d.run(2, "cat a f --require-signature config/rivulet/publisher.key")
	for _, fault := range []string{"ExpiredTokenException", "InvalidSignatureException", "AccessDeniedException"} {
		d.run(1, "cat k f --identity "+kmsKey, "AWS_ENDPOINT_URL_KMS="+d.kms()+"/"+fault)
		d.run(1, "publish dir:tree --name x --size 3G --recipient "+kmsKey, "AWS_ENDPOINT_URL_KMS="+d.kms()+"/"+fault)
	}
	d.registryRefuses()
	d.bucketRefuses()
	for _, url := range []string{"s3://user:" + registryPassword + "@bucket/p", "https://user:" + registryPassword + "@127.0.0.1:1/p", "s3://bucket?secret=" + registryPassword} {
		d.run(2, "ls --store "+url)
		d.run(2, "publish dir:tree --store "+url)
		d.run(2, "mount a tmp --store "+url)
	}
	key := d.path("config/rivulet/publisher.key")
	good, err := os.ReadFile(key)
	if err != nil {
		d.t.Fatal(err)
	}
	bent := bytes.Clone(good)
	bent[len(bent)-60] ^= 1 // in the secret half
	d.write("config/rivulet/publisher.key", string(bent))
	d.run(1, "publish dir:tree --name x")
	d.write("config/rivulet/publisher.key", string(good))
	d.storeIsDamaged()
}

func (d *desk) kms() string {
	for _, v := range d.env {
		if url, ok := strings.CutPrefix(v, "KMS="); ok {
			return url
		}
	}
	return ""
}

// registryRefuses publishes from a registry that does not accept docker's password.
func (d *desk) registryRefuses() {
	d.t.Helper()
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, ok := r.BasicAuth(); ok && password == registryPassword {
			asked++
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + registryPassword))
	d.write("docker/config.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth))
	d.run(1, "publish "+host+"/image:tag --name x")
	if asked == 0 {
		d.t.Error("the registry was not given the password")
	}
}

// bucketRefuses reads from a bucket that sends back what it was sent, as S3 does
// when it does not accept a signature.
func (d *desk) bucketRefuses() {
	d.t.Helper()
	tokens := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Security-Token") == sessionToken {
			tokens++
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match</Message>`+
			`<CanonicalRequest>x-amz-security-token:%s</CanonicalRequest></Error>`, r.Header.Get("X-Amz-Security-Token"))
	}))
	defer s.Close()
	d.run(1, "ls --store s3://bucket/p?region=eu-west-1&path-style=true&endpoint="+s.URL)
	if tokens == 0 {
		d.t.Error("the bucket was not given the token")
	}
}

// storeIsDamaged changes one byte in each stored thing, reads, and publishes.
func (d *desk) storeIsDamaged() {
	d.t.Helper()
	kept := map[string][]byte{}
	err := filepath.WalkDir(d.path("store"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == "version" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return err
		}
		kept[path] = b
		bent := bytes.Clone(b)
		bent[len(b)/2] ^= 1
		_ = os.Chmod(path, 0o600)
		return os.WriteFile(path, bent, 0o600)
	})
	if err != nil || len(kept) < 20 {
		d.t.Fatalf("%d files damaged, %v", len(kept), err)
	}
	for _, line := range []string{"ls", "cat a f", "verify a", "inspect a", "salt ls", "salt rotate", "grant a --recipients-file recipients", "publish dir:tree --name y"} {
		d.run(1, line)
	}
	for path, b := range kept {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			d.t.Error(err)
		}
	}
	d.run(0, "cat a f")
}

// staysInMemory looks at the arguments of processes that stay.
func (d *desk) staysInMemory() {
	d.t.Helper()
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		d.t.Log("no /proc: arguments of processes are not looked at")
		return
	}
	cmd := exec.Command("rivulet", "serve", "a", "--nbd", "unix:"+d.path("run/s"), "--identity", d.path("config/rivulet/identity.txt"))
	var said bytes.Buffer
	cmd.Env, cmd.Stderr = d.env, &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	ready := make([]byte, 5)
	_, _ = out.Read(ready)
	d.arguments(cmd.Process.Pid)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil || string(ready) != "ready" {
		d.t.Errorf("serve: %q, %v: %s", ready, err, &said)
	}
	d.in("serve", said.Bytes())
	if mounts, _ := condition("mounts"); !mounts {
		d.t.Log("no mounts here: the arguments of a mount's process are not looked at")
		return
	}
	d.write("mnt/.keep", "")
	m := serverPID.FindStringSubmatch(d.run(0, "mount a mnt"))
	if m == nil {
		d.t.Fatal("mount names no process")
	}
	pid, _ := strconv.Atoi(m[1])
	d.arguments(pid)
	d.run(0, "umount mnt")
	for end := time.Now().Add(30 * time.Second); syscall.Kill(pid, 0) == nil && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		continue
	}
}

// arguments searches the arguments of a process and of all of its children.
func (d *desk) arguments(pid int) {
	d.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(b, []byte("rivulet")) {
		d.t.Errorf("arguments of process %d: %q, %v", pid, b, err)
	}
	d.in("arguments of a process", b)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		b, err := os.ReadFile("/proc/" + child + "/cmdline")
		if err == nil {
			d.in("arguments of a child", b)
		}
	}
}
