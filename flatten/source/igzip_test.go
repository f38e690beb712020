package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/flatten"
)

// needIgzip returns the path of igzip.
func needIgzip(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("igzip")
	if err != nil {
		if os.Getenv("RIVULET_E2E_STRICT") != "" {
			t.Fatalf("igzip must not be missing here: %v", err)
		}
		t.Skip("needs igzip (apt-get install isal)")
	}
	return path
}

// bytesLayer is a gzip layer of those stored bytes.
func bytesLayer(stored []byte, igzip string) *Layer {
	return &Layer{
		Size: int64(len(stored)), Digest: sha256Of(stored), mediaType: string(types.OCILayer), igzip: igzip,
		open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(stored)), nil },
	}
}

// unpackAll returns the uncompressed layer.
func unpackAll(ctx context.Context, l *Layer) (data []byte, err error) {
	_, err = l.read(ctx, func(r io.Reader) (_ *flatten.Layer, err error) {
		data, err = io.ReadAll(r)
		l.DiffID = sha256Of(data)
		return &flatten.Layer{}, err
	})
	return data, err
}

// same compares what Go and igzip make of a layer, and returns it.
func same(t *testing.T, igzip string, stored []byte) ([]byte, error) {
	t.Helper()
	want, wantErr := unpackAll(context.Background(), bytesLayer(stored, ""))
	got, err := unpackAll(context.Background(), bytesLayer(stored, igzip))
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Errorf("igzip ends with %v, Go with %v", err, wantErr)
	}
	if wantErr == nil && !bytes.Equal(got, want) {
		t.Errorf("igzip gives %d bytes, Go %d others", len(got), len(want))
	}
	return want, wantErr
}

// A memberOf is a gzip member whose header is written by hand.
type memberOf struct {
	data          []byte
	flags         byte
	extra         []byte
	name, comment string
	wrongSum      bool // of the header
	level         int
}

func (m memberOf) bytes(t testing.TB) []byte {
	t.Helper()
	head := []byte{0x1f, 0x8b, 8, m.flags, 0, 0, 0, 0, 0, 255}
	if m.flags&4 != 0 {
		head = append(binary.LittleEndian.AppendUint16(head, uint16(len(m.extra))), m.extra...)
	}
	if m.flags&8 != 0 {
		head = append(append(head, m.name...), 0)
	}
	if m.flags&16 != 0 {
		head = append(append(head, m.comment...), 0)
	}
	if m.flags&2 != 0 {
		sum := uint16(crc32.ChecksumIEEE(head))
		if m.wrongSum {
			sum++
		}
		head = binary.LittleEndian.AppendUint16(head, sum)
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, m.level)
	if err == nil {
		_, err = w.Write(m.data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return append(head, b.Bytes()[10:]...)
}

// noise is n bytes that shrink to about a half.
func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32() & 0x35)
	}
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// goodStreams are gzip that must be read.
func goodStreams(t testing.TB) map[string][]byte {
	text := noise(1, 3<<20)
	one := memberOf{data: text, level: 6}.bytes(t)
	tiny := memberOf{data: []byte("tiny"), level: 6}.bytes(t)
	empty := memberOf{level: 6}.bytes(t)
	footer := memberOf{flags: 4, extra: bytes.Repeat([]byte("SG"), 13)}.bytes(t) // as eStargz has it
	return map[string][]byte{
		"nothing":           empty,
		"one":               one,
		"stored":            memberOf{data: text}.bytes(t),
		"fastest":           memberOf{data: text, level: 1}.bytes(t),
		"huffman only":      memberOf{data: text, level: gzip.HuffmanOnly}.bytes(t),
		"two":               join(one, one),
		"many":              bytes.Repeat(tiny, 5_000),
		"empty ones":        join(empty, tiny, empty, empty, tiny, empty),
		"extra":             memberOf{data: text, flags: 4, extra: make([]byte, 65535)}.bytes(t),
		"name":              memberOf{data: text, flags: 8, name: "layer.tar"}.bytes(t),
		"all fields":        memberOf{data: text, flags: 31, extra: []byte("extra"), name: "n", comment: "c"}.bytes(t),
		"fields later":      join(one, memberOf{data: text, flags: 31, extra: []byte("extra"), name: "n", comment: "c"}.bytes(t), tiny),
		"footer":            join(one, tiny, footer),
		"zeros":             memberOf{data: make([]byte, 8<<20), level: 6}.bytes(t),
		"looks like header": memberOf{data: bytes.Repeat([]byte{0x1f, 0x8b, 8, 0}, 1000), level: 0}.bytes(t),
	}
}

// badStreams are gzip that must be refused.
func badStreams(t testing.TB) map[string][]byte {
	text := noise(2, 200_000)
	one := memberOf{data: text, level: 6}.bytes(t)
	tiny := memberOf{data: []byte("tiny"), level: 6}.bytes(t)
	change := func(at int, by byte) []byte {
		b := bytes.Clone(one)
		b[(at+len(b))%len(b)] ^= by
		return b
	}
	return map[string][]byte{
		"trailing zero":         join(one, []byte{0}),
		"trailing zeros":        join(one, make([]byte, 1<<20)),
		"trailing text":         join(one, []byte("garbage")),
		"trailer again":         join(one, []byte("garbage"), one[len(one)-8:]),
		"half a magic":          join(one, []byte{0x1f}),
		"half a magic and more": join(one, []byte{0x1f, 0}),
		"magic":                 join(one, []byte{0x1f, 0x8b}),
		"half a header":         join(one, tiny[:9]),
		"garbage between":       join(one, []byte{0}, one),
		"other method":          change(2, 1),
		"wrong sum":             change(-8, 1),
		"wrong length":          change(-4, 1),
		"wrong in the middle":   change(len(one)/2, 0x10),
		"no trailer":            one[:len(one)-8],
		"half a trailer":        one[:len(one)-3],
		"second cut":            join(one, one[:len(one)/2]),
		"second wrong":          join(one, change(-8, 1)),
		"header sum":            memberOf{data: text, flags: 2, wrongSum: true}.bytes(t),
		"header sum later":      join(one, memberOf{data: text, flags: 2, wrongSum: true}.bytes(t)),
		"reserved flag":         memberOf{data: text, flags: 0x20}.bytes(t),
		"long name":             memberOf{data: text, flags: 8, name: strings.Repeat("n", 600)}.bytes(t),
		"block type 3":          join(one[:10], []byte{7}, one[11:]),
		// The open block takes the sentinel for its content.
		"open block": join(one[:10], []byte{1, 39, 0, 0xd8, 0xff}),
	}
}

func TestIgzipReadsWhatGoReads(t *testing.T) {
	igzip := needIgzip(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for name, stored := range goodStreams(t) {
		t.Run(name, func(t *testing.T) {
			if _, err := same(t, igzip, stored); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestIgzipRefusesWhatGoRefuses(t *testing.T) {
	igzip := needIgzip(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for name, stored := range badStreams(t) {
		t.Run(name, func(t *testing.T) {
			if data, err := same(t, igzip, stored); err == nil {
				t.Errorf("accepted: %d bytes", len(data))
			}
		})
	}
	one := memberOf{data: noise(3, 60), level: 6}.bytes(t)
	step := 1
	if testing.Short() {
		step = 8 // two processes each
	}
	for n := 0; n < len(one); n += step {
		if _, err := same(t, igzip, one[:n]); err == nil && n > 0 {
			t.Errorf("cut after %d bytes of %d: accepted", n, len(one))
		}
	}
}

// TestIgzipHeadersAcrossBuffers puts the header of a second member across the
// places where igzip, and we, read anew.
func TestIgzipHeadersAcrossBuffers(t *testing.T) {
	igzip := needIgzip(t)
	second := memberOf{data: []byte("second"), flags: 31, extra: []byte("extra"), name: "name", comment: "comment"}.bytes(t)
	sizes := []int{256 << 10, 1 << 20}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, size := range sizes {
		for _, back := range []int{1, 2, 9, 10, 13, 20, 24, 30, 35} {
			frame := len(memberOf{}.bytes(t))
			pad := size - back
			for blocks := 1; ; blocks++ { // a stored block has a header of 5 bytes
				if n := pad - frame - 5*blocks; n <= 65535*blocks {
					pad = n
					break
				}
			}
			stored := join(memberOf{data: noise(4, pad)}.bytes(t), second, second)
			if _, err := same(t, igzip, stored); err != nil {
				t.Errorf("header %d bytes before %d: %v", back, size, err)
			}
		}
	}
}

// fakeIgzip returns a program in the place of igzip: a shell script.
func fakeIgzip(t *testing.T, script string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell")
	}
	path := filepath.Join(t.TempDir(), "igzip")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestIgzipThatIsWrong has programs that do anything but decompress: Go takes
// over, and if bytes were wrong already, that is said.
func TestIgzipThatIsWrong(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	text := noise(5, 3<<20)
	stored := memberOf{data: text, level: 1}.bytes(t)
	for name, tc := range map[string]struct{ script, want string }{
		"says nothing":       {"exit 0", ""},
		"reads and fails":    {"cat >/dev/null; exit 1", ""},
		"fails at once":      {"exit 1", ""},
		"hangs for ever":     {"exec sleep 1000", ""},
		"complains for ever": {"while :; do echo wrong >&2 || exit; done", ""},
		"kills itself":       {"kill -9 $$", ""},
		"gives it back":      {"exec cat", "igzip gave wrong bytes"},
		"ends early":         {"gzip -dc 2>/dev/null | head -c 100000", ""},
		"is right and fails": {"gzip -dc; exit 1", ""},
		"adds a byte":        {"gzip -dc; echo", "igzip gave wrong bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			if tc.want == "" && strings.HasSuffix(name, "for ever") {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
				tc.want = context.DeadlineExceeded.Error()
			}
			data, err := unpackAll(ctx, bytesLayer(stored, fakeIgzip(t, tc.script)))
			switch {
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want %q", err, tc.want)
			case tc.want == "" && (err != nil || !bytes.Equal(data, text)):
				t.Errorf("%d bytes, error %v", len(data), err)
			}
		})
	}
}

// TestIgzipIsLessStrict has malformed streams that Go refuses and igzip decodes:
// a limit, and whoever depends on it has the bytes' digest. If it fails, igzip has
// become stricter, and the package and doc/threat-model.md can say so.
func TestIgzipIsLessStrict(t *testing.T) {
	igzip := needIgzip(t)
	text := noise(6, 1000)
	one := memberOf{data: text, level: 6}.bytes(t)
	// One literal code of 2 bits for A, one for the end: half of the code is free.
	incomplete := incompleteCode(t)
	for name, tc := range map[string]struct{ stored, want []byte }{
		"reserved flag later": {join(one, memberOf{data: text, flags: 0x20}.bytes(t)), join(text, text)},
		"long name later":     {join(one, memberOf{data: text, flags: 8, name: strings.Repeat("n", 600)}.bytes(t)), join(text, text)},
		"incomplete code":     {incomplete, []byte("AAAA")},
	} {
		if _, err := unpackAll(context.Background(), bytesLayer(tc.stored, "")); err == nil {
			t.Errorf("%s: Go reads it", name)
		}
		if got, err := unpackAll(context.Background(), bytesLayer(tc.stored, igzip)); err != nil || !bytes.Equal(got, tc.want) {
			t.Errorf("%s: %d bytes, error %v", name, len(got), err)
		}
	}
}

// incompleteCode is AAAA, in a block whose code for literals has two symbols of
// two bits each.
func incompleteCode(t *testing.T) []byte {
	t.Helper()
	var bits, n uint64
	var out []byte
	put := func(v, width uint64) {
		bits |= v << n
		for n += width; n >= 8; n -= 8 {
			out = append(out, byte(bits))
			bits >>= 8
		}
	}
	put(1, 1)  // last block
	put(2, 2)  // dynamic
	put(0, 5)  // 257 literals and lengths
	put(0, 5)  // 1 distance
	put(14, 4) // 18 lengths of code lengths, in the order 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1
	for _, l := range []uint64{0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0} {
		put(l, 3) // 18 is 0, 0 is 10, 2 is 11
	}
	zeros := func(count uint64) { put(0, 1); put(count-11, 7) }
	two := func() { put(3, 2) }
	zeros(65)
	two() // A
	zeros(138)
	zeros(52)
	two()     // end of block
	put(1, 2) // no distance: 0
	for range 4 {
		put(0, 2) // A is 00
	}
	put(2, 2) // end of block is 01, its first bit first
	put(0, 7) // to the byte's end
	head := memberOf{}.bytes(t)[:10]
	sum := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte("AAAA")))
	return join(head, out, sum, []byte{4, 0, 0, 0})
}

// TestIgzipBomb stops reading early: nothing is left behind.
func TestIgzipBomb(t *testing.T) {
	igzip := needIgzip(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	stored := bytes.Repeat(memberOf{data: make([]byte, 16<<20), level: 6}.bytes(t), 500)
	enough := errors.New("enough")
	_, err := bytesLayer(stored, igzip).read(context.Background(), func(r io.Reader) (*flatten.Layer, error) {
		_, err := io.CopyN(io.Discard, r, 1<<20)
		return nil, errors.Join(enough, err)
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a process is left (%d, %v)", pid, err)
	}
}

func FuzzIgzip(f *testing.F) {
	igzip := needIgzip(f)
	for _, streams := range []map[string][]byte{goodStreams(f), badStreams(f)} {
		for _, stored := range streams {
			if len(stored) < 1<<16 {
				f.Add(stored)
			}
		}
	}
	f.Add(memberOf{data: noise(7, 3000), level: 6}.bytes(f))
	f.Fuzz(func(t *testing.T, stored []byte) {
		want, wantErr := unpackAll(context.Background(), bytesLayer(stored, ""))
		got, err := unpackAll(context.Background(), bytesLayer(stored, igzip))
		switch {
		case wantErr == nil && (err != nil || !bytes.Equal(got, want)):
			t.Errorf("%d bytes, error %v; Go has %d bytes", len(got), err, len(want))
		case wantErr != nil && err == nil && !bytes.HasPrefix(got, want): // see TestIgzipIsLessStrict
			t.Errorf("%d bytes; Go has %d others, and then %v", len(got), len(want), wantErr)
		case wantErr != nil && err != nil && err.Error() != wantErr.Error():
			t.Errorf("%v; Go has %v", err, wantErr)
		}
	})
}
