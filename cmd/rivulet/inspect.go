package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/seal/kmswrap"
	"github.com/rivuletfs/rivulet/sign"
)

// An inspection is all that a block map says of an image to this user.
type inspection struct {
	Digest       string          `json:"digest"`
	BlockMap     string          `json:"block_map"`
	SourceDigest string          `json:"source_digest"`
	ChainID      string          `json:"chain_id"`
	DiskSize     int64           `json:"disk_size"`
	ChunkSize    int64           `json:"chunk_size"`
	FrameSize    int64           `json:"frame_size"`
	Layout       uint32          `json:"layout_version"`
	Chunks       int             `json:"chunks"`
	Distinct     int             `json:"distinct_chunks"`
	PlainBytes   int64           `json:"plaintext_bytes"`
	StoredBytes  int64           `json:"stored_bytes"`
	MapBytes     int             `json:"block_map_bytes"`
	Generation   uint32          `json:"generation"`
	Salt         string          `json:"salt"`
	Locked       bool            `json:"locked"`
	Readable     bool            `json:"readable"`   // not locked, or this user's identity opens it
	Recipients   int             `json:"recipients"` // wrapped keys
	Signers      []string        `json:"signers"`    // IDs of keys as signatures name them, not checked
	Layers       []inspectedPart `json:"layers"`
	Metadata     inspectedPart   `json:"metadata"`
	Config       json.RawMessage `json:"config,omitempty"` // only if readable
}

// An inspectedPart is a layer's share of a disk, or the file system's own.
type inspectedPart struct {
	DiffID         string `json:"diff_id,omitempty"`
	CompressedSize int64  `json:"compressed_size,omitempty"`
	FirstChunk     uint32 `json:"first_chunk"`
	SlotChunks     uint32 `json:"slot_chunks"`
	Chunks         int    `json:"chunks"`
	PlainBytes     int64  `json:"plaintext_bytes"`
	StoredBytes    int64  `json:"stored_bytes"`
}

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show an image's layers, sizes and the map of its chunks",
		Long: `Inspect shows an image's layers, sizes, digests, who signed it, and the map of
its chunks. With --json, it also shows the image's configuration if the image
is not locked or your identity opens it.`,
		Example: `  rivulet inspect nginx
  rivulet inspect nginx --json | jq .config`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			image, err := a.find(cmd.Context(), view, args[0], false)
			if err != nil {
				return err
			}
			m, err := a.unlockIfOwn(cmd.Context(), view, image)
			if err != nil {
				return err
			}
			r := inspect(m)
			if err := r.attached(cmd.Context(), image); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(r)
			}
			a.showInspection(r, m, len(a.required) > 0)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// unlockIfOwn is unlock that returns the map as it is if the user cannot open it,
// and fails only if ctx ends.
func (a *app) unlockIfOwn(ctx context.Context, v *generation.View, i *generation.Image) (*blockmap.Map, error) {
	m, err := a.unlock(ctx, v, i)
	if err == nil || ctx.Err() != nil {
		return m, err
	}
	if !errors.Is(err, seal.ErrNotRecipient) {
		a.note("rivulet: the configuration is not shown: %v", err)
	}
	return i.Map, nil
}

// orNone returns a digest as text, which is empty if there is none.
func orNone(d origin.Digest) string {
	if d == (origin.Digest{}) {
		return ""
	}
	return d.String()
}

// inspect returns what m says: without the configuration if m is locked.
func inspect(m *blockmap.Map) *inspection {
	info := m.Info()
	all := distinct(m)
	r := &inspection{
		Digest: m.DiskDigest().String(), BlockMap: m.Digest().String(), SourceDigest: orNone(info.Source), ChainID: orNone(info.ChainID),
		DiskSize: info.Size, ChunkSize: info.ChunkSize(), FrameSize: 1 << info.FrameLog2, Layout: info.Layout,
		Chunks: m.Len(), Distinct: len(all), StoredBytes: all.bytes(), MapBytes: len(m.Bytes()),
		Readable: !m.Locked(), Layers: make([]inspectedPart, len(info.Layers)),
	}
	if json.Valid(info.Config) {
		r.Config = info.Config
	}
	for i, l := range info.Layers {
		r.Layers[i] = inspectedPart{DiffID: l.DiffID.String(), CompressedSize: l.CompressedSize, FirstChunk: l.First, SlotChunks: l.Slot}
	}
	for i := range m.Len() {
		c := m.Chunk(i)
		part := &r.Metadata
		if k := layerOf(info.Layers, c.Index); k >= 0 {
			part = &r.Layers[k]
		}
		part.Chunks++
		part.PlainBytes += int64(c.Size)
		part.StoredBytes += int64(c.Stored)
		r.PlainBytes += int64(c.Size)
	}
	return r
}

// attached adds what is said of the image beside its block map.
func (r *inspection) attached(ctx context.Context, i *generation.Image) error {
	r.Generation, r.Locked, r.Signers = uint32(i.Generation()), i.Map.Locked(), []string{}
	salt := i.Map.Info().SaltID
	r.Salt = hex.EncodeToString(salt[:])
	err := i.ListAttachments(ctx, sign.Kind, func(signature []byte) error {
		if id, err := sign.SignerID(signature); err == nil {
			r.Signers = append(r.Signers, id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(r.Signers)
	for _, kind := range []string{agewrap.Kind, kmswrap.Kind} {
		if err := i.ListAttachments(ctx, kind, func([]byte) error { r.Recipients++; return nil }); err != nil {
			return err
		}
	}
	return nil
}

// layerOf returns the layer in whose slot chunk index lies, or -1.
func layerOf(layers []blockmap.Layer, index uint32) int {
	for k, l := range layers {
		if index >= l.First && index-l.First < l.Slot {
			return k
		}
	}
	return -1
}

// showInspection prints r. checked says that a signature that was asked for is
// there; the signers' IDs prove nothing.
func (a *app) showInspection(r *inspection, m *blockmap.Map, checked bool) {
	a.printf("disk       %s\n", r.Digest)
	a.printf("block map  %s  (%s)\n", r.BlockMap, size(int64(r.MapBytes)))
	if r.SourceDigest == "" {
		a.printf("source     none: what stands on the disk was written by hand and committed\n")
	} else {
		a.printf("source     %s\n", r.SourceDigest)
	}
	lock := "open: whoever reads the store can read it"
	if r.Locked {
		lock = fmt.Sprintf("locked for %d", r.Recipients)
	}
	a.printf("keys       %s\n", lock)
	signed := cmp.Or(strings.Join(r.Signers, ", "), "nobody")
	switch {
	case checked:
		signed += " (one of them as required)"
	case len(r.Signers) > 0:
		signed += " (as they say; --require-signature checks)"
	}
	a.printf("signed by  %s\n", signed)
	config := "none"
	switch {
	case !r.Readable:
		config = "locked: your identity does not open it"
	case len(m.Info().Config) > 0:
		config = "shown by --json"
	}
	a.printf("config     %s\n", config)
	a.printf("generation %d, salt %s\n", r.Generation, r.Salt)
	a.printf("size       %s, chunks of %s, frames of %s, layout %d\n", size(r.DiskSize), size(r.ChunkSize), size(r.FrameSize), r.Layout)
	a.printf("chunks     %d (%d distinct), %s plain, %s stored\n\n", r.Chunks, r.Distinct, size(r.PlainBytes), size(r.StoredBytes))
	a.printf("%-10s %-19s %10s %8s %10s %10s\n", "PART", "DIFF ID", "LAYER", "CHUNKS", "PLAIN", "STORED")
	for i, l := range append(r.Layers, r.Metadata) {
		name := fmt.Sprintf("layer %d", i+1)
		if i == len(r.Layers) {
			name = "metadata"
		}
		a.printf("%-10s %-19.19s %10s %8d %10s %10s\n", name, l.DiffID, size(l.CompressedSize), l.Chunks, size(l.PlainBytes), size(l.StoredBytes))
	}
	a.printf("\n%s", chunkPicture(m))
}

// The picture has one character a cell of equally many chunks.
const (
	pictureWidth = 64
	pictureRows  = 16
	shades       = " .:-=+*#%@"
)

// chunkPicture draws how full each part of the disk is: a blank is a hole, and
// '@' stands for chunks without a zero at their end.
func chunkPicture(m *blockmap.Map) string {
	info := m.Info()
	cells := make([]int64, pictureWidth*pictureRows)
	per := max((info.Span()+int64(len(cells))-1)/int64(len(cells)), 1)
	for i := range m.Len() {
		c := m.Chunk(i)
		cells[int64(c.Index)/per] += int64(c.Size)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "each character is %s of the disk\n", size(per*info.ChunkSize()))
	for row := range pictureRows {
		if int64(row*pictureWidth)*per >= info.Span() {
			break
		}
		b.WriteByte('|')
		for _, n := range cells[row*pictureWidth : (row+1)*pictureWidth] {
			shade := 0
			if n > 0 {
				shade = 1 + int(n*int64(len(shades)-2)/(per*info.ChunkSize()))
			}
			b.WriteByte(shades[shade])
		}
		b.WriteString("|\n")
	}
	return b.String()
}
