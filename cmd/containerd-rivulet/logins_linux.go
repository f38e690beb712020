package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/rivuletfs/rivulet/credentials"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/snapshotter/imageservice"
)

// defaultContainerd is where containerd listens.
const defaultContainerd = "/run/containerd/containerd.sock"

// loginOptions say where logins for registries come from, and who may ask for them.
type loginOptions struct {
	socket       string // on which the agent asks
	imageService string // socket for the kubelet; "": none
	containerd   string // that the kubelet's calls go to
	keep         bool
	config, dir  string // of the kubelet's plugins
}

func (o *loginOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.socket, "logins", "", "socket on which the agent asks for logins (default "+credentials.SocketName+" in the runtime folder)")
	f.StringVar(&o.imageService, "image-service", "", "also be the kubelet's image service, on this socket, to learn what images are pulled with (its --image-service-endpoint)")
	f.StringVar(&o.containerd, "containerd", defaultContainerd, "containerd's socket, to which the image service hands everything on")
	f.BoolVar(&o.keep, "keep-logins", false, "keep what images are pulled with in the root folder, for root alone, over restarts")
	f.StringVar(&o.config, "image-credential-provider-config", "", "the kubelet's configuration of credential-provider plugins, to ask these too")
	f.StringVar(&o.dir, "image-credential-provider-bin-dir", "", "the folder of those plugins")
}

// open returns the keychain; root is the snapshotter's folder.
func (o *loginOptions) open(root string, log *slog.Logger) (k credentials.Keychain, err error) {
	if (o.config == "") != (o.dir == "") {
		return k, usagef("--image-credential-provider-config and --image-credential-provider-bin-dir go together")
	}
	if o.keep && o.imageService == "" {
		return k, usagef("--keep-logins: nobody says what images are pulled with: want --image-service, too")
	}
	file := ""
	if o.keep {
		if err := os.MkdirAll(root, 0o700); err != nil {
			return k, err
		}
		file = filepath.Join(root, "logins.json")
	}
	if k.Pulls, err = credentials.OpenPulls(file); err == nil && o.config != "" {
		k.Plugins, err = credentials.OpenPlugins(o.config, o.dir, log)
	}
	return k, err
}

// chain is who knows logins: k, then docker's configuration.
func chain(k credentials.Keychain) authn.Keychain {
	return authn.NewMultiKeychain(k, authn.DefaultKeychain)
}

// serve has g answer the agent and the kubelet until ctx ends.
func (o *loginOptions) serve(ctx context.Context, g *errgroup.Group, k credentials.Keychain, log *slog.Logger) error {
	ln, err := listenPrivately(o.socket)
	if err != nil {
		return err
	}
	if o.imageService != "" {
		if err := o.serveKubelet(ctx, g, k, log); err != nil {
			return errors.Join(err, ln.Close())
		}
	}
	g.Go(func() error { return credentials.Serve(ctx, ln, k) })
	return nil
}

func (o *loginOptions) serveKubelet(ctx context.Context, g *errgroup.Group, k credentials.Keychain, log *slog.Logger) error {
	proxy, err := imageservice.New(o.containerd, k.Pulls, log)
	if err != nil {
		return err
	}
	ln, err := listenPrivately(o.imageService)
	if err != nil {
		return errors.Join(err, proxy.Close())
	}
	server := proxy.Server()
	g.Go(func() error { return errors.Join(server.Serve(ln), proxy.Close()) })
	g.Go(func() error { return endWith(ctx, server) })
	return nil
}

// endWith ends a server with ctx, when the calls are through that have begun, or after a while.
func endWith(ctx context.Context, server *grpc.Server) error {
	<-ctx.Done()
	enough := time.AfterFunc(stopTime, server.Stop)
	defer enough.Stop()
	server.GracefulStop()
	return nil
}

// listenPrivately opens a socket for this user alone, from its first moment: so it is called while
// nothing else of the process makes files.
func listenPrivately(path string) (net.Listener, error) {
	mask := syscall.Umask(0o177)
	ln, err := nbd.Listen("unix:" + path)
	syscall.Umask(mask)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, usedError(path)
	}
	return ln, err
}
