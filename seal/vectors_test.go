package seal_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

var update = flag.Bool("update", false, "write the vectors of chunk/testdata anew")

// seq returns what the command seq n prints.
func seq(n int) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "%d\n", i+1)
	}
	return b
}

// vectors are the chunks of doc/format/chunk.md.
var vectors = []struct {
	name   string
	frame  int
	policy seal.Policy
	codec  chunk.Codec
	plain  []byte
	id     string // as the page has it
}{
	{"one", 64 << 10, seal.NeverCode, chunk.Raw, []byte{1}, "607c47863c64f06fb111265c3bc3bad86888887378f875be82227cc47ab381d6"},
	{"raw", 16 << 10, seal.NeverCode, chunk.Raw, seq(4000), "6e0790f59616dac24bdccc5deb1a73c3768b51e4d463d261965fac30da5a2b3d"},
	{"zstd", 16 << 10, seal.Adaptive, chunk.Zstd, seq(9000), "7d752bf142c3fb77356a5557930ca55367a6146847f0af6173f9297d7f7b4086"},
}

// TestVectors opens the kept chunks and seals their plaintext again. A new
// version of the encoder may code it otherwise: that is allowed, it costs
// deduplication with what is stored, and so it is said here. Then keep the old
// vector, and add one.
func TestVectors(t *testing.T) {
	for _, v := range vectors {
		path := filepath.Join("..", "chunk", "testdata", v.name+".chunk")
		c, err := newSealer(t, seal.Options{FrameSize: v.frame, Policy: v.policy}).Seal(v.plain)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(path, c.Object, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, c.Object) {
			t.Errorf("%s: sealed otherwise than the kept chunk: %v", v.name, c.ID)
		}
		id, err := chunk.ParseID(v.id)
		if err != nil {
			t.Fatalf("%v; it is %v", err, c.ID)
		}
		h, err := chunk.Verify(id, b)
		if err != nil || h.Codec != v.codec {
			t.Errorf("%s: %v, %v", v.name, h.Codec, err)
		}
		if !bytes.Equal(unseal(t, newOpener(t), seal.Sealed{ID: id, Key: c.Key, Object: b}), v.plain) {
			t.Errorf("%s: the plaintext differs", v.name)
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
