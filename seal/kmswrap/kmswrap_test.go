package kmswrap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/wraptest"
)

var about = seal.About{Map: origin.Sum([]byte("map")), Source: origin.Sum([]byte("source"))}

func (d *double) pair(t *testing.T, key string, readable ...string) (*Wrapper, *Unwrapper) {
	t.Helper()
	w, err := NewWrapper(t.Context(), key, d.options())
	if err != nil {
		t.Fatal(err)
	}
	u, err := NewUnwrapper(t.Context(), d.options(), readable...)
	if err != nil {
		t.Fatal(err)
	}
	return w, u
}

func TestSuite(t *testing.T) {
	wraptest.Run(t, func(t *testing.T) wraptest.Pair {
		d := newDouble(t)
		w, u := d.pair(t, keyARN)
		_, stranger := d.pair(t, keyARN, otherARN)
		return wraptest.Pair{Wrapper: w, Unwrapper: u, Stranger: stranger, Bound: true}
	})
}

// TestRequests looks at what KMS is asked: the double has checked its form.
func TestRequests(t *testing.T) {
	d := newDouble(t)
	w, u := d.pair(t, strings.Replace(keyARN, "key/1234abcd-12ab-34cd-56ef-1234567890ab", "alias/rivulet", 1))
	key := seal.ImageKey{1, 2, 3}
	data, err := w.Wrap(t.Context(), key, about)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := u.Unwrap(t.Context(), data, about); err != nil || got != key {
		t.Fatalf("another key, %v", err)
	}
	if !maps.Equal(d.calls, map[string]int{"GenerateDataKey": 1, "Decrypt": 1}) || d.regions["eu-west-1"] != 2 {
		t.Errorf("calls %v in regions %v", d.calls, d.regions)
	}
	for _, k := range d.blobs {
		if want := (map[string]string{"rivulet-image": about.Source.String()}); !maps.Equal(k.context, want) {
			t.Errorf("context %v, want %v", k.context, want)
		}
		if bytes.Contains(data, k.plain) || bytes.Equal(k.plain, key[:]) {
			t.Error("the data key is stored, or is the image key")
		}
	}
	if !bytes.Contains(data, []byte(keyARN)) {
		t.Error("the wrapped key does not name the key that its alias stood for")
	}
}

func TestRegions(t *testing.T) {
	d := newDouble(t)
	for _, key := range []string{keyARN, otherARN} {
		w, _ := d.pair(t, key)
		_, u := d.pair(t, keyARN)
		data, err := w.Wrap(t.Context(), seal.ImageKey{7}, about)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := u.Unwrap(t.Context(), data, about); err != nil || got != (seal.ImageKey{7}) {
			t.Errorf("%s: another key, %v", key, err)
		}
	}
	if d.regions["eu-west-1"] != 2 || d.regions["us-east-2"] != 2 {
		t.Errorf("requests in %v", d.regions)
	}
	if _, err := NewWrapper(t.Context(), "alias/rivulet", d.options()); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("an alias without a region: %v", err)
	}
	t.Setenv("AWS_REGION", "eu-west-1")
	w, _ := d.pair(t, "alias/rivulet")
	if _, err := w.Wrap(t.Context(), seal.ImageKey{7}, about); err != nil {
		t.Errorf("an alias in the region of the environment: %v", err)
	}
	for _, key := range []string{"arn:aws:s3:::bucket", "alias/rivulet", ""} {
		if _, err := NewUnwrapper(t.Context(), d.options(), key); err == nil {
			t.Errorf("key %q for reading is accepted", key)
		}
	}
	if _, err := NewWrapper(t.Context(), "arn:aws:s3:::bucket", d.options()); err == nil {
		t.Error("a bucket is accepted as key")
	}
}

// TestFailures gives each failure of KMS a message that says what to do, and no
// secret in it.
func TestFailures(t *testing.T) {
	d := newDouble(t)
	t.Setenv("AWS_SESSION_TOKEN", "session-token-secret")
	w, u := d.pair(t, keyARN)
	data, err := w.Wrap(t.Context(), seal.ImageKey{9: 9}, about)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ code, want string }{
		{"AccessDeniedException", "policy must allow"},
		{"ExpiredTokenException", "have expired"},
		{"InvalidSignatureException", "clock"},
		{"UnrecognizedClientException", "credentials"},
		{"NotFoundException", "no such key"},
		{"DisabledException", "disabled"},
		{"KMSInvalidStateException", "state"},
		{"InvalidCiphertextException", "another image"},
		{"SomethingNewException", "SomethingNewException"},
	} {
		for op, call := range map[string]func() error{
			"GenerateDataKey": func() error { _, err := w.Wrap(t.Context(), seal.ImageKey{9: 9}, about); return err },
			"Decrypt":         func() error { _, err := u.Unwrap(t.Context(), data, about); return err },
		} {
			before := d.count(op)
			d.failNext(DefaultAttempts, answer{400, c.code, "because"})
			err := call()
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), keyARN) || errors.Is(err, seal.ErrNotRecipient) {
				t.Errorf("%s, %s: %v; want an error with %q and the key", op, c.code, err, c.want)
				continue
			}
			if n := d.count(op) - before; n != 1 && c.code != "InvalidSignatureException" {
				t.Errorf("%s, %s: asked %d times; no retry mends that", op, c.code, n)
			}
			for _, secret := range []string{secretID, "session-token-secret", string(data[len(data)-20:])} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s, %s: a secret in %v", op, c.code, err)
				}
			}
		}
	}
	d.failNext(0, answer{})
	if _, err := u.Unwrap(t.Context(), data, about); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestThrottling: calls that are turned away for now are made again.
func TestThrottling(t *testing.T) {
	d := newDouble(t)
	w, u := d.pair(t, keyARN)
	data, err := w.Wrap(t.Context(), seal.ImageKey{1}, about)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []answer{{400, "ThrottlingException", "slow down"}, {500, "KMSInternalException", ""}, {503, "ServiceUnavailable", ""}} {
		before := d.count("Decrypt")
		d.failNext(2, a)
		if got, err := u.Unwrap(t.Context(), data, about); err != nil || got != (seal.ImageKey{1}) {
			t.Errorf("%s twice: another key, %v", a.code, err)
		}
		if n := d.count("Decrypt") - before; n != 3 {
			t.Errorf("%s twice: asked %d times, want 3", a.code, n)
		}
	}
	o := d.options()
	o.Attempts = 2
	if u, err = NewUnwrapper(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	before := d.count("Decrypt")
	d.failNext(10, answer{400, "ThrottlingException", "slow down"})
	if _, err := u.Unwrap(t.Context(), data, about); err == nil || !strings.Contains(err.Error(), "too many calls") {
		t.Errorf("throttled without end: %v", err)
	}
	if n := d.count("Decrypt") - before; n != 2 {
		t.Errorf("throttled without end: asked %d times, want 2", n)
	}
}

func TestNoCredentials(t *testing.T) {
	d := newDouble(t)
	w, _ := d.pair(t, keyARN)
	if _, err := w.Wrap(t.Context(), seal.ImageKey{1}, about); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	before := d.count("GenerateDataKey")
	w, _ = d.pair(t, keyARN)
	if _, err := w.Wrap(t.Context(), seal.ImageKey{1}, about); err == nil || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("without credentials: %v", err)
	}
	if n := d.count("GenerateDataKey") - before; n != 0 {
		t.Errorf("asked %d times without credentials", n)
	}
}

// TestUnreachable: a KMS that is not there ends with the context.
func TestUnreachable(t *testing.T) {
	d := newDouble(t)
	w, _ := d.pair(t, keyARN)
	d.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := w.Wrap(ctx, seal.ImageKey{1}, about); err == nil {
		t.Error("wrapped by nobody")
	}
}

// TestMoved gives KMS nothing to object to: the envelope itself is bound to the
// block map.
func TestMoved(t *testing.T) {
	d := newDouble(t)
	w, u := d.pair(t, keyARN)
	data, err := w.Wrap(t.Context(), seal.ImageKey{1}, about)
	if err != nil {
		t.Fatal(err)
	}
	before := d.count("Decrypt")
	_, err = u.Unwrap(t.Context(), data, seal.About{Map: origin.Sum([]byte("other")), Source: about.Source})
	if !errors.Is(err, errMoved) || d.count("Decrypt") != before+1 {
		t.Errorf("moved to another map: %v", err)
	}
}

func TestHostileRegions(t *testing.T) {
	d := newDouble(t)
	_, u := d.pair(t, keyARN)
	var last error
	for i := range maxRegions + 1 {
		_, last = u.clients.of(fmt.Sprintf("arn:aws:kms:r%d:111122223333:key/x", i))
	}
	if last == nil {
		t.Error("wrapped keys can make clients without bound")
	}
	_, u = d.pair(t, keyARN)
	for _, region := range []string{"", "evil.com", "evil.com/", "evil.com#", "a@b", "a:b", "A", "-a", "a b", "a\nb", "é"} {
		key := strings.Replace(keyARN, "eu-west-1", region, 1)
		if _, err := u.clients.of(key); err == nil {
			t.Errorf("region %q is asked", region)
		}
		if _, err := NewWrapper(t.Context(), key, d.options()); err == nil {
			t.Errorf("region %q is accepted", region)
		}
	}
}

func TestParse(t *testing.T) {
	e := envelope{key: keyARN, dataKey: []byte("data key")}
	good, err := e.seal([32]byte{1}, seal.ImageKey{2}, about)
	if err != nil {
		t.Fatal(err)
	}
	p, err := parse(good)
	if err != nil || p.key != keyARN || string(p.dataKey) != "data key" {
		t.Fatalf("%+v, %v", p, err)
	}
	if key, err := p.open([32]byte{1}, about); err != nil || key != (seal.ImageKey{2}) {
		t.Errorf("another key, %v", err)
	}
	if _, err := p.open([32]byte{2}, about); err == nil {
		t.Error("opens with another data key")
	}
	for i := range len(good) {
		if _, err := parse(good[:i]); err == nil {
			t.Errorf("%d bytes of %d are accepted", i, len(good))
		}
	}
	for at, what := range map[int]string{0: "magic", 9: "first letter of the name", 7: "length of the name", 8: "length of the name", 9 + len(keyARN): "length of the data key"} {
		bad := slices.Clone(good)
		bad[at] ^= 0x80
		if _, err := parse(bad); err == nil {
			t.Errorf("%s changed: accepted", what)
		}
	}
	for _, e := range []envelope{{}, {key: keyARN}, {key: "alias/x", dataKey: []byte("d")}, {key: keyARN + strings.Repeat("k", maxARN), dataKey: []byte("d")}, {key: keyARN, dataKey: make([]byte, maxDataKey+1)}} {
		if _, err := e.seal([32]byte{1}, seal.ImageKey{2}, about); err == nil {
			t.Errorf("a name of %d bytes and a data key of %d are stored", len(e.key), len(e.dataKey))
		}
	}
}

// vector is what doc/format/blockmap.md says of testdata/wrapped.
var vector = struct {
	dataKey [32]byte
	key     seal.ImageKey
	about   seal.About
}{
	[32]byte(bytes.Repeat([]byte{0x42}, 32)), seal.ImageKey(sha256.Sum256([]byte("image key"))), about,
}

var update = flag.Bool("update", false, "write the vector anew")

func TestVector(t *testing.T) {
	const path = "testdata/wrapped"
	if *update {
		e := envelope{key: keyARN, dataKey: []byte("a data key as KMS encrypted it")}
		b, err := e.seal(vector.dataKey, vector.key, vector.about)
		if err == nil {
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	e, err := parse(b)
	if err != nil || e.key != keyARN {
		t.Fatalf("%+v, %v", e, err)
	}
	if key, err := e.open(vector.dataKey, vector.about); err != nil || key != vector.key {
		t.Errorf("another key, %v", err)
	}
}

func FuzzParse(f *testing.F) {
	e := envelope{key: keyARN, dataKey: []byte("data key")}
	good, err := e.seal([32]byte{1}, seal.ImageKey{2}, about)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parse(b)
		if err != nil {
			return
		}
		if len(e.key) == 0 || len(e.key) > maxARN || len(e.dataKey) == 0 || len(e.dataKey) > maxDataKey || len(e.head)+len(e.sealed) != len(b) {
			t.Fatalf("a name of %d bytes, a data key of %d, %d and %d of %d", len(e.key), len(e.dataKey), len(e.head), len(e.sealed), len(b))
		}
		_, _ = e.open([32]byte{1}, about)
	})
}
