package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/klauspost/compress/gzip"
)

const (
	sentinelSize   = 16      // bytes of plaintext
	igzipPipe      = 1 << 20 // bytes that each pipe takes
	maxComplaint   = 1 << 10 // bytes of standard error that are kept
	igzipKillDelay = 5 * time.Second
)

// An igzip decompresses by a process of that program.
//
//	stored ─► feed ─► pipe ─► igzip ─► pipe ─► Read
//
// feed is a goroutine of its own, and the only one that reads stored until fed
// is closed. It sends a sentinel behind the layer: one more gzip member, of
// random bytes. igzip passes over whatever follows the last member in silence, so only
// if the sentinel comes out has it taken all of the layer, and all of it for gzip.
// Read withholds as many bytes as the sentinel has.
//
// The process ends with its context or by stop. It gets no environment, so none of
// our credentials, and where the system allows it no right to write files or to
// take much memory.
type igzip struct {
	cancel context.CancelFunc
	cmd    *exec.Cmd
	out    *os.File
	said   complaint
	fed    chan struct{}
	ended  bool
	end    error // how it ended

	sentinel []byte
	held     []byte // the last bytes of the output so far, at most sentinelSize
}

// startIgzip starts the program at path to decompress stored.
func startIgzip(ctx context.Context, path string, stored io.Reader) (*igzip, error) {
	ctx, cancel := context.WithCancel(ctx)
	z := &igzip{cancel: cancel, fed: make(chan struct{}), sentinel: make([]byte, sentinelSize)}
	_, _ = rand.Read(z.sentinel) // never fails
	childIn, in, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, errors.Join(err, childIn.Close(), in.Close())
	}
	widen(in)
	widen(out)
	z.out = out
	z.cmd = exec.CommandContext(ctx, path, "-d", "-c")
	z.cmd.Stdin, z.cmd.Stdout, z.cmd.Stderr = childIn, childOut, &z.said
	z.cmd.Env, z.cmd.Dir, z.cmd.WaitDelay = []string{}, "/", igzipKillDelay
	err = z.cmd.Start()
	_, _ = childIn.Close(), childOut.Close() // they are the child's
	if err != nil {
		cancel()
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	confine(z.cmd.Process.Pid)
	go z.feed(in, stored)
	return z, nil
}

// feed sends the layer and the sentinel. Its own errors do not matter: the
// sentinel is missing then.
func (z *igzip) feed(in *os.File, stored io.Reader) {
	defer close(z.fed)
	defer in.Close()
	// Neither side may choose a way of its own, with smaller pieces.
	_, err := io.CopyBuffer(struct{ io.Writer }{in}, struct{ io.Reader }{stored}, make([]byte, storedBuffer))
	if err == nil {
		_, _ = in.Write(sentinelMember(z.sentinel))
	}
}

// sentinelMember returns the gzip member of text. Its header has random bytes too, so
// that no layer can be made that takes the member for a part of its own data.
func sentinelMember(text []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.NoCompression)
	w.ModTime = time.Unix(int64(binary.LittleEndian.Uint32(text))|1, 0)
	_, _ = w.Write(text) // a buffer takes all
	_ = w.Close()
	return b.Bytes()
}

// Read returns io.EOF only if all is well.
func (z *igzip) Read(p []byte) (int, error) {
	for len(p) > 0 && !z.ended {
		n, err := z.read(p)
		if err != nil {
			z.end = z.finish(err)
			z.ended = true
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, z.end
}

// read reads once, and returns what goes out of held when the news come in.
func (z *igzip) read(p []byte) (int, error) {
	if len(p) <= sentinelSize { // not enough to turn around in
		var buf [2 * sentinelSize]byte
		n := copy(buf[:], z.held)
		got, err := z.out.Read(buf[n : n+len(p)])
		return copy(p, z.hold(buf[:n+got])), err
	}
	n := copy(p, z.held)
	got, err := z.out.Read(p[n:])
	return len(z.hold(p[:n+got])), err
}

// hold withholds the last bytes of b and returns those before them.
func (z *igzip) hold(b []byte) []byte {
	n := max(0, len(b)-sentinelSize)
	z.held = append(z.held[:0], b[n:]...)
	return b[:n]
}

// finish returns io.EOF if the process ended as it should, and else what was
// wrong. err is what ended the output.
func (z *igzip) finish(err error) error {
	_ = z.out.Close() // first: nobody may wait for us to read
	if werr := z.cmd.Wait(); werr != nil {
		err = fmt.Errorf("%w: %s", werr, bytes.TrimSpace(z.said.text))
	}
	<-z.fed
	switch {
	case err != io.EOF:
		return fmt.Errorf("igzip: %w", err)
	case !bytes.Equal(z.held, z.sentinel):
		return errors.New("igzip: it did not read the layer to its end")
	}
	return io.EOF
}

// stop ends the process and returns when it and its goroutine are gone; the
// goroutine ends after the read that it is in. Read must not be running.
func (z *igzip) stop() {
	z.cancel()
	if !z.ended {
		z.ended, z.end = true, z.finish(context.Canceled)
	}
}

// A complaint keeps the beginning of what a process says.
type complaint struct{ text []byte }

func (c *complaint) Write(p []byte) (int, error) {
	c.text = append(c.text, p[:min(len(p), maxComplaint-len(c.text))]...)
	return len(p), nil
}
