package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/origin"
)

// cacheFlag gives a command that reads images the choice of a host cache.
func (a *app) cacheFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.cache, "cache", "", "socket of the host cache to read through, or none (default $RIVULET_CACHED, or 'rivulet cached' if it runs)")
}

// hostCache returns the client of the host cache that the user chose; nil if
// there is none. It is closed with the process.
func (a *app) hostCache(ctx context.Context) *cachedclient.Client {
	if !a.sought {
		a.sought = true
		a.client = cachedclient.Find(ctx, a.cache, cachedclient.Config{Logger: a.logger()})
	}
	return a.client
}

// throughCache returns the reader of an image's checked chunks out of src, by
// way of the host cache if there is one, and that one's client.
func (a *app) throughCache(ctx context.Context, src chunk.Source, image *host.Image) (chunk.Reader, *cachedclient.Client) {
	door := chunk.NewDoor(src)
	c := a.hostCache(ctx)
	if c == nil {
		return door, nil
	}
	return c.Reader(door, image), c
}

// A diskCache is the host cache under the disks of a host.
type diskCache struct{ *cachedclient.Client }

// Reader implements [host.Cache].
func (c diskCache) Reader(image origin.Requester, origin chunk.Reader) chunk.Reader {
	return c.Client.Reader(origin, image)
}

// diskCache returns the host cache that the user chose; nil if there is none.
func (a *app) diskCache(ctx context.Context) host.Cache {
	if c := a.hostCache(ctx); c != nil {
		return diskCache{c}
	}
	return nil
}

// cachedChunks returns a reader of the chunks that the host cache has, which the user
// chose; nil if there is none. Another chunk is chunk.ErrNotFound.
func (a *app) cachedChunks(ctx context.Context) chunk.Reader {
	if c := a.hostCache(ctx); c != nil {
		return c.Reader(chunk.None{}, nil)
	}
	return nil
}

// checkedSource is a source of checked chunks, for those who check anyway.
type checkedSource struct{ chunk.Reader }

// Fetch implements [chunk.Source].
func (s checkedSource) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return s.ReadChunk(ctx, id, dst, off)
}

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look at the host cache, and change what it holds",
		Long: `Cache asks the running 'rivulet cached' of this host. Chunks are named by their
IDs, as 'rivulet cache ls' shows them.`,
		Example: `  rivulet cache stats
  rivulet cache ls | head`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&a.cache, "cache", "", "socket of the host cache (default $RIVULET_CACHED, or the usual place)")
	cmd.AddCommand(a.cacheStatsCommand(), a.cacheLsCommand(), a.cachePinCommand(), a.cacheUnpinCommand(), a.cacheEvictCommand(), a.cacheScrubCommand())
	return cmd
}

// withDaemon runs do with the client of a host cache, which has to be there.
func (a *app) withDaemon(ctx context.Context, do func(ctx context.Context, c *cachedclient.Client) error) error {
	c := a.hostCache(ctx)
	if c == nil {
		return errors.New("no host cache runs; start one with 'rivulet cached', or name its socket with --cache")
	}
	if err := c.Ping(ctx); err != nil {
		return fmt.Errorf("host cache: %w", err)
	}
	return do(ctx, c)
}

func (a *app) cacheStatsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "stats",
		Short:   "Show what the host cache has done, and what it holds",
		Example: `  rivulet cache stats`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDaemon(cmd.Context(), func(ctx context.Context, c *cachedclient.Client) error {
				list, err := c.DaemonStats(ctx)
				if err != nil {
					return err
				}
				return a.printStats(list, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) printStats(list []cachedclient.Stat, asJSON bool) error {
	if asJSON {
		values := make(map[string]int64, len(list))
		for _, s := range list {
			values[s.Name] = s.Value
		}
		return a.printJSON(values)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%d\t\n", s.Name, s.Value)
	}
	return w.Flush()
}

// A cachedChunk is a line of ls as JSON.
type cachedChunk struct {
	Chunk  string `json:"chunk"`
	Size   int64  `json:"size"`
	Pinned bool   `json:"pinned"`
}

func (a *app) cacheLsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the chunks that the host cache holds",
		Example: `  rivulet cache ls`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			enc := json.NewEncoder(a.out)
			return a.withDaemon(cmd.Context(), func(ctx context.Context, c *cachedclient.Client) error {
				return c.List(ctx, func(e cachedclient.Entry) error {
					if asJSON {
						return enc.Encode(cachedChunk{e.ID.String(), e.Size, e.Pinned})
					}
					pinned := ""
					if e.Pinned {
						pinned = "  pinned"
					}
					a.printf("%v  %9d%s\n", e.ID, e.Size, pinned)
					return nil
				})
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return cmd
}

// changeCommand is a command that does something to each chunk that it is given.
func (a *app) changeCommand(name, short, long string, change func(c *cachedclient.Client, ctx context.Context, id chunk.ID) error) *cobra.Command {
	return &cobra.Command{
		Use:     name + " CHUNK...",
		Short:   short,
		Long:    long,
		Example: "  rivulet cache " + name + " 3c32431f61c1bd6d6d1a2a7a7d1b0c4e5f60718293a4b5c6d7e8f90112233445",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids := make([]chunk.ID, len(args))
			for i, arg := range args {
				id, err := chunk.ParseID(arg)
				if err != nil {
					return usageError{err}
				}
				ids[i] = id
			}
			return a.withDaemon(cmd.Context(), func(ctx context.Context, c *cachedclient.Client) error {
				for _, id := range ids {
					if err := change(c, ctx, id); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (a *app) cachePinCommand() *cobra.Command {
	return a.changeCommand("pin", "Keep chunks in the host cache",
		`Pin keeps chunks from being evicted, now and when they come, until they are
unpinned. They count against the size of the cache.`, (*cachedclient.Client).Pin)
}

func (a *app) cacheUnpinCommand() *cobra.Command {
	return a.changeCommand("unpin", "Let pinned chunks be evicted again", "", (*cachedclient.Client).Unpin)
}

func (a *app) cacheEvictCommand() *cobra.Command {
	return a.changeCommand("evict", "Drop chunks from the host cache",
		`Evict drops chunks. One that is pinned, or that somebody is being sent, is not
dropped.`, (*cachedclient.Client).Evict)
}

func (a *app) cacheScrubCommand() *cobra.Command {
	var rate string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "scrub",
		Short: "Check all that the host cache holds, and drop what is damaged",
		Long: `Scrub reads every chunk of the cache and checks it. It returns when that is
done. The cache does the same slowly in the background.`,
		Example: `  rivulet cache scrub --rate 100M`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			perSecond, err := parseSize(rate)
			if err != nil {
				return err
			}
			return a.withDaemon(cmd.Context(), func(ctx context.Context, c *cachedclient.Client) error {
				s, err := c.Scrub(ctx, perSecond)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(map[string]int64{"chunks": s.Chunks, "bytes": s.Bytes, "damaged": s.Damaged})
				}
				a.printf("%d chunks of %s checked; %d were damaged and dropped\n", s.Chunks, size(s.Bytes), s.Damaged)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&rate, "rate", "0", "bytes a second to read; 0: as fast as it can")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}
