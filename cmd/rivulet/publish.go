package main

import (
	"encoding/json"
	"os"
	"runtime/debug"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/publish"
)

// publishMemory is where the garbage collector begins to work harder, in bytes:
// what an image of a million files takes, without an equal share of garbage.
const publishMemory = 896 << 20

// boundMemory sets that limit, unless GOMEMLIMIT did. It is soft: a larger image
// takes more memory, and more time to collect garbage, and is not refused.
func boundMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(publishMemory)
	}
}

func (a *app) publishCommand() *cobra.Command {
	var opts publish.Options
	var diskSize, platform string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "publish SOURCE...",
		Short: "Turn an image into a disk in the store",
		Long: `Publish flattens an image into one ext4 disk, cuts it into chunks and stores
those that the store does not have yet. A source is

  REFERENCE            an image in a registry (docker's credentials are used)
  oci:DIR[:TAG]        an image in an OCI image layout
  docker-archive:FILE  an image saved by docker
  dir:PATH             a folder
  tar:FILE             an archive, plain, gzip or zstd

Several sources are stacked, the first at the bottom. A layer that the store
knows is not read again. Publish can be stopped at any time and run again.`,
		Example: `  rivulet publish docker.io/library/python:3.12
  rivulet publish oci:./layout:python3 --name python3
  rivulet publish docker.io/library/debian:12 dir:./app --name app`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if diskSize != "" {
				if opts.Size, err = parseSize(diskSize); err != nil {
					return err
				}
			}
			if platform != "" {
				if opts.Source.Platform, err = v1.ParsePlatform(platform); err != nil {
					return usagef("platform %q: %w", platform, err)
				}
			}
			if opts.Name != "" {
				if err := catalog.CheckName(opts.Name); err != nil {
					return usageError{err}
				}
			}
			boundMemory()
			store, err := a.openStore(true)
			if err != nil {
				return err
			}
			if opts.Salt, err = openSalt(); err != nil {
				return err
			}
			bars := a.newProgress(asJSON)
			opts.Progress = bars.event
			res, err := publish.Image(cmd.Context(), store, args, opts)
			bars.end()
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(a.out).Encode(res)
			}
			a.printf("%s\n", res.Digest)
			a.note("published %s: disk of %s, %d chunks, %s stored", res.Name, size(res.DiskSize), res.Chunks, size(res.StoredBytes))
			a.note("new in the store: %d chunks, %s; fetched %s; %d of %d layers were known",
				res.NewChunks, size(res.NewBytes), size(res.FetchedBytes), res.LayersKnown, res.Layers)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Name, "name", "", "name to publish under (default: the source's own)")
	f.StringVar(&diskSize, "size", "", "size of the disk, such as 20G (default: room for twice the content, and 1 GiB more)")
	f.StringVar(&platform, "platform", "", "platform to choose of several, such as linux/arm64 (default: this machine's)")
	f.StringVar(&opts.TempDir, "temp", "", "folder for layers while they are cut (default: the system's)")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON, and progress as JSON lines to standard error")
	return cmd
}
