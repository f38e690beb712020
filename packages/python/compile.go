package python

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/rivuletfs/rivulet/packages/sandbox"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

//go:embed compile.py
var compileScript string

const (
	maxModuleBytes   = 64 << 20 // a larger module is left uncompiled
	maxBytecodeBytes = 512 << 20
)

// Compile adds to a plan the bytecode of its modules, made by the Python in the tree at
// root. The bytecode depends on that interpreter and the modules alone: it names the hash of
// its source instead of a time, and is used without a look at the source. Modules that
// are no Python, as templates are, stay without.
func Compile(ctx context.Context, root string, t *Target, p *wheel.Plan) error {
	if t.CacheTag == "" {
		return nil
	}
	var modules []int
	for _, i := range p.Sources() {
		if f := &p.Files[i]; f.Size <= maxModuleBytes && !p.Has(compiledPath(f.Path, t.CacheTag)) {
			modules = append(modules, i)
		}
	}
	if len(modules) == 0 {
		return nil
	}
	code, err := compile(ctx, root, p, modules)
	if err != nil {
		return fmt.Errorf("compile modules: %w", err)
	}
	files := make([]wheel.File, len(modules)) // adding moves those of the plan
	for k, i := range modules {
		files[k] = p.Files[i]
	}
	for k := range files {
		if len(code[k]) == 0 {
			continue
		}
		if err := p.AddCompiled(compiledPath(files[k].Path, t.CacheTag), files[k].MTime, code[k]); err != nil {
			return err
		}
	}
	return nil
}

func compiledPath(module, tag string) string {
	return path.Dir(module) + "/__pycache__/" + strings.TrimSuffix(path.Base(module), ".py") + "." + tag + ".pyc"
}

func compile(ctx context.Context, root string, p *wheel.Plan, modules []int) ([][]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in, give := io.Pipe()
	got, out := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		err := send(p, modules, give)
		if err != nil && !errors.Is(err, io.ErrClosedPipe) {
			cancel(err)
		}
		_ = give.CloseWithError(err)
	}()
	var code [][]byte
	read := make(chan error, 1)
	go func() {
		var err error
		code, err = receive(bufio.NewReaderSize(got, 64<<10), len(modules))
		_ = got.CloseWithError(err) // what it writes is taken no longer
		read <- err
	}()
	err := sandbox.Run(ctx, sandbox.Spec{
		Root: root, Args: []string{"python3", "-I", "-S", "-B", "-c", compileScript}, Env: environment, Stdin: in, Stdout: out,
		Limits: sandbox.Limits{Output: maxBytecodeBytes, Processes: 16},
	})
	_ = in.Close()
	_ = out.Close()
	<-sent
	if readErr := <-read; err == nil {
		err = readErr
	}
	return code, err
}

// send gives modules to the interpreter.
func send(p *wheel.Plan, modules []int, to io.Writer) error {
	w := bufio.NewWriterSize(to, 64<<10)
	size := func(n int64) error {
		return binary.Write(w, binary.LittleEndian, uint32(n))
	}
	for _, i := range modules {
		f := &p.Files[i]
		name := "/" + f.Path
		err := size(int64(len(name)))
		if err == nil {
			_, err = w.WriteString(name)
		}
		if err == nil {
			err = size(f.Size)
		}
		if err == nil {
			err = p.Copy(i, func(r io.Reader) error { _, err := io.Copy(w, r); return err })
		}
		if err != nil {
			return err
		}
	}
	return w.Flush()
}

// receive takes the bytecode of n modules.
func receive(r io.Reader, n int) ([][]byte, error) {
	out := make([][]byte, 0, n)
	for range n {
		var size uint32
		if err := binary.Read(r, binary.LittleEndian, &size); err != nil {
			return nil, fmt.Errorf("bytecode of module %d of %d: %w", len(out)+1, n, err)
		}
		data, err := io.ReadAll(io.LimitReader(r, int64(size)))
		if err == nil && len(data) < int(size) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("bytecode of module %d of %d: %w", len(out)+1, n, err)
		}
		out = append(out, data)
	}
	return out, nil
}
