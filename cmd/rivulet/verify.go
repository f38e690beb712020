package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/verify"
)

// A verifyResult says what verify looked at.
type verifyResult struct {
	Name        string `json:"name"`
	Digest      string `json:"digest"`
	Chunks      int    `json:"chunks"`
	StoredBytes int64  `json:"stored_bytes"`
	Reads       int    `json:"reads"`
	Against     string `json:"against"`
}

func (a *app) verifyCommand() *cobra.Command {
	var against string
	var reads int
	var seed uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Check every chunk of an image, and what is read through the disk",
		Long: `Verify reads every chunk of the image from the store, checks and decodes it,
and compares the digest of the disk that they make with the block map's. Then
it reads random ranges through the disk as a frontend would, and compares them
with a reference: a raw image file, another store's copy, or the chunks read
one by one.`,
		Example: `  rivulet verify nginx
  rivulet verify nginx --against nginx.img
  rivulet verify nginx --against dir:/backup`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reads < 0 {
				return usagef("--reads %d: want 0 or more", reads)
			}
			if !cmd.Flags().Changed("seed") {
				seed = uint64(time.Now().UnixNano())
			}
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			image, err := a.open(cmd.Context(), view, args[0])
			if err != nil {
				return err
			}
			m := image.Unlocked
			if err := verify.Chunks(cmd.Context(), m, image, a.countChunks()); err != nil {
				return fmt.Errorf("verify %s: %w", args[0], err)
			}
			if err := a.verifyReads(cmd.Context(), image, args[0], against, reads, seed); err != nil {
				return fmt.Errorf("verify %s: %w", args[0], err)
			}
			r := verifyResult{Name: args[0], Digest: m.DiskDigest().String(), Chunks: m.Len(), StoredBytes: distinct(m).bytes(), Reads: reads, Against: against}
			if asJSON {
				return a.printJSON(r)
			}
			a.printf("%s: %d chunks (%s) and %d random reads are right\n", args[0], r.Chunks, size(r.StoredBytes), reads)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&against, "against", "", "a raw image file, or the URL of another store, to compare reads with")
	f.IntVar(&reads, "reads", 1000, "how many random reads to compare")
	f.Uint64Var(&seed, "seed", 0, "where the random reads begin; one seed, one sequence (default: the clock says)")
	f.BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// verifyReads compares reads of the disk with the reference that was chosen.
func (a *app) verifyReads(ctx context.Context, image *host.Image, ref, against string, reads int, seed uint64) error {
	reference, err := a.openReference(ctx, image, against)
	if err != nil {
		return err
	}
	defer func() { _ = reference.Close() }()
	a.cache = cachedclient.None // the store is checked, and not what a cache has of it
	d, err := a.openDisk(ctx, image, ref)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := verify.Reads(ctx, image.Unlocked, d, reference, reads, seed); err != nil {
		return fmt.Errorf("%w (--seed %d repeats it)", err, seed)
	}
	return nil
}

// A reference is another way to the bytes of a disk.
type reference interface {
	io.ReaderAt
	io.Closer
}

func (a *app) openReference(ctx context.Context, image *host.Image, against string) (reference, error) {
	m := image.Unlocked
	if against == "" {
		return verify.NewPlain(ctx, m, image)
	}
	if isStore(against) {
		other := *a
		other.storeURL = against
		view, err := other.openView(ctx)
		if err != nil {
			return nil, err
		}
		copied, err := other.open(ctx, view, m.DiskDigest().String())
		if err != nil {
			return nil, fmt.Errorf("store %s: %w", against, err)
		}
		if err := verify.SameDisk(m, copied.Unlocked); err != nil {
			return nil, err
		}
		return verify.NewPlain(ctx, copied.Unlocked, copied)
	}
	f, err := os.Open(against)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.Size() != m.Size() {
		_ = f.Close()
		return nil, fmt.Errorf("%s: not a raw image of %d bytes", against, m.Size())
	}
	return f, nil
}

// isStore reports whether a word is a store's URL rather than a file's path.
func isStore(s string) bool { return strings.HasPrefix(s, "dir:") || strings.Contains(s, "://") }

// countChunks shows on a terminal how many chunks were checked.
func (a *app) countChunks() verify.Progress {
	if !isTerminal(a.err) {
		return nil
	}
	var last time.Time
	return func(done, total int) {
		if now := time.Now(); done == total || now.Sub(last) > drawEvery {
			last = now
			fmt.Fprintf(a.err, "\r\x1b[Kchunks %d of %d", done, total)
			if done == total {
				fmt.Fprintln(a.err)
			}
		}
	}
}
