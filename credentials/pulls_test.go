package credentials

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// TestPulls remembers logins over a restart, for the repository alone that was pulled.
func TestPulls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logins")
	learn := func(p *Pulls, image, user string) (takeBack func()) {
		t.Helper()
		var login authn.AuthConfig
		if user != "" {
			login = authn.AuthConfig{Username: user, Password: "secret"}
		}
		takeBack, err := p.Learn(image, login)
		if err != nil {
			t.Fatal(err)
		}
		return takeBack
	}
	for _, path := range []string{path, ""} {
		p, err := OpenPulls(path)
		if err != nil {
			t.Fatal(err)
		}
		k := Keychain{Pulls: p}
		learn(p, "registry.example/a/b:1", "someone")
		learn(p, "registry.example/a/c@sha256:"+strings.Repeat("0", 64), "somebody")
		failed := learn(p, "registry.example/a/b:2", "nobody")
		if u := user(t, k, "registry.example/a/b"); u != "nobody" {
			t.Errorf("during a pull: %q", u)
		}
		failed()
		late := learn(p, "registry.example/a/d", "first")
		learn(p, "registry.example/a/d", "second")
		late()
		gone := learn(p, "registry.example/a/e", "someone")
		learn(p, "registry.example/a/e", "")
		gone()
		if path != "" {
			if p, err = OpenPulls(path); err != nil {
				t.Fatal(err)
			}
			k.Pulls = p
		}
		for image, want := range map[string]string{
			"registry.example/a/b": "someone", "registry.example/a/c": "somebody", "registry.example/a/d": "second",
			"registry.example/a/e": "", "registry.example/a": "", "registry.example/a/b/c": "", "other.example/a/b": "",
		} {
			if u := user(t, k, image); u != want {
				t.Errorf("%s: %q, want %q", image, u, want)
			}
		}
		if got := fmt.Sprint(p.Repositories()); got != "[registry.example/a/b registry.example/a/c registry.example/a/d]" {
			t.Errorf("logins for %s", got)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPulls(path); err == nil || !strings.Contains(err.Error(), "others may read it") {
		t.Errorf("a file that others may read: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, damaged := range []string{`{"a": {"login": {"password": "secret"}, "x": 1}}`, `null`, ``} {
		writeFile(t, path, damaged, 0o600)
		if _, err := OpenPulls(path); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("a damaged file: %v", err)
		}
	}
}

// TestFailedPulls has pulls fail, with wrong logins and with none, and several at once: the right login is good
// again.
func TestFailedPulls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logins")
	p, err := OpenPulls(path)
	if err != nil {
		t.Fatal(err)
	}
	learn := func(login authn.AuthConfig) (takeBack func()) {
		t.Helper()
		takeBack, err := p.Learn("registry.example/a", login)
		if err != nil {
			t.Fatal(err)
		}
		return takeBack
	}
	right, wrong := authn.AuthConfig{Username: "right", Password: "secret"}, authn.AuthConfig{Username: "wrong", Password: "secret"}
	learn(authn.AuthConfig{})() // nothing to take away
	learn(right)
	learn(authn.AuthConfig{})() // as one without imagePullSecrets
	for _, order := range [][]int{{0}, {0, 1}, {1, 0}, {0, 1, 2}, {1, 2, 0}, {2, 1, 0}, {2, 0, 1}} {
		failed := []func(){}
		for i := range order {
			failed = append(failed, learn([]authn.AuthConfig{wrong, {}, wrong}[i]))
		}
		for _, i := range order {
			failed[i]()
		}
		again, err := OpenPulls(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*Pulls{p, again} {
			if u := user(t, Keychain{Pulls: p}, "registry.example/a"); u != "right" {
				t.Errorf("after failures in the order %v: %q", order, u)
			}
		}
		if len(p.failed) != 0 {
			t.Errorf("in the order %v %d are remembered", order, len(p.failed))
		}
	}
}

// TestPullsCanBeReadAgain has a pull with what is no login, and a process that was killed as it wrote.
func TestPullsCanBeReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logins")
	writeFile(t, path+".new", "of a process that was killed", 0o644)
	p, err := OpenPulls(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Learn("registry.example/a", authn.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("someone:secret"))}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Learn("registry.example/b", authn.AuthConfig{Auth: "secret"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("what is no login: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if left, err := filepath.Glob(path + "*"); err != nil || len(left) != 1 {
		t.Errorf("files are %v, %v", left, err)
	}
	if p, err = OpenPulls(path); err != nil {
		t.Fatal(err)
	}
	if u := user(t, Keychain{Pulls: p}, "registry.example/a"); u != "someone" {
		t.Errorf("logs in as %q", u)
	}
}

func TestPullsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := OpenPulls("")
		if err != nil {
			t.Fatal(err)
		}
		for i := range maxPulls + 10 {
			if _, err := p.Learn(fmt.Sprintf("registry.example/i%d", i), authn.AuthConfig{Username: "u", Password: "p"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := len(p.Repositories()); n != maxPulls || p.logins["registry.example/i9"] != (pulledLogin{}) {
			t.Errorf("%d logins are remembered, the oldest of them", n)
		}
		if _, err := p.Learn("registry.example/a", authn.AuthConfig{Password: strings.Repeat("x", maxSecret)}); err == nil {
			t.Error("a login without bound is remembered")
		}
		if _, err := p.Learn("No Image", authn.AuthConfig{Username: "u"}); err == nil {
			t.Error("a login of nothing is remembered")
		}
	})
}

// FuzzPulls reads any file of logins.
func FuzzPulls(f *testing.F) {
	f.Add([]byte(`{"registry.example/a": {"login": {"username": "u", "password": "p"}, "when": "2026-11-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		logins, err := parsePulls(bytes.NewReader(b))
		if err == nil && (logins == nil || len(logins) > maxPulls) {
			t.Errorf("%d logins", len(logins))
		}
	})
}
