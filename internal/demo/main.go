// Demo shows the way of the data on one machine, without root: it publishes the
// Go installation, serves the disk over NBD from a process of its own, reads
// files back through an NBD client and the ext4 reader, and compares them with
// the originals. "make demo" runs it.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

func main() {
	program := flag.String("rivulet", "bin/rivulet", "the rivulet program")
	tree := flag.String("tree", "", "the folder to publish (default: the Go installation)")
	files := flag.Int("files", 200, "how many files to read back and compare")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *program, *tree, *files); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program, tree string, files int) error {
	if tree == "" {
		out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("find the Go installation: %w", err)
		}
		tree = strings.TrimSpace(string(out))
	}
	tmp, err := os.MkdirTemp("", "rivulet-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	names, total, err := listFiles(tree)
	if err != nil {
		return err
	}
	fmt.Printf("tree      %s: %d files, %.1f MiB\n", tree, len(names), mib(total))
	store := "dir:" + filepath.Join(tmp, "store")
	if err := os.Setenv("RIVULET_KEYS", filepath.Join(tmp, "keys")); err != nil { // leave the user's own alone
		return err
	}
	for _, times := range []string{"first", "again"} {
		if err := publish(ctx, program, store, tree, times); err != nil {
			return err
		}
	}
	srv, err := serve(ctx, program, store, filepath.Join(tmp, "nbd.sock"))
	if err != nil {
		return err
	}
	readErr := readBack(ctx, srv.uri, tree, names, files)
	fetched, err := srv.end()
	if err := errors.Join(readErr, err); err != nil {
		return err
	}
	fmt.Printf("fetched   %.1f MiB of chunks for that, in %d requests to the store\n", mib(fetched.Bytes), fetched.Requests)
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// listFiles returns the regular files below root, and their bytes.
func listFiles(root string) (names []string, total int64, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		total += info.Size()
		name, err := filepath.Rel(root, path)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	return names, total, err
}

// publish runs "rivulet publish" and prints what came of it.
func publish(ctx context.Context, program, store, tree, times string) error {
	cmd := exec.CommandContext(ctx, program, "--store", store, "publish", "dir:"+tree, "--name", "go", "--json")
	var messages bytes.Buffer
	cmd.Stderr = &messages
	start := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("rivulet publish: %w\n%s", err, messages.String())
	}
	var r struct {
		Digest      string `json:"digest"`
		DiskSize    int64  `json:"disk_size"`
		Chunks      int    `json:"chunks"`
		StoredBytes int64  `json:"stored_bytes"`
		NewChunks   int    `json:"new_chunks"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return fmt.Errorf("rivulet publish: %w", err)
	}
	if times == "first" {
		fmt.Printf("disk      %s, %.1f GiB\n", r.Digest, mib(r.DiskSize)/1024)
		fmt.Printf("stored    %d chunks, %.1f MiB\n", r.Chunks, mib(r.StoredBytes))
	}
	fmt.Printf("publish   %s: %v, %d new chunks\n", times, time.Since(start).Round(time.Millisecond), r.NewChunks)
	return nil
}

// A server is a running "rivulet serve".
type server struct {
	cmd *exec.Cmd
	out *bufio.Reader
	uri string
}

// A cost is what the server fetched from its store.
type cost struct {
	Requests int64 `json:"fetches"`
	Bytes    int64 `json:"fetched_bytes"`
}

func serve(ctx context.Context, program, store, socket string) (*server, error) {
	cmd := exec.CommandContext(ctx, program, "--store", store, "serve", "go", "--nbd", "unix:"+socket, "--json")
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("rivulet serve: %w", err)
	}
	s := &server{cmd: cmd, out: bufio.NewReader(pipe)}
	line, err := s.out.ReadString('\n')
	uri, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("rivulet serve said %q (%v), not that it is ready", line, errors.Join(err, cmd.Wait()))
	}
	s.uri = uri
	fmt.Printf("serve     ready after %v: %s\n", time.Since(start).Round(time.Millisecond), uri)
	return s, nil
}

// end stops the server and returns what it says of itself.
func (s *server) end() (cost, error) {
	var c cost
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return c, err
	}
	rest, err := io.ReadAll(s.out)
	if err != nil {
		return c, err
	}
	if err := s.cmd.Wait(); err != nil {
		return c, fmt.Errorf("rivulet serve: %w", err)
	}
	return c, json.Unmarshal(rest, &c)
}

// readBack reads files through NBD and ext4 and compares them with tree's.
func readBack(ctx context.Context, uri, tree string, names []string, n int) error {
	start := time.Now()
	client, err := nbdclient.Dial(ctx, uri)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	fsys, err := ext4.Open(client, client.Size())
	if err != nil {
		return err
	}
	bytesRead, first := int64(0), time.Duration(0)
	rng := rand.New(rand.NewPCG(1, 2)) // the same files in each run
	for i := range min(n, len(names)) {
		name := names[rng.IntN(len(names))]
		got, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s: differs from the original", name)
		}
		bytesRead += int64(len(got))
		if i == 0 {
			first = time.Since(start)
		}
	}
	fmt.Printf("read      %d files (%.1f MiB) over NBD, all equal to the originals: the first after %v, all after %v\n",
		min(n, len(names)), mib(bytesRead), first.Round(100*time.Microsecond), time.Since(start).Round(time.Millisecond))
	return nil
}
