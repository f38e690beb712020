package credentials

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func repository(t *testing.T, text string) name.Repository {
	t.Helper()
	r, err := name.NewRepository(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// user is who a keychain logs in as; "" is nobody.
func user(t *testing.T, k authn.Keychain, image string) string {
	t.Helper()
	who, err := authn.Resolve(t.Context(), k, repository(t, image))
	if err != nil {
		t.Fatal(err)
	}
	c, err := authn.Authorization(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	return c.Username
}

// TestPatterns has the examples of the kubelet's documentation, and more.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, repository string
		want                bool
	}{
		{"123456789.dkr.ecr.us-east-1.amazonaws.com", "123456789.dkr.ecr.us-east-1.amazonaws.com/a/b", true},
		{"*.azurecr.io", "mine.azurecr.io/a", true},
		{"*.azurecr.io", "mine.example.com/a", false},
		{"*.io", "mine.azurecr.io/a", false},
		{"gcr.io", "gcr.io/a", true},
		{"gcr.io", "eu.gcr.io/a", false},
		{"*.*.registry.io", "a.b.registry.io/x", true},
		{"*.registry.io:8080/path", "a.registry.io:8080/path/x", true},
		{"*.registry.io:8080/path", "a.registry.io:8081/path/x", false},
		{"*.registry.io/path", "a.registry.io/other", false},
		{"app*.k8s.io", "app1.k8s.io/x", true},
		{"registry.io", "registry.io:5000/x", false}, // somebody else's, perhaps
		{"registry.io:5000", "registry.io/x", false},
		{"[::1]", "[::1]/x", true},
		{"[::1]", "[::1]:5000/x", false},
		{"https://registry.io", "registry.io/x", true},
		{"[::1]:5000", "[::1]:5000/x", true},
	} {
		p, err := parsePattern(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		if got := p.matches(c.repository); got != c.want {
			t.Errorf("%q matches %q: %v", c.pattern, c.repository, got)
		}
	}
	for _, bad := range []string{"", "/path", "registry.io/*", "registry.io:*", "[a.io", "a.[b.io", "::1:::"} {
		if _, err := parsePattern(bad); err == nil {
			t.Errorf("%q is a pattern", bad)
		}
	}
}

const provider = `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: login
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.example.com", "registry.example:5000", docker.io]
  defaultCacheDuration: 1h
  args: [--word]
  env: [{name: WORD, value: given}]
`

// A program is a plugin of the test: it notes each run, and says what file "answer" has.
const program = `#!/bin/sh
dir=$(dirname "$0")
cat >"$dir/asked"
echo "$1 $WORD" >>"$dir/runs"
[ ! -e "$dir/slow" ] || sleep 100
cat "$dir/answer"
`

func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// plugins returns the plugin above, in a folder of its own, which says what it does to log.
func plugins(t *testing.T, log *bytes.Buffer) (*Plugins, string) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "login"), program, 0o700)
	writeFile(t, filepath.Join(dir, "config"), provider, 0o600)
	p, err := OpenPlugins(filepath.Join(dir, "config"), dir, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return p, dir
}

func answerOf(key, duration, auth string) string {
	if duration != "" {
		duration = fmt.Sprintf(`"cacheDuration": %q,`, duration)
	}
	return fmt.Sprintf(`{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
		"cacheKeyType": %q, %s "auth": %s}`, key, duration, auth)
}

// TestPlugin asks a program, and how often depends on what it says.
func TestPlugin(t *testing.T) {
	var log bytes.Buffer
	p, dir := plugins(t, &log)
	now := time.Unix(1e9, 0)
	p.now = func() time.Time { return now }
	k := Keychain{Plugins: p}
	runs := func() int {
		b, _ := os.ReadFile(filepath.Join(dir, "runs"))
		return bytes.Count(b, []byte("--word given\n"))
	}
	login := func(user string) string {
		return fmt.Sprintf(`{"*.example.com": {"username": %q, "password": "secret"}, "a.example.com/x": {"username": "particular", "password": "secret"}}`, user)
	}
	for _, c := range []struct {
		key, duration string
		same, other   string // repositories that the answer for a.example.com/b is good for, and is not
	}{
		{"Image", "10m", "a.example.com/b", "a.example.com/c"},
		{"Registry", "10m", "a.example.com/c", "b.example.com/b"},
		{"Global", "", "b.example.com/c", ""},
		{"Image", "0s", "", "a.example.com/b"},
	} {
		now = now.Add(100 * time.Hour)
		before := runs()
		writeFile(t, filepath.Join(dir, "answer"), answerOf(c.key, c.duration, login("first")), 0o600)
		if u := user(t, k, "a.example.com/b"); u != "first" || runs() != before+1 {
			t.Fatalf("%v: %q after %d runs: %s", c, u, runs()-before, &log)
		}
		b, err := os.ReadFile(filepath.Join(dir, "asked"))
		if want := `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"a.example.com/b"}`; err != nil || string(b) != want {
			t.Errorf("it was asked %s, %v", b, err)
		}
		writeFile(t, filepath.Join(dir, "answer"), answerOf(c.key, c.duration, login("second")), 0o600)
		if c.same != "" {
			if u := user(t, k, c.same); u != "first" || runs() != before+1 {
				t.Errorf("%v: %s is %q after %d runs", c, c.same, u, runs()-before)
			}
			now = now.Add(9*time.Minute + time.Second) // nine tenths of ten minutes
			if c.duration == "" {
				now = now.Add(46 * time.Minute) // an hour but for five minutes
			}
			if u := user(t, k, c.same); u != "second" || runs() != before+2 {
				t.Errorf("%v: shortly before its end, %s is %q after %d runs", c, c.same, u, runs()-before)
			}
		}
		if c.other != "" {
			before = runs()
			if u := user(t, k, c.other); u != "second" || runs() != before+1 {
				t.Errorf("%v: %s is %q after %d runs", c, c.other, u, runs()-before)
			}
		}
	}
	now = now.Add(100 * time.Hour)
	if u := user(t, k, "a.example.com/x/y"); u != "particular" {
		t.Errorf("the more particular login is %q", u)
	}
	before := runs()
	if u := user(t, k, "elsewhere.example/x"); u != "" || runs() != before {
		t.Errorf("of a host that it is not for: %q, %d runs", u, runs()-before)
	}
	writeFile(t, filepath.Join(dir, "answer"), answerOf("Global", "", `{"docker.io": {"username": "hub", "password": "secret"}}`), 0o600)
	if u := user(t, k, "library/nginx"); u != "hub" {
		t.Errorf("of Docker Hub: %q: %s", u, &log)
	}
}

// TestPluginFails has plugins that say nothing of use: there is no login then, and
// no secret is said.
func TestPluginFails(t *testing.T) {
	for _, c := range []struct{ answer, says string }{
		{"", "not JSON"},
		{`{"kind": "CredentialProviderResponse", "password": "secret"`, "not JSON"},
		{strings.Replace(answerOf("Image", "", `{"a.example.com": {"password": "secret"}}`), "/v1", "/v2", 1), "no CredentialProviderResponse"},
		{answerOf("Everything", "", `{}`), "cacheKeyType"},
		{answerOf("Image", "secret", `{}`), "cacheDuration"},
		{answerOf("Image", "-1s", `{}`), "cacheDuration"},
		{answerOf("Image", "1s", `{"": {"password": "secret"}}`), "host"},
		{answerOf("Image", "1s", `{"a.example.com:secret:1": {}}`), "host"},
		{answerOf("Image", "1s", `{}`) + strings.Repeat(" ", maxAnswer), "more than"},
	} {
		var log bytes.Buffer
		p, dir := plugins(t, &log)
		writeFile(t, filepath.Join(dir, "answer"), c.answer, 0o600)
		if u := user(t, Keychain{Plugins: p}, "a.example.com/b"); u != "" || !strings.Contains(log.String(), c.says) || strings.Contains(log.String(), "secret") {
			t.Errorf("%.100q: %q, %s", c.answer, u, &log)
		}
	}
	var log bytes.Buffer
	p, dir := plugins(t, &log)
	writeFile(t, filepath.Join(dir, "slow"), "", 0o600)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := (Keychain{Plugins: p}).ResolveContext(ctx, repository(t, "a.example.com/b")); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 10*time.Second || !strings.Contains(log.String(), "deadline") {
		t.Errorf("it took %v: %s", took, &log)
	}
	if err := os.Remove(filepath.Join(dir, "login")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPlugins(filepath.Join(dir, "config"), dir, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a plugin that is not there: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ from, to, says string }{
		{"kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v9", "want CredentialProviderConfig"},
		{"kind: Cred", "kind: Other", "want CredentialProviderConfig"},
		{"name: login", "name: ../login", "not that of a program"},
		{"name: login", "name: ..", "not that of a program"},
		{"kubelet.k8s.io/v1\n  match", "kubelet.k8s.io/v2\n  match", "apiVersion"},
		{`["*.example.com", "registry.example:5000", docker.io]`, "[]", "matchImages"},
		{"*.example.com", "example.com/*", "star behind"},
		{"1h", "soon", "defaultCacheDuration"},
		{"  defaultCacheDuration: 1h\n", "", "defaultCacheDuration"},
		{"name: WORD", `name: "A=B"`, "cannot be set"},
		{"providers:", "providers: {", "yaml"},
	} {
		if !strings.Contains(provider, c.from) {
			t.Fatalf("%q is not in the configuration", c.from)
		}
		if _, err := parseConfig([]byte(strings.Replace(provider, c.from, c.to, 1))); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q for %q: %v", c.to, c.from, err)
		}
	}
	list, err := parseConfig([]byte(provider + "  tokenAttributes: {serviceAccountTokenAudience: a}\n"))
	if err != nil || len(list) != 1 || !list[0].needsToken {
		t.Errorf("tokenAttributes: %v, %v", list, err)
	}
}

// TestOrder has a pull and a plugin know a repository: the pull counts while it is new.
func TestOrder(t *testing.T) {
	var log bytes.Buffer
	plugin, dir := plugins(t, &log)
	writeFile(t, filepath.Join(dir, "answer"), answerOf("Image", "", `{"a.example.com": {"username": "plugin", "password": "secret"}}`), 0o600)
	pulls, err := OpenPulls("")
	if err != nil {
		t.Fatal(err)
	}
	k := Keychain{Pulls: pulls, Plugins: plugin}
	if _, err := pulls.Learn("a.example.com/b:1", authn.AuthConfig{Username: "pull", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	if u := user(t, k, "a.example.com/b"); u != "pull" {
		t.Errorf("a new pull: %q", u)
	}
	age := func() {
		l := pulls.logins["a.example.com/b"]
		l.When = l.When.Add(-newTime)
		pulls.logins["a.example.com/b"] = l
	}
	age()
	if u := user(t, k, "a.example.com/b"); u != "plugin" {
		t.Errorf("an old pull: %q", u)
	}
	k.Plugins = nil
	if u := user(t, k, "a.example.com/b"); u != "pull" {
		t.Errorf("an old pull, and no plugin: %q", u)
	}
}

// TestSocket asks over a socket, also while nobody listens.
func TestSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "logins.sock")
	c := NewClient(socket)
	if u := user(t, c, "registry.example/a"); u != "" {
		t.Errorf("nobody says %q", u)
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	pulls, err := OpenPulls("")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, Keychain{Pulls: pulls}) }()
	login := authn.AuthConfig{Username: "someone", Password: "secret"}
	token := authn.AuthConfig{RegistryToken: "token"}
	for image, l := range map[string]authn.AuthConfig{"registry.example/a": login, "registry.example/t": token} {
		if _, err := pulls.Learn(image, l); err != nil {
			t.Fatal(err)
		}
		who, err := c.Resolve(repository(t, image))
		if err != nil {
			t.Fatal(err)
		}
		got, err := who.Authorization()
		if err != nil || got.Username != l.Username || got.Password != l.Password || got.RegistryToken != l.RegistryToken {
			t.Errorf("%s: %v, %v", image, got, err)
		}
	}
	if u := user(t, c, "registry.example/b"); u != "" {
		t.Errorf("of another repository: %q", u)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if u := user(t, c, "registry.example/a"); u != "" {
		t.Errorf("nobody says %q", u)
	}
}

// FuzzConfig reads any configuration.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(provider))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseConfig(b)
		for _, p := range list {
			if err == nil && (p.name != filepath.Base(p.name) || len(p.images) == 0) {
				t.Errorf("%+v", p)
			}
		}
	})
}

// FuzzAnswer reads any answer, and looks for repositories in it.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(answerOf("Image", "1h", `{"*.example.com": {"username": "u", "password": "p"}}`)), "a.example.com/b")
	f.Add([]byte(answerOf("Global", "", `{"[::1]:5": {}}`)), "[::1]:5/b")
	f.Fuzz(func(t *testing.T, b []byte, repository string) {
		a, err := parseAnswer(b, pluginGroup+"v1")
		if err != nil {
			return
		}
		if pick(a.logins, repository) != nil && len(a.logins) == 0 {
			t.Error("a login out of none")
		}
	})
}
