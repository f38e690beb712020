package agewrap

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"

	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/wraptest"
)

// workLog2 makes scrypt quick in tests.
const workLog2 = 2

func must[T any](t testing.TB, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newX25519 returns an identity as text and parsed.
func newX25519(t testing.TB) (text string, ids *Identities) {
	t.Helper()
	id := must(t, age.GenerateX25519Identity)
	return id.String(), must(t, func() (*Identities, error) { return ParseIdentities("id", []byte(id.String()), nil) })
}

// sshKey returns a private key in OpenSSH's format, encrypted if passphrase is
// not empty.
func sshKey(t testing.TB, key any, passphrase string) []byte {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "test")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// sshIdentities parses a private key and checks that its recipient is what the
// public key says.
func sshIdentities(t testing.TB, key any, passphrase string) *Identities {
	t.Helper()
	ids, err := ParseIdentities("id", sshKey(t, key, passphrase), func(string) (string, error) { return passphrase, nil })
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestSuite(t *testing.T) {
	kinds := map[string]func(t *testing.T) *Identities{
		"x25519": func(t *testing.T) *Identities { _, ids := newX25519(t); return ids },
		"post-quantum": func(t *testing.T) *Identities {
			id := must(t, age.GenerateHybridIdentity)
			return must(t, func() (*Identities, error) { return ParseIdentities("id", []byte(id.String()), nil) })
		},
		"ssh-ed25519":           func(t *testing.T) *Identities { return sshIdentities(t, newEd25519(t), "") },
		"ssh-ed25519 encrypted": func(t *testing.T) *Identities { return sshIdentities(t, newEd25519(t), "secret") },
		"ssh-rsa":               func(t *testing.T) *Identities { return sshIdentities(t, must(t, rsaKey), "") },
	}
	for name, make := range kinds {
		t.Run(name, func(t *testing.T) {
			ids := make(t) // once: to open an encrypted SSH key takes its time
			wraptest.Run(t, func(t *testing.T) wraptest.Pair {
				text := ids.Recipients()[0].String() // a recipient goes through its text
				r, err := ParseRecipient(text + "  \n")
				if err != nil || r.String() != text {
					t.Fatalf("recipient %q comes back as %v, %v", text, r, err)
				}
				_, stranger := newX25519(t)
				return wraptest.Pair{Wrapper: r, Unwrapper: ids, Stranger: stranger}
			})
		})
	}
	t.Run("passphrase", func(t *testing.T) {
		wraptest.Run(t, func(t *testing.T) wraptest.Pair {
			return wraptest.Pair{
				Wrapper:   must(t, func() (*Recipient, error) { return passphraseOf("open", workLog2) }),
				Unwrapper: must(t, func() (*Identities, error) { return PassphraseIdentity("open") }),
				Stranger:  must(t, func() (*Identities, error) { return PassphraseIdentity("close") }),
			}
		})
	})
}

func TestRecipientFile(t *testing.T) {
	_, a := newX25519(t)
	b := sshIdentities(t, newEd25519(t), "")
	file := fmt.Sprintf("# people\n\n%s\r\n  %s someone@somewhere\n", a.Recipients()[0], b.Recipients()[0])
	list, err := ParseRecipients([]byte(file))
	if err != nil || len(list) != 2 || list[0].String() != a.Recipients()[0].String() || list[1].String() != b.Recipients()[0].String() {
		t.Fatalf("%v, %v", list, err)
	}
	secret, _ := newX25519(t)
	for name, bad := range map[string]string{
		"empty":        "",
		"comments":     "# nobody\n",
		"garbage":      "hello\n",
		"cut":          list[0].String()[:40],
		"changed":      strings.Replace(list[0].String(), "age1", "age1q", 1),
		"an identity":  secret,
		"short rsa":    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQC7",
		"ecdsa":        "ecdsa-sha2-nistp256 AAAA",
		"second line":  list[0].String() + "\nx\n",
		"much too big": strings.Repeat("# comment\n", MaxFileBytes/10+1),
	} {
		_, err := ParseRecipients([]byte(bad))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), secret[20:40]) {
			t.Errorf("%s: the error has a secret: %v", name, err)
		}
	}
	if _, err := ParseRecipients([]byte(list[0].String() + "\nx\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a fault in line 2: %v", err)
	}
}

// encrypted returns an age file with content that passphrase opens.
func encrypted(t testing.TB, content, passphrase string, work int, armored bool) []byte {
	t.Helper()
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	r.SetWorkFactor(work)
	var b bytes.Buffer
	w, err := age.Encrypt(&b, r)
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if !armored {
		return b.Bytes()
	}
	var text bytes.Buffer
	a := armor.NewWriter(&text)
	if _, err := a.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func TestIdentityFile(t *testing.T) {
	one, ids := newX25519(t)
	two, _ := newX25519(t)
	asked := 0
	ask := func(what string) (string, error) {
		if asked++; what != "my file" {
			t.Errorf("asked for %q", what)
		}
		return "open", nil
	}
	for name, file := range map[string][]byte{
		"plain":     []byte("# mine\n" + one + "\n\n" + two),
		"encrypted": encrypted(t, one+"\n"+two+"\n", "open", workLog2, false),
		"armored":   encrypted(t, one+"\n"+two+"\n", "open", workLog2, true),
	} {
		asked = 0
		got, err := ParseIdentities("my file", file, ask)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r := got.Recipients(); len(r) != 2 || r[0].String() != ids.Recipients()[0].String() {
			t.Errorf("%s: recipients %v", name, r)
		}
		if want := map[bool]int{true: 0, false: 1}[name == "plain"]; asked != want {
			t.Errorf("%s: asked %d times, want %d", name, asked, want)
		}
	}
}

func TestIdentityFileRefused(t *testing.T) {
	secret, _ := newX25519(t)
	_, other := newX25519(t)
	wrong := func(string) (string, error) { return "wrong", nil }
	for name, c := range map[string]struct {
		file []byte
		ask  Ask
		want string
	}{
		"empty":              {nil, nil, "no identity in it"},
		"too long":           {make([]byte, MaxFileBytes+1), nil, "more than"},
		"a recipient":        {[]byte(other.Recipients()[0].String()), nil, "line 1 is no age identity"},
		"damaged":            {[]byte("# x\n" + secret[:len(secret)-1]), nil, "line 2 is no age identity"},
		"plugin":             {[]byte("AGE-PLUGIN-YUBIKEY-1QQQQ"), nil, "line 1 is no age identity"},
		"wrong passphrase":   {encrypted(t, secret, "open", workLog2, false), wrong, "wrong passphrase"},
		"nobody to ask":      {encrypted(t, secret, "open", workLog2, false), nil, "needs its passphrase"},
		"too much work":      {withWork(encrypted(t, secret, "open", workLog2, false), MaxWorkLog2+1), wrong, "work factor"},
		"nothing within":     {encrypted(t, "", "open", workLog2, false), func(string) (string, error) { return "open", nil }, "no identity in it"},
		"too much within":    {encrypted(t, strings.Repeat("#\n", MaxFileBytes/2+1), "open", workLog2, false), func(string) (string, error) { return "open", nil }, "more than"},
		"armor without file": {[]byte(armor.Header + "\n" + armor.Footer), wrong, "age file"},
		"garbage key":        {[]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), nil, "no SSH private key"},
	} {
		ids, err := ParseIdentities("my file", c.file, c.ask)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "my file") {
			t.Errorf("%s: %v, %v; want an error of my file with %q", name, ids, err, c.want)
		} else if strings.Contains(err.Error(), secret[20:40]) {
			t.Errorf("%s: the error has the secret: %v", name, err)
		}
	}
}

// withWork changes the work factor in the header of an age file.
func withWork(file []byte, log2 int) []byte {
	return bytes.Replace(file, fmt.Appendf(nil, " %d\n", workLog2), fmt.Appendf(nil, " %d\n", log2), 1)
}

// TestWorkOfWrappedKeys: a store cannot make a reader work for minutes.
func TestWorkOfWrappedKeys(t *testing.T) {
	ids := must(t, func() (*Identities, error) { return PassphraseIdentity("open") })
	_, err := ids.Unwrap(t.Context(), withWork(encrypted(t, "x", "open", workLog2, false), 30), seal.About{})
	if err == nil || !strings.Contains(err.Error(), "work factor") {
		t.Errorf("work of 2^30: %v", err)
	}
}

func TestLengthOfImageKey(t *testing.T) {
	_, ids := newX25519(t)
	for _, n := range []int{0, 31, 33, 1000} {
		file, err := ids.Recipients()[0].Encrypt(make([]byte, n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ids.Unwrap(t.Context(), file, seal.About{}); err == nil || errors.Is(err, seal.ErrNotRecipient) {
			t.Errorf("an image key of %d bytes: %v", n, err)
		}
		got, err := ids.Decrypt(file, n)
		if err != nil || len(got) != n {
			t.Errorf("%d bytes come back as %d, %v", n, len(got), err)
		}
	}
}

func TestCreateIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "identity")
	ids, err := CreateIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadIdentities(path, nil)
	if err != nil || again.Recipients()[0].String() != ids.Recipients()[0].String() {
		t.Fatalf("read again: %v, %v", again, err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateIdentity(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the second one changed the first, %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIdentities(path, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file for everybody: %v", err)
	}
}

// TestSecretsStayHidden prints identities in every way that logs use.
func TestSecretsStayHidden(t *testing.T) {
	secret, ids := newX25519(t)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "id", ids, "in", struct{ I *Identities }{ids})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "id", ids, "in", struct{ I *Identities }{ids})
	j, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %x %d %s %s", ids, ids, ids, ids, ids, ids, ids, j, &log)
	if strings.Contains(all, secret[16:40]) || strings.Contains(all, "AGE-SECRET") {
		t.Errorf("a secret shows: %s", all)
	}
	if !strings.Contains(all, ids.Recipients()[0].String()) {
		t.Errorf("the recipient does not show: %s", all)
	}
}

// TestAgeTool exchanges files with the age tool, both ways.
func TestAgeTool(t *testing.T) {
	for _, tool := range []string{"age", "age-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("RIVULET_E2E_STRICT") != "" {
				t.Fatal(err)
			}
			t.Skipf("needs %s", tool)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if out, err := exec.Command("age-keygen", "-o", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ids, err := ReadIdentities(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := seal.ImageKey{1, 2, 3}
	data, err := ids.Recipients()[0].Wrap(t.Context(), key, seal.About{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("age", "-d", "-i", path)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil || !bytes.Equal(out, key[:]) {
		t.Errorf("age decrypts %d bytes, %v", len(out), err)
	}
	cmd = exec.Command("age", "-r", ids.Recipients()[0].String())
	cmd.Stdin = bytes.NewReader(key[:])
	out, err = cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ids.Unwrap(t.Context(), out, seal.About{}); err != nil || got != key {
		t.Errorf("what age encrypted: another key, %v", err)
	}
}

// toilsome reports whether file asks for a passphrase and another work factor than
// the tests' own.
func toilsome(file []byte) bool {
	if _, armored, ok := bytes.Cut(file, []byte(armor.Header)); ok {
		text := append([]byte(armor.Header), armored...)
		file, _ = io.ReadAll(armor.NewReader(bytes.NewReader(text))) // as far as it can be read
	}
	return bytes.Contains(file, []byte("scrypt")) && !bytes.Contains(file, fmt.Appendf(nil, " %d\n", workLog2))
}

func FuzzParseIdentities(f *testing.F) {
	secret, _ := newX25519(f)
	f.Add([]byte("# c\n" + secret + "\n"))
	f.Add(encrypted(f, secret, "open", workLog2, false))
	f.Add(encrypted(f, secret, "open", workLog2, true))
	f.Add(sshKey(f, newEd25519(f), ""))
	f.Fuzz(func(t *testing.T, file []byte) {
		if toilsome(file) {
			return // the bound of work has a test of its own; here it would only be slow
		}
		ids, err := ParseIdentities("f", file, func(string) (string, error) { return "open", nil })
		if err == nil && len(ids.ids) == 0 {
			t.Fatal("no identity and no error")
		}
		if r, err := ParseRecipients(file); err == nil {
			for _, r := range r {
				if again, err := ParseRecipient(r.String()); err != nil || again.String() != r.String() {
					t.Fatalf("recipient %q comes back as %v, %v", r, again, err)
				}
			}
		}
	})
}

func FuzzUnwrap(f *testing.F) {
	_, ids := newX25519(f)
	data, err := ids.Recipients()[0].Encrypt(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := ids.Unwrap(t.Context(), data, seal.About{}); err != nil && key != (seal.ImageKey{}) {
			t.Fatal("an error and a key")
		}
	})
}
