package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/pprof"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/domain"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/internal/bytesize"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/sign"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2

	exitUnwell  = 3 // of status
	exitNoAgent = 4
)

// A usageError is a mistake in the command line.
type usageError struct{ error }

// An exitError ends the command with a status of its own: what it found is not a
// failure of the command.
type exitError struct {
	error  // nil: there is no word about it, as for a process that was run for the user
	status int
}

func (e exitError) Error() string {
	if e.error == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.error.Error()
}

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// An app is what all commands share.
type app struct {
	out, err   io.Writer
	storeURL   string
	instead    string   // store that replaces the chosen one, if not ""; see readAtTag
	identities []string // files, or ARNs of KMS keys, that open what is locked
	required   []string // public keys, or files of them: one must have signed what is read
	profile    string   // file for a CPU profile
	origin     originLimit

	cache  string               // socket of the host cache, or none
	sought bool                 // client is what was found
	client *cachedclient.Client // nil: no host cache
	agent  string               // socket of the agent to use, "none", or "" for the default
	// keychain finds logins for registries; nil: docker's configuration.
	keychain authn.Keychain

	silent bool // nobody can be asked for a passphrase
	quiet  bool // standard error is somebody else's too: warnings only
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	errOut := a.err
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	pprof.StopCPUProfile()
	if a.client != nil {
		a.client.Close()
	}
	if err == nil {
		return exitOK
	}
	var exit exitError
	exits := errors.As(err, &exit)
	if !exits || exit.error != nil {
		fmt.Fprintln(errOut, "rivulet: "+a.advise(err))
	}
	if exits {
		return exit.status
	}
	var usage usageError
	if errors.As(err, &usage) || errors.As(err, new(host.SpecError)) {
		fmt.Fprintf(errOut, "Run '%s --help' for the usage.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// advise adds what to do next to an error, where that is known.
func (a *app) advise(err error) string {
	s := strings.TrimSpace(err.Error())
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, chunk.ErrNotFound) && strings.HasPrefix(s, "image "):
		return s + "; 'rivulet ls' lists the images of the store"
	case errors.Is(err, agewrap.ErrPassphrase):
		return s + "; run it from a terminal ('rivulet mount' with --foreground), or give an identity without a passphrase"
	case errors.Is(err, host.ErrBusy):
		return s + "; end what uses it and try again, or use --force"
	case errors.Is(err, domain.ErrGranted):
		return s + "; somebody who publishes there can run 'rivulet salt grant' with what 'rivulet keys' prints here, or choose another --domain"
	case errors.Is(err, seal.ErrNotRecipient):
		return s + "; give the identity that it is locked for with --identity, or have it granted to what 'rivulet keys' prints here ('rivulet grant')"
	case errors.Is(err, sign.ErrOtherKey):
		return s + "; 'rivulet inspect' shows who signed"
	case errors.Is(err, fs.ErrPermission) && !strings.Contains(s, "chmod "):
		return s + "; check the rights, or choose another place with --store"
	}
	return s
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rivulet",
		Short: "Start containers and virtual machines from images that have not arrived yet",
		Long: `Rivulet turns an OCI image into a disk in a store of chunks, once, and then
serves or mounts that disk at once, fetching chunks as they are read.`,
		Example: `  rivulet publish docker.io/library/nginx:latest --name nginx
  rivulet serve nginx --nbd unix:/tmp/nginx.sock
  rivulet mount nginx /mnt`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&a.storeURL, "store", "", "where images are kept: dir:PATH, s3://BUCKET/PREFIX?endpoint=URL, oci://REGISTRY/REPOSITORY[:TAG] or https://HOST/PATH (default $RIVULET_STORE, or a folder of the user's)")
	root.PersistentFlags().StringArrayVar(&a.identities, "identity", nil, "file of an age or SSH secret key, or ARN of an AWS KMS key, that opens locked images; may be repeated (default $RIVULET_IDENTITY, or your own)")
	root.PersistentFlags().StringArrayVar(&a.required, "require-signature", nil, "read only images that the publisher with this public key or key file signed; may be repeated")
	root.PersistentFlags().StringVar(&a.profile, "cpuprofile", "", "write a CPU profile to this file")
	_ = root.PersistentFlags().MarkHidden("cpuprofile")
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		if err := a.takeImageAddress(cmd, args); err != nil {
			return err
		}
		a.readAtTag(cmd, args)
		return a.startProfile()
	}
	root.AddCommand(
		a.publishCommand(), a.convertCommand(), a.lsCommand(), a.inspectCommand(), a.diffCommand(), a.dfCommand(),
		a.catCommand(), a.serveCommand(), a.mountCommand(), a.umountCommand(), a.agentCommand(),
		a.statusCommand(), a.topCommand(), a.explainCommand(),
		a.commitCommand(), a.overlayCommand(),
		a.cachedCommand(), a.cacheCommand(), a.vmCommand(),
		a.exportCommand(), a.verifyCommand(), a.rmCommand(), a.pinCommand(), a.unpinCommand(), a.copyCommand(),
		a.profileCommand(), a.packagesCommand(),
		a.keysCommand(), a.grantCommand(), a.saltCommand(),
		a.generationCommand(), a.gcCommand(), a.fsckCommand(), a.doctorCommand(), a.versionCommand(), a.manCommand(),
	)
	root.CompletionOptions.HiddenDefaultCmd = false
	strictUsage(root)
	return root
}

// startProfile begins the CPU profile that was asked for; run ends it.
func (a *app) startProfile() error {
	if a.profile == "" {
		return nil
	}
	f, err := os.Create(a.profile)
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f)
}

// strictUsage makes every mistake in flags and arguments a usageError.
func strictUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		strictUsage(sub)
	}
}

// printJSON writes v as one indented JSON value.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printf writes to standard output.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// note writes a line to standard error.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// size writes bytes for people, in binary units.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1023.95 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}

// percent writes part of whole.
func percent(part, whole int64) string {
	if whole == 0 {
		return "0 %"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

// parseSize reads a size in bytes, with an optional unit (K, M, G, T; powers of
// 1024).
func parseSize(s string) (int64, error) {
	n, err := bytesize.Parse(s)
	if err != nil {
		return 0, usageError{err}
	}
	return n, nil
}

// isTerminal reports whether w is a terminal that can be drawn on.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}
