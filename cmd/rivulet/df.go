package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A dfResult says what a store holds.
type dfResult struct {
	Images         int   `json:"images"`
	Generations    int   `json:"generations"`      // that have anything in them
	Chunks         int   `json:"chunks"`           // stored, whoever uses them; once for each generation
	StoredBytes    int64 `json:"stored_bytes"`     // of those chunks
	ImageChunks    int   `json:"image_chunks"`     // of named images, shared ones counted once
	ImageBytes     int64 `json:"image_bytes"`      // of those chunks as stored
	LogicalBytes   int64 `json:"logical_bytes"`    // before deduplication: the stored bytes of each image, added up
	PlaintextBytes int64 `json:"plaintext_bytes"`  // before codec and deduplication
	UnusedChunks   int   `json:"unreached_chunks"` // of no named image
	UnusedBytes    int64 `json:"unreached_bytes"`
}

func (a *app) dfCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "df",
		Short:   "Show what the store holds, and what deduplication saved",
		Example: `  rivulet df --json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			r, err := measure(cmd, view)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(r)
			}
			a.printf("images                %8d\n", r.Images)
			a.printf("chunks                %8d  %10s stored\n", r.Chunks, size(r.StoredBytes))
			a.printf("of named images       %8d  %10s\n", r.ImageChunks, size(r.ImageBytes))
			a.printf("of none               %8d  %10s\n", r.UnusedChunks, size(r.UnusedBytes))
			a.printf("before deduplication            %10s stored, %s plain\n", size(r.LogicalBytes), size(r.PlaintextBytes))
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func measure(cmd *cobra.Command, v *generation.View) (*dfResult, error) {
	ctx, r, used := cmd.Context(), &dfResult{}, chunkSet{}
	err := v.Names(ctx, func(name string, d origin.Digest) error {
		i, err := v.Open(ctx, d.String())
		if err != nil {
			return fmt.Errorf("image %q: %w", name, err)
		}
		m := i.Map
		r.Images++
		used.add(m)
		for i := range m.Len() {
			c := m.Chunk(i)
			r.LogicalBytes += int64(c.Stored)
			r.PlaintextBytes += int64(c.Size)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.ImageChunks, r.ImageBytes = len(used), used.bytes()
	return r, v.Origin().ListGenerations(ctx, func(g origin.GenerationID) error {
		r.Generations++
		return v.Origin().Generation(g).List(ctx, func(id chunk.ID, n int64) error {
			r.Chunks++
			r.StoredBytes += n
			if _, ok := used[id]; !ok {
				r.UnusedChunks++
				r.UnusedBytes += n
			}
			return nil
		})
	})
}
