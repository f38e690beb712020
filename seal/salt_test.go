package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

func newSalt(t testing.TB, domain string, epoch uint32) *seal.Salt {
	t.Helper()
	s, err := seal.NewSalt(domain, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSaltIsStored(t *testing.T) {
	long := strings.Repeat("d", seal.MaxDomainBytes)
	for _, s := range []*seal.Salt{newSalt(t, "default", 1), newSalt(t, "a", 0), newSalt(t, long, 1<<32-1), newSalt(t, "tenant-7.eu_west", 9)} {
		b := s.Bytes()
		got, err := seal.ParseSalt(b)
		if err != nil || got.ID() != s.ID() || got.Domain() != s.Domain() || got.Epoch() != s.Epoch() || !bytes.Equal(got.Bytes(), b) {
			t.Errorf("%v comes back as %v, %v", s, got, err)
		}
		if len(b) > seal.MaxSaltBytes {
			t.Errorf("%v: %d bytes, at most %d", s, len(b), seal.MaxSaltBytes)
		}
		for at := range b {
			bad := slices.Clone(b)
			bad[at] ^= 1
			if got, err := seal.ParseSalt(bad); !errors.Is(err, seal.ErrSalt) {
				t.Errorf("%v, byte %d changed: %v, %v", s, at, got, err)
			}
		}
		for _, bad := range [][]byte{nil, b[:8], b[:59], b[:len(b)-len(s.Domain())], append(slices.Clone(b), '!'), append(slices.Clone(b), bytes.Repeat([]byte("d"), 65)...)} {
			if got, err := seal.ParseSalt(bad); !errors.Is(err, seal.ErrSalt) {
				t.Errorf("%v of %d bytes: %v, %v", s, len(bad), got, err)
			}
		}
	}
}

func TestDomainNames(t *testing.T) {
	for _, name := range []string{"a", "0", "default", "a.b-c_d"} {
		if err := seal.CheckDomain(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".a", "-a", "_a", "A", "a/b", "a b", "a\x00", "ä", strings.Repeat("a", seal.MaxDomainBytes+1)} {
		if err := seal.CheckDomain(name); err == nil {
			t.Errorf("domain %q is accepted", name)
		}
		if _, err := seal.NewSalt(name, 1); err == nil {
			t.Errorf("a salt of domain %q is made", name)
		}
	}
}

// TestSaltsShareNothing: equal content has other keys, names and bytes under
// another secret, another domain and another epoch.
func TestSaltsShareNothing(t *testing.T) {
	a := fixedSalt(t, "default", 1)
	salts := map[string]*seal.Salt{"first": a, "another domain": fixedSalt(t, "other", 1), "another epoch": fixedSalt(t, "default", 2), "another secret": newSalt(t, "default", 1)}
	for _, plain := range [][]byte{text(100_000), noise(1, 100_000), []byte("too long to be equal by chance")} {
		ids, keys := map[chunk.ID]string{}, map[seal.Key]string{}
		for name, s := range salts {
			c, err := newSealer(t, seal.Options{Salt: s}).Seal(plain)
			if err != nil {
				t.Fatal(err)
			}
			again, err := newSealer(t, seal.Options{Salt: s}).Seal(plain)
			if err != nil || again.ID != c.ID {
				t.Errorf("%s: sealed twice, two names (%v)", name, err)
			}
			if other, ok := ids[c.ID]; ok {
				t.Errorf("%s and %s: one chunk", name, other)
			}
			if other, ok := keys[c.Key]; ok {
				t.Errorf("%s and %s: one key", name, other)
			}
			ids[c.ID], keys[c.Key] = name, name
		}
	}
	if _, err := seal.NewSealer(seal.Options{}); err == nil || !strings.Contains(err.Error(), "no salt") {
		t.Errorf("a sealer without a salt: %v", err)
	}
}

// TestSecretsStayHidden prints salts and keys in every way that logs and errors
// use, and looks for their bytes.
func TestSecretsStayHidden(t *testing.T) {
	s := fixedSalt(t, "default", 1)
	c, err := newSealer(t, seal.Options{Salt: s}).Seal(text(1000))
	if err != nil {
		t.Fatal(err)
	}
	image := seal.ImageKey(bytes.Repeat([]byte{0x5a, 0xa6}, 16))
	m, err := seal.LockOpen(&blockmap.Info{Layout: 1, Size: 65536, ChunkLog2: 16, FrameLog2: 16, SaltID: s.ID()},
		[]blockmap.Chunk{{Stored: uint32(len(c.Object)), Size: 1000, ID: c.ID, Key: c.Key}})
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Salt  *seal.Salt
		Value seal.Salt
		Key   seal.Key
		Image seal.ImageKey
		Chunk blockmap.Chunk
	}
	h := holder{s, *s, c.Key, image, m.Chunk(0)}
	var out bytes.Buffer
	for _, v := range []any{s, *s, c.Key, &c.Key, image, &image, m, m.Chunk(0), h, &h, []seal.Key{c.Key}, map[string]seal.ImageKey{"k": image}} {
		_, _ = fmt.Fprintf(&out, "%v %+v %#v %s %q %x %X %d %o %v\n", v, v, v, v, v, v, v, v, v, fmt.Errorf("wrapped: %v", v))
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("x", "v", v)
		}
		if _, isMap := v.(*blockmap.Map); !isMap {
			if err := json.NewEncoder(&out).Encode(v); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, secret := range map[string][]byte{"salt": s.Bytes()[28:60], "chunk key": c.Key[:], "image key": image[:]} {
		for _, form := range []string{"%s", "%x", "%X", "%d", "%o", "%v", "% x", "%#v"} {
			shown := strings.Trim(fmt.Sprintf(form, secret[4:12]), "[]")
			shown = strings.TrimSuffix(strings.TrimPrefix(shown, "[]byte{"), "}")
			if strings.Contains(out.String(), shown) {
				t.Errorf("%s shows as %s", name, form)
			}
		}
	}
	if !strings.Contains(out.String(), fmt.Sprintf("%x", s.ID())) {
		t.Error("the salt's ID does not show")
	}
}

func FuzzParseSalt(f *testing.F) {
	f.Add(fixedSalt(f, "default", 1).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := seal.ParseSalt(b)
		if err == nil && !bytes.Equal(s.Bytes(), b) {
			t.Fatal("a salt has two forms")
		}
	})
}
