// Package threat has tests of what a hostile store, or somebody who may write to
// one, can make publishers and readers do: the claims of doc/threat-model.md that
// take more than one package to show. Limits of the design are among them, so that
// the document is changed with them.
package threat

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/domain"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/keyring"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
)

var ctx = context.Background()

// A person has a signing key, an identity and a keyring.
type person struct {
	t      *testing.T
	signer *sign.Key
	ids    *agewrap.Identities
	keys   *keyring.Folder
}

func newPerson(t *testing.T) *person {
	t.Helper()
	keys, err := keyring.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := keys.MakeIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, _, err := keys.MakePublisher()
	if err != nil {
		t.Fatal(err)
	}
	return &person{t, signer, ids, keys}
}

func (p *person) recipient() []seal.Recipient { return []seal.Recipient{p.ids.Recipients()[0]} }
func (p *person) opens() []seal.Unwrapper     { return []seal.Unwrapper{p.ids} }

// publish publishes a folder with one file, locked for this person and others.
func (p *person) publish(o origin.Origin, name, content string, others ...*person) *publish.Result {
	p.t.Helper()
	tree := p.t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		p.t.Fatal(err)
	}
	opt := publish.Options{Salt: salt, Signer: p.signer, Recipients: p.recipient(), Unwrappers: p.opens(), Name: name, TempDir: p.t.TempDir()}
	for _, other := range others {
		opt.Recipients = append(opt.Recipients, other.recipient()...)
	}
	r, err := publish.Image(ctx, o, []string{"dir:" + tree}, opt)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// open finds an image as readers do that want a signature of one of signers.
func (p *person) open(o origin.Origin, ref string, signers ...*person) (*blockmap.Map, error) {
	i, err := generation.NewView(o, generation.Options{}).Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	s := o.Generation(i.Generation())
	for _, who := range signers {
		if _, err := sign.Require(ctx, i.Map, s, who.signer.Public()); err != nil {
			return nil, err
		}
	}
	return seal.UnlockFor(ctx, i.Map, s, p.ids)
}

// lead makes a pointer of the first generation lead to a block map: what whoever
// may write to the store can do.
func lead(t *testing.T, o origin.Origin, key, blockMap string) {
	t.Helper()
	d, err := origin.ParseDigest(blockMap)
	if err == nil {
		_, err = catalog.Set(ctx, o.Generation(1), key, d)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestNamesAreTheStores: a name leads where the store says, among all that is
// signed; a block map's digest means that block map.
func TestNamesAreTheStores(t *testing.T) {
	o, alice := memory.New(), newPerson(t)
	old := alice.publish(o, "app", "with a hole in it")
	fixed := alice.publish(o, "app", "mended")
	lead(t, o, catalog.NameKey("app"), old.BlockMap)
	lead(t, o, "digests/"+strings.TrimPrefix(fixed.BlockMap, "sha256:"), old.BlockMap)
	m, err := alice.open(o, "app", alice)
	if err != nil || m.Digest().String() != old.BlockMap {
		t.Errorf("by name: %v, %v; the older one was expected, a limit that the threat model states", m, err)
	}
	if m, err := alice.open(o, fixed.BlockMap, alice); err == nil {
		t.Errorf("by the block map's digest: %v; want an error, for the store leads elsewhere", m)
	}
	if err := o.Generation(1).SwapPointer(ctx, "digests/"+strings.TrimPrefix(fixed.BlockMap, "sha256:"), []byte(old.BlockMap+"\n"), nil); err != nil {
		t.Fatal(err)
	}
	if m, err := alice.open(o, fixed.BlockMap, alice); err != nil || m.Digest().String() != fixed.BlockMap {
		t.Errorf("by the block map's digest: %v, %v; want %s", m, err, fixed.BlockMap)
	}
}

// TestSourceDigestIsAClaim: anybody who may write to the store can publish a disk
// and say that it was made from some image. A signature of somebody trusted is what
// makes the claim worth something.
func TestSourceDigestIsAClaim(t *testing.T) {
	o, alice, mallory := memory.New(), newPerson(t), newPerson(t)
	good := alice.publish(o, "app", "good")
	bad := mallory.publish(o, "bad", "bad", alice)
	m, err := mallory.open(o, bad.BlockMap)
	if err != nil {
		t.Fatal(err)
	}
	info := m.Info()
	if info.Source, err = origin.ParseDigest(good.SourceDigest); err != nil {
		t.Fatal(err)
	}
	forged, err := seal.LockOpen(&info, []blockmap.Chunk{m.Chunk(0)})
	if err != nil {
		t.Fatal(err)
	}
	s := o.Generation(1)
	if _, err := s.PutObject(ctx, forged.Bytes()); err != nil {
		t.Fatal(err)
	}
	signature, err := mallory.signer.SignMap(forged)
	if err == nil {
		err = s.Attach(ctx, forged.Digest(), sign.Kind, signature)
	}
	if err != nil {
		t.Fatal(err)
	}
	lead(t, o, catalog.DigestKey(info.Source), forged.Digest().String())
	if m, err := alice.open(o, good.SourceDigest); err != nil || m.Digest() != forged.Digest() {
		t.Errorf("without a signature asked for: %v, %v; want the forged one, a limit that the threat model states", m, err)
	}
	if m, err := alice.open(o, good.SourceDigest, alice); !errors.Is(err, sign.ErrOtherKey) {
		t.Errorf("with alice's signature asked for: %v, %v; want ErrOtherKey", m, err)
	}
}

// TestWithheldChunk: a store that takes a chunk away makes reads fail, and the
// others give the right bytes.
func TestWithheldChunk(t *testing.T) {
	o, alice := memory.New(), newPerson(t)
	r := alice.publish(o, "app", strings.Repeat("content ", 1000))
	m, err := alice.open(o, r.BlockMap)
	if err != nil {
		t.Fatal(err)
	}
	s := o.Generation(1)
	whole := read(t, m, s)
	gone := m.Chunk(m.Len() / 2)
	if err := s.Remove(ctx, gone.ID); err != nil {
		t.Fatal(err)
	}
	for i, b := range read(t, m, s) {
		if id := m.Chunk(i).ID; id == gone.ID && b != nil || id != gone.ID && !bytes.Equal(b, whole[i]) {
			t.Errorf("chunk %d: %d bytes read", i, len(b))
		}
	}
}

// read returns what each chunk's place reads as, nil where reading fails.
func read(t *testing.T, m *blockmap.Map, s origin.Store) (all [][]byte) {
	t.Helper()
	d, err := disk.Open(m, chunk.NewDoor(s), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	info := m.Info()
	for i := range m.Len() {
		b := make([]byte, m.Chunk(i).Size)
		if _, err := d.ReadAt(b, int64(m.Chunk(i).Index)*info.ChunkSize()); err != nil {
			b = nil
		}
		all = append(all, b)
	}
	return all
}

// TestForgedEpochIsRefused: a store that begins an epoch with a salt of its own,
// wrapped for a publisher, is refused by whoever has seen an earlier one. A
// publisher who sees the domain for the first time has nothing to compare it with.
func TestForgedEpochIsRefused(t *testing.T) {
	o, alice, bob, mallory := memory.New(), newPerson(t), newPerson(t), newPerson(t)
	const url = "dir:/somewhere"
	check := func(p *person) error {
		salt, _, err := domain.Open(ctx, o, seal.DefaultDomain, p.opens())
		if err != nil {
			return err
		}
		return p.keys.CheckSalt(url, salt, func(from blockmap.SaltID) (bool, error) {
			return domain.Descends(ctx, o, salt, from, p.opens())
		})
	}
	everybody := slices.Concat(alice.recipient(), bob.recipient(), mallory.recipient())
	first, _, err := domain.Create(ctx, o, seal.DefaultDomain, domain.Coding{}, everybody[:2])
	if err == nil {
		err = check(alice)
	}
	if err == nil {
		_, _, err = domain.Rotate(ctx, o, first, everybody[:2])
	}
	if err == nil {
		err = check(alice)
	}
	if err != nil {
		t.Fatalf("an epoch that follows: %v", err)
	}
	// Mallory makes a domain and its epochs elsewhere, and copies them here.
	elsewhere := memory.New()
	salt, _, err := domain.Create(ctx, elsewhere, seal.DefaultDomain, domain.Coding{}, everybody)
	for range 2 {
		if err == nil {
			salt, _, err = domain.Rotate(ctx, elsewhere, salt, everybody)
		}
	}
	if err == nil {
		err = elsewhere.ListPointers(ctx, "salts/", func(key string) error {
			value, err := elsewhere.GetPointer(ctx, key)
			if err != nil {
				return err
			}
			old, _ := o.GetPointer(ctx, key)
			return o.SwapPointer(ctx, key, old, value)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := check(alice); !errors.Is(err, keyring.ErrSalt) {
		t.Errorf("alice, who has seen epoch 2, of a forged epoch 3: %v; want ErrSalt", err)
	}
	if err := check(bob); err != nil {
		t.Errorf("bob, who has seen none: %v; taking it is a limit that the threat model states", err)
	}
}

// TestReaderIsNoPublisher: who can read an image can neither open the domain's salt
// nor sign as its publisher.
func TestReaderIsNoPublisher(t *testing.T) {
	o, alice, host := memory.New(), newPerson(t), newPerson(t)
	if _, _, err := domain.Create(ctx, o, seal.DefaultDomain, domain.Coding{}, alice.recipient()); err != nil {
		t.Fatal(err)
	}
	alice.publish(o, "app", "content", host)
	secret := alice.publish(o, "secret", "not for the host")
	if _, err := host.open(o, "app", alice); err != nil {
		t.Errorf("the image that is for the host: %v", err)
	}
	if _, err := host.open(o, secret.BlockMap); !errors.Is(err, seal.ErrNotRecipient) {
		t.Errorf("the one that is not: %v; want ErrNotRecipient", err)
	}
	if _, _, err := domain.Open(ctx, o, seal.DefaultDomain, host.opens()); !errors.Is(err, domain.ErrGranted) {
		t.Errorf("the salt: %v; want ErrGranted", err)
	}
	if _, err := host.open(o, host.publish(o, "fake", "content").BlockMap, alice); !errors.Is(err, sign.ErrOtherKey) {
		t.Errorf("what the host has published: %v; want ErrOtherKey", err)
	}
}

// TestRecipientsInTheClear: to whom an image is locked is in the store as numbers of
// wrapped keys alone, if they are age keys; an SSH key can be recognised by whoever
// has it in public.
func TestRecipientsInTheClear(t *testing.T) {
	o, alice, bob := memory.New(), newPerson(t), newPerson(t)
	ssh, err := agewrap.ParseRecipient("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN")
	if err != nil {
		t.Fatal(err)
	}
	r := alice.publish(o, "app", "content", bob)
	m, err := alice.open(o, r.BlockMap)
	if err != nil {
		t.Fatal(err)
	}
	s := o.Generation(1)
	locked, err := catalog.Load(ctx, s, m.Digest())
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := seal.UnlockKey(ctx, locked, s, alice.ids)
	if err == nil {
		_, err = seal.Grant(ctx, locked, key, []seal.Recipient{ssh}, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	wraps, tagged := 0, 0
	err = s.ListAttachments(ctx, m.Digest(), agewrap.Kind, func(data []byte) error {
		wraps++
		for _, p := range []*person{alice, bob} {
			if bytes.Contains(data, []byte(p.recipient()[0].String())) {
				t.Error("a recipient is in the clear")
			}
		}
		if bytes.Contains(data, []byte("-> ssh-ed25519 ")) {
			tagged++
		}
		return nil
	})
	if err != nil || wraps != 3 || tagged != 1 {
		t.Errorf("%d wrapped keys, %d with a tag, %v; want 3 and 1", wraps, tagged, err)
	}
	err = s.ListAttachments(ctx, m.Digest(), seal.RecipientKind, func(data []byte) error {
		if len(data) != 48 {
			t.Errorf("tag of %d bytes", len(data))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
