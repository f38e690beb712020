package keyring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

func open(t testing.TB) *Folder {
	t.Helper()
	f, err := Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestIdentityIsMadeOnce(t *testing.T) {
	f := open(t)
	if _, err := f.Identity(nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v; want ErrNotExist", err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	made, who := 0, map[string]bool{}
	for range 8 {
		wg.Go(func() {
			ids, m, err := f.MakeIdentity(nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if m {
				made++
			}
			who[ids.Recipients()[0].String()] = true
		})
	}
	wg.Wait()
	if made != 1 || len(who) != 1 {
		t.Errorf("made %d times, %d identities; want one", made, len(who))
	}
	info, err := os.Stat(f.IdentityPath())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file: %v, %v; want mode 0600", info, err)
	}
	if err := os.Chmod(f.IdentityPath(), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.MakeIdentity(nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("that others can read: %v; want ErrPermission", err)
	}
}

func TestPublisher(t *testing.T) {
	f := open(t)
	first, made, err := f.MakePublisher()
	if err != nil || !made {
		t.Fatalf("made %v, %v", made, err)
	}
	again, made, err := f.MakePublisher()
	if err != nil || made || again.Public().String() != first.Public().String() {
		t.Errorf("again: %v, made %v, %v; want %v", again, made, err, first)
	}
	public, err := sign.FindPublicKey(f.file(publicFile))
	if err != nil || public.String() != first.Public().String() {
		t.Errorf("public key file: %v, %v", public, err)
	}
}

func TestTrusted(t *testing.T) {
	f := open(t)
	if keys, err := f.Trusted(); err != nil || keys != nil {
		t.Errorf("without a file: %v, %v", keys, err)
	}
	k, _, err := f.MakePublisher()
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(f.file(trustedFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# of the build farm\n\n" + string(k.Public().File()) + k.Public().String() + "\n")
	keys, err := f.Trusted()
	if err != nil || len(keys) != 2 || keys[0].String() != k.Public().String() {
		t.Errorf("Trusted = %v, %v; want the key twice", keys, err)
	}
	if err := os.Chmod(f.file(trustedFile), 0o664); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Trusted(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("that others can write: %v; want ErrPermission", err)
	}
	if err := os.Chmod(f.file(trustedFile), 0o644); err != nil {
		t.Fatal(err)
	}
	write(strings.Repeat("#", maxTrustedBytes+1))
	if _, err := f.Trusted(); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") || strings.Contains(err.Error(), "%!") {
		t.Errorf("too long: %v", err)
	}
	write("nonsense\n")
	if _, err := f.Trusted(); err == nil || !strings.Contains(err.Error(), trustedFile) {
		t.Errorf("nonsense: %v; want an error that names the file", err)
	}
}

func newSalt(t testing.TB, epoch uint32) *seal.Salt {
	t.Helper()
	s, err := seal.NewSalt("d", epoch)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A salt that a store swaps is refused; so are the return to an older one, and a
// new epoch that does not come of the old one.
func TestCheckSalt(t *testing.T) {
	f, first, second := open(t), newSalt(t, 1), newSalt(t, 2)
	const store = "s3://bucket/a prefix"
	third := newSalt(t, 3)
	never := func(blockmap.SaltID) (bool, error) { t.Error("asked for descent"); return false, nil }
	descends := func(from blockmap.SaltID) (bool, error) { return from == first.ID(), nil }
	for _, c := range []struct {
		what  string
		store string
		salt  *seal.Salt
		ok    bool
	}{
		{"the first", store, first, true},
		{"the same", store, first, true},
		{"another in that epoch", store, newSalt(t, 1), false},
		{"the same in another store", "dir:/x", newSalt(t, 1), true},
		{"a new epoch", store, second, true},
		{"the new one again", store, second, true},
		{"the old one again", store, first, false},
		{"another in the new epoch", store, newSalt(t, 2), false},
		{"an epoch that does not come of it", store, third, false},
	} {
		ask := never
		if c.salt == second && c.ok || c.salt == third {
			ask = descends
		}
		if err := f.CheckSalt(c.store, c.salt, ask); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrSalt) {
			t.Errorf("%s: %v; want it taken: %v", c.what, err, c.ok)
		}
	}
	broken := errors.New("the store does not answer")
	err := f.CheckSalt(store, third, func(blockmap.SaltID) (bool, error) { return true, broken })
	if !errors.Is(err, broken) || errors.Is(err, ErrSalt) {
		t.Errorf("when the store fails: %v; want its error", err)
	}
	made := newSalt(t, 1)
	if again, err := f.KeepSalt(store, made); err != nil || !again {
		t.Fatalf("kept again: %v, %v; want true", again, err)
	}
	if again, err := f.KeepSalt("dir:/y", made); err != nil || again {
		t.Fatalf("kept the first time: %v, %v; want false", again, err)
	}
	if err := f.CheckSalt(store, made, never); err != nil {
		t.Errorf("one's own for a domain that was not there: %v", err)
	}
	if err := f.CheckSalt(store, second, descends); !errors.Is(err, ErrSalt) {
		t.Errorf("an epoch of the domain before it: %v; want ErrSalt", err)
	}
	b, err := os.ReadFile(f.file(saltsFile))
	if err != nil || strings.Contains(string(b), string(first.Bytes()[28:60])) {
		t.Errorf("the file has a secret, or %v", err)
	}
	if err := os.WriteFile(f.file(saltsFile), []byte("one two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.CheckSalt(store, first, never); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a damaged file: %v; want the line", err)
	}
}

func TestSeen(t *testing.T) {
	f, salt := open(t), newSalt(t, 1)
	const store = "s3://bucket/a prefix"
	guess := func(what, store string, generation uint32, ok bool) {
		t.Helper()
		id, g, found := f.Seen(store, "d")
		if found != ok || ok && (id != salt.ID() || g != generation) {
			t.Errorf("%s: salt %x, generation %d, %v; want generation %d, %v", what, id, g, found, generation, ok)
		}
	}
	guess("in a folder that is not there", store, 0, false)
	if err := f.See(store, 7); err != nil {
		t.Fatal(err)
	}
	guess("without a salt", store, 0, false)
	if _, err := f.KeepSalt(store, salt); err != nil {
		t.Fatal(err)
	}
	guess("seen", store, 7, true)
	for _, g := range []uint32{8, 8} {
		if err := f.See(store, g); err != nil {
			t.Fatal(err)
		}
	}
	guess("seen later", store, 8, true)
	guess("another store", "dir:/x", 0, false)
	if b, err := os.ReadFile(f.file(generationsFile)); err != nil || string(b) != "s3:%2F%2Fbucket%2Fa%20prefix 8\n" {
		t.Errorf("the file has %q, %v", b, err)
	}
	for i := range 20 { // a file that does not grow without bound, and forgets the oldest
		if err := f.See(fmt.Sprintf("s3://bucket/%04000d", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(f.file(generationsFile))
	if err != nil || info.Size() > maxSeenBytes {
		t.Fatalf("%v, %v; want at most %d bytes", info, err, maxSeenBytes)
	}
	guess("long ago", store, 0, false)
	if err := os.WriteFile(f.file(generationsFile), []byte("s3:%zz 1\nx\ns3:%2F%2Fbucket%2Fa%20prefix -1\n\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	guess("in a damaged file", store, 0, false)
	if err := f.See(store, 9); err != nil {
		t.Fatal(err)
	}
	guess("seen again", store, 9, true)
}

func TestFolderOfTheUser(t *testing.T) {
	t.Setenv(Environment, "/somewhere/keys")
	if f, err := Open(""); err != nil || f.Path() != "/somewhere/keys" {
		t.Errorf("Open = %v, %v", f, err)
	}
}
