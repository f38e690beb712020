package seal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/sign"
)

var update = flag.Bool("update", false, "write the vectors of chunk/testdata and testdata anew")

// seq returns what the command seq n prints.
func seq(n int) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "%d\n", i+1)
	}
	return b
}

// vectors are the chunks of doc/format/chunk.md, sealed with fixedSalt.
var vectors = []struct {
	name   string
	frame  int
	policy seal.Policy
	codec  chunk.Codec
	plain  []byte
	id     string // as the page has it, and the key
	key    string
}{
	{"one", 64 << 10, seal.NeverCode, chunk.Raw, []byte{1},
		"607c47863c64f06fb111265c3bc3bad86888887378f875be82227cc47ab381d6", "cb8cae3679b9279cf9dbda3cda7576bbe89ceb8d6666f7924d355a4065edc82e"},
	{"raw", 16 << 10, seal.NeverCode, chunk.Raw, seq(4000),
		"6e0790f59616dac24bdccc5deb1a73c3768b51e4d463d261965fac30da5a2b3d", "a27541453e0e163d7a7c3a8d9b823dd25cc7f5e24248bef3671e19fdab9c48d4"},
	{"zstd", 16 << 10, seal.Adaptive, chunk.Zstd, seq(9000),
		"7d752bf142c3fb77356a5557930ca55367a6146847f0af6173f9297d7f7b4086", "c0264cab9b33cb363089ef1f36c2aab6eaa65303431d44b3b6516d5c6c8109e0"},
}

// kept compares b with a file of the vectors, or writes it.
func kept(t *testing.T, path string, b []byte) []byte {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		t.Errorf("%s: is made otherwise now", path)
	}
	return got
}

// TestVectors opens the kept chunks and seals their plaintext again. A new
// version of the encoder may code it otherwise: that is allowed, it costs
// deduplication with what is stored, and so it is said here. Then keep the old
// vector, and add one.
func TestVectors(t *testing.T) {
	for _, v := range vectors {
		c, err := newSealer(t, seal.Options{FrameSize: v.frame, Policy: v.policy}).Seal(v.plain)
		if err != nil {
			t.Fatal(err)
		}
		b := kept(t, filepath.Join("..", "chunk", "testdata", v.name+".chunk"), c.Object)
		if key := hex.EncodeToString(c.Key[:]); key != v.key || c.ID.String() != v.id {
			t.Errorf("%s: chunk %v with key %s, want %s with %s", v.name, c.ID, key, v.id, v.key)
		}
		h, err := chunk.Verify(c.ID, b)
		if err != nil || h.Codec != v.codec {
			t.Errorf("%s: %v, %v", v.name, h.Codec, err)
		}
		if !bytes.Equal(unseal(t, newOpener(t), seal.Sealed{ID: c.ID, Key: c.Key, Object: b}), v.plain) {
			t.Errorf("%s: the plaintext differs", v.name)
		}
	}
}

// What the vectors of block maps and records are locked with.
var (
	vectorImageKey = seal.ImageKey(sha256.Sum256([]byte("image key")))
	vectorNonce    = [12]byte([]byte("twelve bytes"))
	vectorRecord   = []byte("what a publisher remembers of a layer\n")
)

// sealedMap is the vector of doc/format/blockmap.md: a disk of 2 MiB with the
// plaintext of the chunk raw at 0 and that of zstd at 1 MiB.
func sealedMap(t *testing.T) *blockmap.Map {
	t.Helper()
	info := &blockmap.Info{
		Layout: 1, Size: 2 << 20, ChunkLog2: 19, FrameLog2: 14,
		Source: origin.Sum([]byte("source")), ChainID: origin.Sum([]byte("chain")),
		SaltID: fixedSalt(t, seal.DefaultDomain, 1).ID(), Config: []byte(`{"os":"linux"}`),
	}
	disk := blockmap.NewDiskHash(info.Layout, info.Size)
	var chunks []blockmap.Chunk
	for i, v := range vectors[1:] {
		c, err := newSealer(t, seal.Options{FrameSize: v.frame, Policy: v.policy}).Seal(v.plain)
		if err == nil {
			err = disk.Add(int64(i)<<20, c.Sum)
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, blockmap.Chunk{Index: uint32(2 * i), Stored: uint32(len(c.Object)), Size: uint32(c.Size), ID: c.ID, Key: c.Key})
	}
	info.Disk = disk.Sum()
	m, err := seal.LockWith(info, chunks, vectorImageKey, vectorNonce)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMapVectors keeps a locked block map with all that is said of it. What is
// made with random numbers is kept as it was, and opened.
func TestMapVectors(t *testing.T) {
	m := sealedMap(t)
	salt := fixedSalt(t, seal.DefaultDomain, 1)
	kept(t, "testdata/salt", salt.Bytes())
	kept(t, "testdata/sealed.blockmap", m.Bytes())
	record, err := seal.LockRecordWith(salt, origin.Sum([]byte("layer")), 1, vectorRecord, vectorNonce)
	if err != nil {
		t.Fatal(err)
	}
	kept(t, "testdata/record", record)

	file, err := os.ReadFile("testdata/publisher.key")
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := sign.ParseKey(file)
	if err != nil {
		t.Fatal(err)
	}
	kept(t, "testdata/publisher.pub", publisher.Public().File())
	signature, err := publisher.SignMap(m)
	if err != nil {
		t.Fatal(err)
	}
	kept(t, "testdata/sealed.blockmap.minisig", signature)

	if file, err = os.ReadFile("testdata/identity"); err != nil {
		t.Fatal(err)
	}
	ids, err := agewrap.ParseIdentities("identity", file, nil)
	if err != nil {
		t.Fatal(err)
	}
	const wrapped = "testdata/sealed.blockmap.age"
	if *update {
		data, err := ids.Recipients()[0].Wrap(t.Context(), vectorImageKey, seal.AboutMap(m))
		if err == nil {
			err = os.WriteFile(wrapped, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ids.Unwrap(t.Context(), data, seal.AboutMap(m))
	if err != nil || key != vectorImageKey {
		t.Fatalf("%s: another key, %v", wrapped, err)
	}
	open, err := seal.Unlock(m, key)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vectors[1:] {
		if k := open.Chunk(i).Key; hex.EncodeToString(k[:]) != v.key {
			t.Errorf("key %d differs", i)
		}
	}
}

// TestVectorScript runs doc/format/check-vectors.sh on the vectors, and on a copy
// with one bit of one of them changed.
func TestVectorScript(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long, and the race detector does not see other programs")
	}
	for _, tool := range []string{"sh", "sha256sum", "dd", "od", "openssl", "zstd", "age"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("RIVULET_E2E_STRICT") != "" {
				t.Fatal(err)
			}
			t.Skipf("needs %s", tool)
		}
	}
	script, err := filepath.Abs(filepath.Join("..", "doc", "format", "check-vectors.sh"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, at := range map[string]int{ // byte from the end
		"chunk/testdata/raw.chunk": 100, "chunk/testdata/zstd.chunk": 10_000,
		"seal/testdata/salt": 10, "seal/testdata/record": 20,
		"seal/testdata/sealed.blockmap": 60, "seal/testdata/sealed.blockmap.age": 5, "seal/testdata/sealed.blockmap.minisig": 40,
		"seal/kmswrap/testdata/wrapped": 20,
		"domain/testdata/state":         5, "domain/testdata/salt": 30, "domain/testdata/wrap": 5,
	} {
		root := t.TempDir()
		for _, dir := range []string{"chunk/testdata", "domain/testdata", "seal/testdata", "seal/kmswrap/testdata"} {
			if err := os.CopyFS(filepath.Join(root, dir), os.DirFS(filepath.Join("..", dir))); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(root, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-at] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("sh", script, root).CombinedOutput(); err == nil {
			t.Errorf("%s changed: passes: %s", name, out)
		}
	}
}

// TestCheckScript runs doc/format/check-chunk.sh on good and damaged files.
func TestCheckScript(t *testing.T) {
	for _, tool := range []string{"sh", "sha256sum", "dd", "od"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	script := filepath.Join("..", "doc", "format", "check-chunk.sh")
	check := func(name string, b []byte) ([]byte, error) {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		return exec.Command("sh", script, path).CombinedOutput()
	}
	for _, v := range vectors {
		b, err := os.ReadFile(filepath.Join("..", "chunk", "testdata", v.name+".chunk"))
		if err != nil {
			t.Fatal(err)
		}
		h, err := chunk.ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := check(v.id, b); err != nil {
			t.Errorf("%s: %v: %s", v.name, err, out)
		}
		wrong := map[string][]byte{
			"short": b[:len(b)-1],
			"long":  append(slices.Clone(b), 0),
			"head":  b[:h.Len()-1],
			"empty": {},
			"magic": append([]byte("RVC1"), b[4:]...),
		}
		for _, at := range []int{3, 4, 5, 6, 8, 12, 16, 20, h.Len() - 1, h.Len(), len(b) - 1} {
			damaged := slices.Clone(b)
			damaged[at] ^= 2
			wrong[fmt.Sprintf("byte %d changed", at)] = damaged
		}
		for what, b := range wrong {
			if out, err := check(v.id, b); err == nil {
				t.Errorf("%s, %s: passes: %s", v.name, what, out)
			}
		}
		if out, err := check(hex.EncodeToString(make([]byte, 32)), b); err == nil {
			t.Errorf("%s under another name passes: %s", v.name, out)
		}
	}
}
