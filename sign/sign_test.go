package sign

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/origin"
)

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signed(t testing.TB, k *Key, message []byte, comment string) []byte {
	t.Helper()
	s, err := k.Sign(message, comment)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newMap returns a block map of an image that source names.
func newMap(t testing.TB, source string) *blockmap.Map {
	t.Helper()
	info := &blockmap.Info{Layout: 1, Size: 512, ChunkLog2: 16, FrameLog2: 14, SaltID: blockmap.SaltID{1},
		Disk: blockmap.NewDiskHash(1, 512).Sum(), Source: origin.Sum([]byte(source)), ChainID: origin.Sum([]byte("chain"))}
	b, err := blockmap.Encode(info, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := blockmap.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSign(t *testing.T) {
	k, other := newKey(t), newKey(t)
	for _, n := range []int{0, 1, 64 << 10, 1<<20 + 3} {
		message := make([]byte, n)
		_, _ = rand.Read(message)
		s := signed(t, k, message, "a comment, äöü")
		if len(s) > MaxSignatureBytes || !bytes.Equal(s, signed(t, k, message, "a comment, äöü")) {
			t.Errorf("%d bytes: signature of %d bytes, or another one each time", n, len(s))
		}
		by, comment, err := Verify(message, s, other.Public(), k.Public())
		if err != nil || by.String() != k.Public().String() || comment != "a comment, äöü" {
			t.Errorf("%d bytes: by %v, %q, %v", n, by, comment, err)
		}
		if _, _, err := Verify(append(message, 0), s, k.Public()); !errors.Is(err, ErrSignature) {
			t.Errorf("%d bytes, of something else: %v", n, err)
		}
		for _, trusted := range [][]PublicKey{nil, {other.Public()}} {
			if _, _, err := Verify(message, s, trusted...); !errors.Is(err, ErrOtherKey) {
				t.Errorf("%d bytes, by a stranger: %v", n, err)
			}
		}
	}
	for _, comment := range []string{"two\nlines", "a\rb", strings.Repeat("x", MaxSignatureBytes)} {
		if _, err := k.Sign(nil, comment); err == nil {
			t.Errorf("comment %.10q is signed", comment)
		}
	}
}

// TestDamage changes each byte of a signature. Those of the untrusted comment,
// ends of lines, and what base64 does not use of its last digit say nothing.
func TestDamage(t *testing.T) {
	k := newKey(t)
	message := []byte("message")
	good := signed(t, k, message, "trusted")
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		_, comment, err := Verify(message, bad, k.Public())
		if err == nil && comment != "trusted" {
			t.Errorf("byte %d (%q): comment %q", at, good[at], comment)
		}
		idle := at < bytes.IndexByte(good, '\n') || bytes.IndexByte([]byte("\n="), good[at]) >= 0 || good[at+1] == '='
		if err == nil && !idle {
			t.Errorf("byte %d (%q): accepted", at, good[at])
		}
	}
	for i := range len(good) - 1 {
		if _, _, err := Verify(message, good[:i], k.Public()); err == nil {
			t.Errorf("%d bytes of %d: accepted", i, len(good))
		}
	}
	if _, _, err := Verify(message, append(good, bytes.Repeat([]byte("\n"), MaxSignatureBytes)...), k.Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("too long: %v", err)
	}
}

// TestSameID: an ID proves nothing, and two keys may have one.
func TestSameID(t *testing.T) {
	k, other := newKey(t), newKey(t)
	text := strings.TrimSpace(other.Public().String())
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	own, err := base64.StdEncoding.DecodeString(k.Public().String())
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[2:10], own[2:10])
	twin, err := ParsePublicKey(base64.StdEncoding.EncodeToString(raw))
	if err != nil || twin.ID() != k.Public().ID() {
		t.Fatalf("%v: ID %s, want %s", err, twin.ID(), k.Public().ID())
	}
	s := signed(t, k, nil, "x")
	if by, _, err := Verify(nil, s, twin, k.Public()); err != nil || by.String() != k.Public().String() {
		t.Errorf("by %v, %v", by, err)
	}
	if _, _, err := Verify(nil, s, twin); !errors.Is(err, ErrSignature) {
		t.Errorf("by the twin: %v", err)
	}
}

// TestNotPrehashed: the older form is refused with what to do.
func TestNotPrehashed(t *testing.T) {
	k := newKey(t)
	s := minisign.SignWithComments(k.private, []byte("message"), "trusted", "untrusted")
	if _, _, err := Verify([]byte("message"), s, k.Public()); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "-H") {
		t.Errorf("%v", err)
	}
}

func TestStatement(t *testing.T) {
	m := newMap(t, "a")
	s := StatementOf(m)
	if got, err := ParseStatement(s.String()); err != nil || got != s {
		t.Errorf("%v comes back as %v, %v", s, got, err)
	}
	for _, bad := range []string{
		"", "timestamp:1", s.String() + " ", s.String() + " x=y", " " + s.String(),
		strings.Replace(s.String(), " chain", "  chain", 1), strings.Replace(s.String(), "chain=", "layer=", 1),
		strings.Replace(s.String(), "sha256:", "sha256:0", 1), strings.Replace(s.String(), "rivulet", "Rivulet", 1),
	} {
		if got, err := ParseStatement(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

// attached is an origin.Attachments of one object's signatures.
type attached struct {
	origin.Attachments
	subject    origin.Digest
	signatures [][]byte
	err        error
}

func (a *attached) ListAttachments(_ context.Context, subject origin.Digest, kind string, fn func([]byte) error) error {
	if a.err != nil || subject != a.subject || kind != Kind {
		return a.err
	}
	for _, s := range a.signatures {
		if err := fn(bytes.Clone(s)); err != nil {
			return err
		}
	}
	return nil
}

func TestRequire(t *testing.T) {
	k, other, m := newKey(t), newKey(t), newMap(t, "a")
	sign := func(k *Key, m *blockmap.Map) []byte {
		s, err := k.SignMap(m)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	right, stranger, elsewhere := sign(k, m), sign(other, m), sign(k, newMap(t, "b"))
	plain := signed(t, k, m.Bytes(), "timestamp:1")
	lying := signed(t, k, m.Bytes(), StatementOf(newMap(t, "b")).String())
	broken := errors.New("store is down")
	for name, c := range map[string]struct {
		signatures [][]byte
		store      error
		want       error
	}{
		"right":              {[][]byte{right}, nil, nil},
		"right, among more":  {[][]byte{[]byte("garbage"), stranger, elsewhere, plain, lying, right}, nil, nil},
		"none":               {nil, nil, ErrOtherKey},
		"by a stranger":      {[][]byte{stranger}, nil, ErrOtherKey},
		"of another map":     {[][]byte{stranger, elsewhere}, nil, ErrSignature},
		"without statement":  {[][]byte{plain}, nil, ErrSignature},
		"with another one's": {[][]byte{lying}, nil, ErrSignature},
		"store is down":      {nil, broken, broken},
	} {
		by, err := Require(t.Context(), m, &attached{subject: m.Digest(), signatures: c.signatures, err: c.store}, k.Public())
		if !errors.Is(err, c.want) || c.want == nil && (err != nil || by.String() != k.Public().String()) {
			t.Errorf("%s: by %v, %v; want %v", name, by, err, c.want)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "publisher")
	k, err := CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadKey(path)
	if err != nil || again.Public().String() != k.Public().String() {
		t.Fatalf("read again: %v, %v", again, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := CreateKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file for the group: %v", err)
	}
}

func TestKeyRefused(t *testing.T) {
	k := newKey(t)
	file, err := k.private.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	comment, text, _ := strings.Cut(string(file), "\n")
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	bend := func(at int) []byte {
		b := bytes.Clone(raw)
		b[at] ^= 1
		return []byte(comment + "\n" + base64.StdEncoding.EncodeToString(b))
	}
	scrypt := bytes.Clone(raw) // says that it is encrypted
	copy(scrypt[2:], "Sc")
	locked := []byte(comment + "\n" + base64.StdEncoding.EncodeToString(scrypt))
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":           {nil, "no secret key"},
		"cut":             {file[:len(file)-9], "no secret key"},
		"garbage":         {[]byte(comment + "\nhello"), "no secret key"},
		"too long":        {bytes.Repeat([]byte("x"), maxKeyFile+1), "more than"},
		"public":          {k.Public().File(), "no secret key"},
		"with passphrase": {locked, "-W"},
		"secret changed":  {bend(70), "damaged"},
		"public changed":  {bend(62 + 40), "damaged"},
	} {
		got, err := ParseKey(c.file)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want an error with %q", name, got, err, c.want)
		} else if strings.Contains(err.Error(), text[90:110]) {
			t.Errorf("%s: the error has the secret", name)
		}
	}
}

func TestPublicKey(t *testing.T) {
	k := newKey(t).Public()
	path := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(path, k.File(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{k.String(), " " + k.String() + "\n", string(k.File()), path} {
		if got, err := FindPublicKey(s); err != nil || got.String() != k.String() || got.ID() != k.ID() {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "RW", k.String()[:50], "RX" + k.String()[2:], path + "x", strings.Repeat("x", maxKeyFile+1)} {
		if got, err := FindPublicKey(s); err == nil {
			t.Errorf("%.80q: %v", s, got)
		}
	}
}

// TestSecretsStayHidden prints a key in every way that logs use.
func TestSecretsStayHidden(t *testing.T) {
	k := newKey(t)
	file, err := k.private.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Split(string(file), "\n")[1])
	if err != nil {
		t.Fatal(err)
	}
	secret := raw[62 : 62+32]
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "key", k, "in", struct{ K *Key }{k})
	}
	j, err := json.Marshal(struct{ K *Key }{k})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %x %d %s %s", k, k, k, k, k, k, k, j, &log)
	for _, form := range []string{
		string(secret[:8]), fmt.Sprintf("%x", secret[:8]), strings.Trim(fmt.Sprintf("%d", secret[:8]), "[]"),
		base64.StdEncoding.EncodeToString(secret)[:20], string(file[100:120]),
	} {
		if strings.Contains(all, form) {
			t.Errorf("the secret shows: %s", all)
		}
	}
}

// TestMinisignTool exchanges signatures and keys with the minisign tool.
func TestMinisignTool(t *testing.T) {
	if _, err := exec.LookPath("minisign"); err != nil {
		if os.Getenv("RIVULET_E2E_STRICT") != "" {
			t.Fatal(err)
		}
		t.Skip("needs minisign")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("minisign", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("minisign %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	m := newMap(t, "a")
	if err := os.WriteFile(at("map"), m.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := CreateKey(at("own"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.SignMap(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("map.minisig"), s, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run("-V", "-P", k.Public().String(), "-m", at("map")); !strings.Contains(out, StatementOf(m).String()) {
		t.Errorf("minisign shows %q", out)
	}
	// Our key in its hands, its key in ours.
	run("-S", "-H", "-W", "-s", at("own"), "-m", at("map"), "-x", at("theirs.minisig"), "-t", StatementOf(m).String())
	run("-G", "-W", "-p", at("gen.pub"), "-s", at("gen"))
	theirs, err := ReadKey(at("gen"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := FindPublicKey(at("gen.pub"))
	if err != nil || pub.String() != theirs.Public().String() {
		t.Errorf("public key %v, %v; want %v", pub, err, theirs.Public())
	}
	run("-S", "-H", "-s", at("gen"), "-m", at("map"), "-x", at("gen.minisig"), "-t", StatementOf(m).String())
	for name, key := range map[string]PublicKey{"theirs.minisig": k.Public(), "gen.minisig": pub} {
		b, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyMap(m, b, key); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	k := newKey(f)
	f.Add([]byte("message"), signed(f, k, []byte("message"), "trusted"))
	f.Add([]byte("message"), minisign.SignWithComments(k.private, []byte("message"), "trusted", "untrusted"))
	f.Fuzz(func(t *testing.T, message, signature []byte) {
		by, comment, err := Verify(message, signature, k.Public())
		if err == nil && (by.String() != k.Public().String() || comment != "trusted") {
			t.Fatalf("by %v, comment %q", by, comment)
		}
	})
}

func FuzzParseStatement(f *testing.F) {
	f.Add(StatementOf(newMap(f, "a")).String())
	f.Fuzz(func(t *testing.T, comment string) {
		if s, err := ParseStatement(comment); err == nil && s.String() != comment {
			t.Fatalf("%q is read, and written as %q", comment, s)
		}
	})
}
