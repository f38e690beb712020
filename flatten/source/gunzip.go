package source

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os/exec"
)

// A Gunzip says what decompresses the gzip layers of an image.
type Gunzip string

// What there is to choose from.
const (
	// GunzipAuto, or none, is igzip for layers of at least 4 MiB if it is in
	// PATH, and Go for all others.
	GunzipAuto Gunzip = "auto"
	// GunzipGo is this process.
	GunzipGo Gunzip = "go"
	// GunzipIgzip is igzip, of the ISA-L library, in a process of its own for each
	// layer. Open fails if it is not in PATH.
	GunzipIgzip Gunzip = "igzip"
)

// igzipWorth is the size from which a layer is worth a process, in bytes as it
// is stored: igzip is faster by some 10 ms for each MiB.
const igzipWorth = 4 << 20

// ParseGunzip returns the choice that s names; "" is GunzipAuto.
func ParseGunzip(s string) (Gunzip, error) {
	switch g := Gunzip(s); g {
	case "":
		return GunzipAuto, nil
	case GunzipAuto, GunzipGo, GunzipIgzip:
		return g, nil
	}
	return "", fmt.Errorf("%q decompresses nothing: choose %s, %s or %s", s, GunzipAuto, GunzipGo, GunzipIgzip)
}

// igzip returns the path of the program that decompresses a layer of size
// stored bytes, or "" if Go does.
func (g Gunzip) igzip(size int64) (string, error) {
	if g == GunzipGo || g != GunzipIgzip && size < igzipWorth {
		return "", nil
	}
	path, err := exec.LookPath("igzip")
	if err == nil {
		return path, nil
	}
	if g == GunzipIgzip {
		return "", fmt.Errorf("decompress layers with igzip: %w (it is in the package isal)", err)
	}
	return "", nil
}

// bareHeader reports whether a gzip header has no optional field. Tools that make
// layers write none, and Go is stricter about them than igzip.
func bareHeader(in *bufio.Reader) bool {
	head, _ := in.Peek(4)
	return len(head) == 4 && head[3] == 0
}

// A gunzipper is a layer decompressed by igzip, as long as that can be
// believed, and by Go from there on.
//
// igzip is taken for a help that may be wrong. It is believed if it ends well
// and has met the sentinel that follows the layer. If not, Go decompresses the layer
// from its beginning, passes over what igzip gave already, and its verdict
// stands: so whatever igzip refuses, by right or by mistake, is refused with
// Go's error or read by Go. What igzip alone decodes is a malformed encoding, such
// as an incomplete Huffman code, of bytes whose CRC-32 and length are right; the
// layer's diff ID is checked in either case.
type gunzipper struct {
	ctx    context.Context
	stored *storedReader
	by     *igzip
	given  int64     // bytes that Read returned so far
	sum    uint32    // CRC-32 of those
	plain  io.Reader // of Go, once it has taken over
}

func (g *gunzipper) Read(p []byte) (int, error) {
	if g.plain != nil {
		return g.plain.Read(p)
	}
	n, err := g.by.Read(p)
	g.given += int64(n)
	g.sum = crc32.Update(g.sum, crc32.IEEETable, p[:n])
	if err == nil || err == io.EOF {
		return n, err
	}
	if g.ctx.Err() != nil {
		return n, context.Cause(g.ctx)
	}
	if err := g.stored.failure(); err != nil {
		return n, decompressing(err)
	}
	return n, g.takeOver(err)
}

// takeOver makes Go read on where igzip failed.
func (g *gunzipper) takeOver(failure error) error {
	if err := g.stored.start(g.ctx); err != nil {
		return err
	}
	plain, err := gzipped.decode(bufio.NewReaderSize(g.stored, storedBuffer))
	if err != nil {
		return err
	}
	sum := crc32.NewIEEE()
	_, err = io.CopyN(sum, plain, g.given)
	if err != nil && err != io.EOF {
		return err
	}
	if err == io.EOF || sum.Sum32() != g.sum {
		return fmt.Errorf("decompress: igzip gave wrong bytes (%w); choose %s", failure, GunzipGo)
	}
	g.plain = plain
	return nil
}
