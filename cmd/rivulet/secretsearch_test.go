package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A search looks for secrets in what leaves a process, in the forms in which they
// are likely to be written.
type search struct {
	t     *testing.T
	forms map[string]string // what each form is of
	bytes int
}

// add looks for a secret as it is, in hexadecimal, and in base64 at any place of a
// longer text.
func (s *search) add(what string, secret []byte) {
	s.t.Helper()
	if len(secret) < 16 {
		s.t.Fatalf("%s: %d bytes are no secret", what, len(secret))
	}
	form := func(how, text string) { s.forms[text] = what + ", " + how }
	form("as it is", string(secret))
	form("in hexadecimal", hex.EncodeToString(secret))
	form("in upper-case hexadecimal", strings.ToUpper(hex.EncodeToString(secret)))
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := enc.EncodeToString(append(make([]byte, before), secret...))
			first := (before*8 + 5) / 6 // digit that has bits of the secret alone
			last := (before + len(secret)) * 8 / 6
			form("in base64", text[first:last])
		}
	}
}

// find returns the secrets in b.
func (s *search) find(b []byte) (found []string) {
	for text, what := range s.forms {
		if bytes.Contains(b, []byte(text)) {
			found = append(found, what)
		}
	}
	return found
}

// in fails the test if there is a secret in b.
func (s *search) in(where string, b []byte) {
	s.t.Helper()
	s.bytes += len(b)
	if found := s.find(b); found != nil {
		s.t.Errorf("%s has secrets: %q", where, found)
	}
}

// under searches all files below a folder.
func (s *search) under(root string) {
	s.t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		s.in(path, b)
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
}

// TestSearchFindsSecrets: the search finds each form where there is one.
func TestSearchFindsSecrets(t *testing.T) {
	secret := []byte("0123456789abcdef\xff\xfe\xfd")
	for _, text := range []string{
		string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		base64.StdEncoding.EncodeToString(secret), base64.URLEncoding.EncodeToString(secret),
		base64.StdEncoding.EncodeToString(append([]byte("x"), secret...)), base64.StdEncoding.EncodeToString([]byte("user:" + string(secret) + "?")),
	} {
		s := &search{t: t, forms: map[string]string{}}
		s.add("secret", secret)
		if s.find([]byte("before "+text+" after")) == nil {
			t.Errorf("%q is not found", text)
		}
	}
}

// bech32 returns the bytes of an age identity.
func bech32(t *testing.T, s string) []byte {
	t.Helper()
	const digits = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	text := strings.ToLower(s[strings.LastIndexByte(s, '1')+1:])
	n := new(big.Int)
	for _, c := range text[:len(text)-6] {
		i := strings.IndexRune(digits, c)
		if i < 0 {
			t.Fatalf("%q is no digit", c)
		}
		n.Or(n.Lsh(n, 5), big.NewInt(int64(i)))
	}
	return n.Rsh(n, 4).FillBytes(make([]byte, 32)) // 52 digits are 4 bits more
}
