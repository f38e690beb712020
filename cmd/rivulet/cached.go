package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/host/frontends"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
	"github.com/rivuletfs/rivulet/internal/systemd"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/download"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/telemetry"
)

// Defaults of the cache's size.
const (
	cacheShare = 10       // of the file system, 1 of so many
	cacheMost  = 64 << 30 // bytes
	freeShare  = 20
)

// cachedOptions are the flags of cached.
type cachedOptions struct {
	dir, size, minFree, socket, group, policy, scrub string
	downloads                                        int
	hosts                                            []string
	ca, zone                                         string
	telemetry                                        telemetryOptions
}

func (a *app) cachedCommand() *cobra.Command {
	var o cachedOptions
	cmd := &cobra.Command{
		Use:   "cached",
		Short: "Keep chunks on this host's disk for everybody who reads images",
		Long: `Cached is the host cache: one process a host that keeps the chunks that images
were read from, sealed as they came, in a folder of bounded size. It has no keys.
'rivulet serve', 'mount' and 'export' use it when it runs: a chunk that several of
them want is fetched once. They read what is there from its files, and from the
store when this process is away.

It prints a line "ready PATH" when clients can connect, and ends on SIGTERM or
SIGINT. Under systemd it tells when it is ready and takes a socket that was opened
for it. What it holds is served again by the next start.`,
		Example: `  rivulet cached --dir /var/cache/rivulet --size 100G &
  rivulet --store s3://bucket/images serve nginx
  rivulet cache stats`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runCached(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "folder of the cache, for nothing else (default /var/cache/rivulet for root, else in the user's cache folder)")
	f.StringVar(&o.size, "size", "", "most that the cache takes: bytes, or per cent of the file system (default 10%, at most 64G)")
	f.StringVar(&o.minFree, "min-free", "5%", "what it leaves free on the file system: bytes, or per cent")
	f.StringVar(&o.socket, "socket", "", "where to listen (default $RIVULET_CACHED, or cached.sock in the runtime folder)")
	f.StringVar(&o.group, "group", "", "let the members of this group use the cache too, by name or number")
	f.StringVar(&o.zone, "zone", "", "cache servers that hosts share, asked before the store: redis://HOST:PORT,redis://HOST:PORT?scheme=4of5, or memcached://…")
	f.StringVar(&o.policy, "policy", evict.Names()[0], "which chunks go first when there is no room: "+strings.Join(evict.Names(), ", "))
	a.origin.addFlags(f)
	f.IntVar(&o.downloads, "downloads", cached.DefaultDownloads, "downloads at a time")
	f.StringArrayVar(&o.hosts, "allow-host", nil, "download from this host alone; may be repeated (default all hosts)")
	f.StringVar(&o.ca, "ca", "", "file of authorities (PEM) that are trusted besides the system's")
	f.StringVar(&o.scrub, "scrub-rate", "8M", "bytes a second that are checked in the background; 0: none")
	o.telemetry.addFlags(f)
	_ = cmd.RegisterFlagCompletionFunc("policy", cobra.FixedCompletions(evict.Names(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// runCached serves until ctx ends.
func (a *app) runCached(ctx context.Context, o *cachedOptions) (err error) {
	config, gid, err := o.cacheConfig()
	if err != nil {
		return err
	}
	config.Logger = a.logger()
	if err := o.telemetry.check(); err != nil {
		return err
	}
	collector := &telemetry.Daemon{}
	seen := &watch{app: a, opt: o.telemetry, collector: collector}
	defer seen.close()
	listeners, err := o.listen(gid)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	disk, err := cache.Open(ctx, config)
	if errors.Is(err, cache.ErrLocked) {
		return fmt.Errorf("%s: another host cache has this folder; end it, or choose another one with --dir", config.Dir)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	d, err := download.New(download.Options{CAFile: o.ca, Allow: o.allow()})
	if err != nil {
		return err
	}
	defer d.Close()
	limit, err := a.origin.parse(false)
	if err != nil {
		return err
	}
	limit.Concurrent = o.downloads
	c := cached.Config{Cache: disk, Download: d, Limit: limit, Group: gid, Version: programVersion(), Logger: a.logger()}
	if o.zone != "" {
		z, zoneErr := a.openZone(o.zone)
		if zoneErr != nil {
			return zoneErr
		}
		defer func() { err = errors.Join(err, z.Close()) }()
		c.Zone = z
		collector.Zone = z
	}
	server, err := cached.New(c)
	if err != nil {
		return err
	}
	collector.Server = server
	seen.begin(ctx, nil, nil)
	return a.serveCache(ctx, server, listeners)
}

// openZone opens the zone at an address.
func (a *app) openZone(address string) (*zone.Zone, error) {
	c, err := zone.ParseURL(address)
	if err != nil {
		return nil, usageError{err}
	}
	c.Logger = a.logger()
	return zone.Open(c)
}

// serveCache serves on the listeners until ctx ends, or one fails.
func (a *app) serveCache(ctx context.Context, server *cached.Server, listeners []*net.UnixListener) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, cached.ErrClosed) {
				return err
			}
			return nil
		})
		a.printf("ready %v\n", frontends.Absolute(l.Addr()))
	}
	if err := systemd.Notify("READY=1"); err != nil {
		a.note("rivulet: %v", err)
	}
	a.releasePages()
	<-gctx.Done()
	_ = systemd.Notify("STOPPING=1")
	server.Close()
	return g.Wait()
}

// allow returns which hosts may be downloaded from; nil: all.
func (o *cachedOptions) allow() func(host string) bool {
	if len(o.hosts) == 0 {
		return nil
	}
	return func(host string) bool { return slices.Contains(o.hosts, host) }
}

// cacheConfig returns what the flags say of the cache, and the group.
func (o *cachedOptions) cacheConfig() (c cache.Config, gid int, err error) {
	policy, err := evict.Parse(o.policy)
	if err != nil {
		return c, 0, usagef("--policy: %v", err)
	}
	if o.downloads < 1 {
		return c, 0, usagef("--downloads %d: want 1 or more", o.downloads)
	}
	if o.group != "" {
		if gid, err = groupID(o.group); err != nil {
			return c, 0, err
		}
	}
	c = cache.Config{Dir: o.dir, Policy: policy, Group: gid != 0}
	if c.Dir == "" {
		if c.Dir, err = defaultCacheDir(); err != nil {
			return c, 0, err
		}
	}
	if c.ScrubRate, err = parseSize(o.scrub); err != nil {
		return c, 0, err
	}
	if err := os.MkdirAll(filepath.Dir(c.Dir), 0o755); err != nil {
		return c, 0, fmt.Errorf("folder of the cache: %w", err)
	}
	total, err := fileSystemSize(filepath.Dir(c.Dir))
	if err != nil {
		return c, 0, err
	}
	if c.MaxBytes = min(total/cacheShare, cacheMost); o.size != "" {
		if c.MaxBytes, err = parseShare(o.size, total); err != nil {
			return c, 0, err
		}
	}
	if c.MinFree, err = parseShare(o.minFree, total); err != nil {
		return c, 0, err
	}
	if c.MaxBytes <= 0 {
		return c, 0, usagef("--size %q: want more than nothing", o.size)
	}
	return c, gid, nil
}

// parseShare reads a size, or a share of total in per cent.
func parseShare(s string, total int64) (int64, error) {
	number, ok := strings.CutSuffix(s, "%")
	if !ok {
		return parseSize(s)
	}
	p, err := strconv.ParseFloat(number, 64)
	if err != nil || !(p >= 0 && p <= 100) {
		return 0, usagef("size %q: want 0%% to 100%%, or a number of bytes", s)
	}
	return int64(float64(total) * p / 100), nil
}

// fileSystemSize returns the bytes of the file system that dir lies on.
func fileSystemSize(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("file system of %s: %w", dir, err)
	}
	return int64(st.Blocks * uint64(st.Bsize)), nil
}

// defaultCacheDir is where the cache lies if nobody says.
func defaultCacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/rivulet", nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no --dir, and no cache folder of the user's: %w", err)
	}
	return filepath.Join(base, "rivulet"), nil
}

// groupID returns the number of a group.
func groupID(name string) (int, error) {
	if n, err := strconv.Atoi(name); err == nil && n > 0 {
		return n, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, usagef("--group %q: there is no such group", name)
	}
	n, err := strconv.Atoi(g.Gid)
	if err == nil && n == 0 {
		err = errors.New("it is root's")
	}
	if err != nil {
		return 0, usagef("--group %q: %v", name, err)
	}
	return n, nil
}

// listen takes the sockets that systemd opened, or opens one, which only this
// user can connect to, or the group too.
func (o *cachedOptions) listen(gid int) ([]*net.UnixListener, error) {
	given, err := systemd.TakeListeners()
	if err != nil {
		return nil, err
	}
	if len(given) == 0 {
		l, err := o.open(gid)
		if err != nil {
			return nil, err
		}
		given = append(given, l)
	}
	var list []*net.UnixListener
	for _, l := range given {
		u, ok := l.(*net.UnixListener)
		if !ok {
			return nil, fmt.Errorf("host cache: inherited a listener on %v, want unix sockets", l.Addr())
		}
		list = append(list, u)
	}
	return list, nil
}

// open opens the socket.
func (o *cachedOptions) open(gid int) (net.Listener, error) {
	path := o.socket
	if path == "" {
		path = os.Getenv(cachedclient.Variable)
	}
	if path == cachedclient.None {
		return nil, usagef("%s is %q: name a socket with --socket", cachedclient.Variable, cachedclient.None)
	}
	if path == "" {
		dir, err := runtimedir.Make()
		if err != nil {
			return nil, err
		}
		if gid != 0 { // its members have to get in
			if err := errors.Join(os.Chown(dir, -1, gid), os.Chmod(dir, 0o750)); err != nil {
				return nil, err
			}
		}
		path = filepath.Join(dir, cachedclient.SocketName)
	}
	l, err := nbd.Listen("unix:" + path)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: a host cache listens there already", path)
	}
	if err != nil {
		return nil, err
	}
	mode := os.FileMode(0o600)
	if gid != 0 {
		mode = 0o660
		err = os.Chown(path, -1, gid)
	}
	if err = errors.Join(err, os.Chmod(path, mode)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
