package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/domain"
	"github.com/rivuletfs/rivulet/keyring"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

func (a *app) saltCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "salt",
		Short: "Manage salt domains: who publishes with which salt",
		Long: `Images of one salt domain share their chunks, and whoever publishes in it needs
its salt. With the salt, the layers that are published with it can be read, for
whomever the images are locked: give publishers who must not read one another's
images a domain each. 'rivulet publish' makes the domain "default" when it is
first used.`,
		Example: `  rivulet salt grant age1...      # let a colleague publish
  rivulet salt rotate             # a new salt from now on
  rivulet salt new tenant-7 --codec raw`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.saltLsCommand(), a.saltNewCommand(), a.saltRotateCommand(), a.saltGrantCommand(), a.saltCodecCommand())
	return cmd
}

// A listedDomain is a line of salt ls.
type listedDomain struct {
	Domain     string   `json:"domain"`
	Epoch      uint32   `json:"epoch"`
	Salt       string   `json:"salt"`
	Codec      string   `json:"codec"`
	Recipients []string `json:"recipients"`
}

func (a *app) saltLsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the salt domains of the store, and who can publish in them",
		Example: `  rivulet salt ls`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			store, err := a.openOrigin(ctx, false)
			if err != nil {
				return err
			}
			list := []listedDomain{}
			err = domain.List(ctx, store, func(s domain.State) error {
				who, err := domain.Recipients(ctx, store, s.Name, s.Salt)
				list = append(list, listedDomain{s.Name, s.Epoch, hex.EncodeToString(s.Salt[:]), s.Coding.String(), who})
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(list)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "DOMAIN\tEPOCH\tSALT\tCODEC\tPUBLISHERS")
			for _, d := range list {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", d.Domain, d.Epoch, d.Salt, d.Codec, strings.Join(d.Recipients, ", "))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) saltNewCommand() *cobra.Command {
	var codec string
	cmd := &cobra.Command{
		Use:   "new DOMAIN",
		Short: "Make a salt domain",
		Long: `New makes a domain whose images share no chunk with those of any other. With
--codec raw its chunks are not compressed, so that their sizes tell less of what
is in them.`,
		Example: `  rivulet salt new tenant-7 --codec raw`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			coding, err := domain.ParseCoding(codec)
			if err == nil {
				err = seal.CheckDomain(args[0])
			}
			if err != nil {
				return usageError{err}
			}
			store, err := a.openOrigin(ctx, true)
			if err != nil {
				return err
			}
			keys, id, err := a.publisher(ctx)
			if err != nil {
				return err
			}
			_, state, err := a.createDomain(ctx, store, keys, args[0], coding, id)
			if errors.Is(err, origin.ErrConflict) {
				return fmt.Errorf("salt domain %s: is there already", args[0])
			}
			if err != nil {
				return err
			}
			a.newEpoch(state)
			return nil
		},
	}
	cmd.Flags().StringVar(&codec, "codec", "zstd", "how chunks are coded: raw, zstd, or \"zstd LEVEL\" (fastest, default, better, best)")
	return cmd
}

// newEpoch tells of a salt that was made.
func (a *app) newEpoch(state domain.State) {
	a.printf("%x\n", state.Salt[:])
	a.note("salt domain %s is in epoch %d", state.Name, state.Epoch)
}

// publisher returns the keys of this user, who makes or changes a salt domain.
func (a *app) publisher(ctx context.Context) (*keyring.Folder, *identity, error) {
	id, err := a.identity(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	keys, err := keyring.Open("")
	return keys, id, err
}

// errNoDomain is returned (wrapped) for a salt domain that the store has not.
var errNoDomain = errors.New("there is no such domain; 'rivulet salt ls' lists those of the store, 'rivulet salt new' makes one")

// openSalt returns a domain's salt, if it is the one that this user has seen
// before or comes of it.
func (a *app) openSalt(ctx context.Context, store origin.Origin, keys *keyring.Folder, name string, id *identity) (*seal.Salt, domain.State, error) {
	found, err := findDomain(ctx, store, name)
	if err != nil {
		return nil, domain.State{}, err
	}
	salt, err := a.openFound(ctx, store, keys, found, id)
	return salt, found.State, err
}

// findDomain returns what the store says of a domain, or errNoDomain.
func findDomain(ctx context.Context, store origin.Origin, name string) (*domain.Found, error) {
	found, err := domain.Find(ctx, store, name)
	if errors.Is(err, chunk.ErrNotFound) {
		err = fmt.Errorf("salt domain %s: %w", name, errNoDomain)
	}
	return found, err
}

// openFound is openSalt of a domain that was found.
func (a *app) openFound(ctx context.Context, store origin.Origin, keys *keyring.Folder, found *domain.Found, id *identity) (*seal.Salt, error) {
	salt, err := found.Open(ctx, store, id.opens, id.recipients...)
	if err != nil {
		return nil, err
	}
	url, err := a.absoluteStore()
	if err == nil {
		err = keys.CheckSalt(url, salt, func(from blockmap.SaltID) (bool, error) {
			return domain.Descends(ctx, store, salt, from, id.opens)
		})
	}
	return salt, err
}

// createDomain makes a domain, and remembers its salt.
func (a *app) createDomain(ctx context.Context, store origin.Origin, keys *keyring.Folder, name string, coding domain.Coding, id *identity) (*seal.Salt, domain.State, error) {
	salt, state, err := domain.Create(ctx, store, name, coding, id.recipients)
	if err != nil {
		return nil, domain.State{}, err
	}
	url, err := a.absoluteStore()
	if err != nil {
		return nil, domain.State{}, err
	}
	again, err := keys.KeepSalt(url, salt)
	if again {
		a.note("rivulet: salt domain %s was in this store before, and was gone; it begins anew, with a salt for you alone", name)
	}
	return salt, state, err
}

func (a *app) saltRotateCommand() *cobra.Command {
	var revoke []string
	cmd := &cobra.Command{
		Use:   "rotate [DOMAIN]",
		Short: "Begin a new epoch of a domain, with a new salt",
		Long: `Rotate gives a domain a new salt, for those who could publish with the old one
but for whom --revoke names. New images share no chunk with old ones, which go on
being read. A layer that the store knows is sealed anew from its old chunks when
it is next published.`,
		Example: `  rivulet salt rotate
  rivulet salt rotate tenant-7 --revoke age1...`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := append(args, seal.DefaultDomain)[0]
			store, err := a.openOrigin(cmd.Context(), false)
			if err != nil {
				return err
			}
			return a.rotate(cmd.Context(), store, name, revoke)
		},
	}
	cmd.Flags().StringArrayVar(&revoke, "revoke", nil, "do not lock the new salt for this publisher; may be repeated")
	return cmd
}

func (a *app) rotate(ctx context.Context, store origin.Origin, name string, revoke []string) error {
	without, err := readRecipients(ctx, revoke, nil)
	if err != nil {
		return err
	}
	keys, id, err := a.publisher(ctx)
	if err != nil {
		return err
	}
	present, _, err := a.openSalt(ctx, store, keys, name, id)
	if err != nil {
		return err
	}
	to, err := a.publishersOf(ctx, store, present, id, without)
	if err != nil {
		return err
	}
	salt, state, err := domain.Rotate(ctx, store, present, to)
	if err != nil {
		return err
	}
	url, err := a.absoluteStore()
	if err != nil {
		return err
	}
	made := func(blockmap.SaltID) (bool, error) { return true, nil }
	if err := keys.CheckSalt(url, salt, made); err != nil {
		return err
	}
	a.newEpoch(state)
	return nil
}

// publishersOf returns those who can publish in a domain, this user among them,
// but for whom is without.
func (a *app) publishersOf(ctx context.Context, store origin.Origin, salt *seal.Salt, id *identity, without []seal.Recipient) ([]seal.Recipient, error) {
	who, strangers, err := domain.Granted(ctx, store, salt)
	if err != nil {
		return nil, err
	}
	for _, s := range strangers {
		a.note("rivulet: salt domain %s: %s is left out: somebody without the salt wrote it into the store", salt.Domain(), s)
	}
	for _, r := range without {
		i := slices.Index(who, r.String())
		if i < 0 {
			return nil, usagef("salt rotate: --revoke %s: cannot publish in domain %s", r, salt.Domain())
		}
		who = slices.Delete(who, i, i+1)
	}
	to, err := readRecipients(ctx, who, nil)
	if err != nil {
		return nil, fmt.Errorf("salt domain %s: %w", salt.Domain(), err)
	}
	return append(to, id.recipients...), nil
}

func (a *app) saltGrantCommand() *cobra.Command {
	var name string
	var files []string
	cmd := &cobra.Command{
		Use:   "grant RECIPIENT...",
		Short: "Let others publish in a domain",
		Long: `Grant locks the salts of a domain for more publishers: age or SSH public keys,
or the ARNs of AWS KMS keys. 'rivulet keys' prints one's own. Whoever has a salt
can read the layers that are published with it. What was granted can be taken
back by 'rivulet salt rotate --revoke' alone, and only for what is published from
then on.`,
		Example: `  rivulet salt grant age1... --domain tenant-7`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			to, err := readRecipients(ctx, args, files)
			if err != nil {
				return err
			}
			if len(to) == 0 {
				return usagef("salt grant: to whom? Give a recipient, or --recipients-file")
			}
			store, err := a.openOrigin(ctx, false)
			if err != nil {
				return err
			}
			return a.withSalt(ctx, store, name, func(salt *seal.Salt, id *identity) error {
				err := domain.Grant(ctx, store, salt, id.opens, to)
				if err == nil {
					a.note("salt domain %s: granted to %d", name, len(to))
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&name, "domain", seal.DefaultDomain, "the domain")
	cmd.Flags().StringArrayVar(&files, "recipients-file", nil, "grant to all age and SSH recipients in this file too")
	return cmd
}

// withSalt calls fn with a domain's salt, which this user can open, and who that
// is.
func (a *app) withSalt(ctx context.Context, store origin.Origin, name string, fn func(*seal.Salt, *identity) error) error {
	id, err := a.identity(ctx, false)
	if err != nil {
		return err
	}
	keys, err := keyring.Open("")
	if err != nil {
		return err
	}
	salt, _, err := a.openSalt(ctx, store, keys, name, id)
	if err != nil {
		return err
	}
	return fn(salt, id)
}

func (a *app) saltCodecCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "codec DOMAIN CODEC [LEVEL]",
		Short: "Choose how a domain's chunks are coded from now on",
		Long: `Codec is raw, or zstd with a level: fastest, default, better or best. What is
stored stays as it is; chunks that are coded otherwise are other chunks. Whoever
can write to the store can put the earlier choice back until the next 'rivulet
salt rotate'.`,
		Example: `  rivulet salt codec default zstd fastest
  rivulet salt codec tenant-7 raw`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			coding, err := domain.ParseCoding(strings.Join(args[1:], " "))
			if err != nil {
				return usageError{err}
			}
			store, err := a.openOrigin(ctx, false)
			if err != nil {
				return err
			}
			return a.withSalt(ctx, store, args[0], func(salt *seal.Salt, _ *identity) error {
				return domain.SetCoding(ctx, store, salt, coding)
			})
		},
	}
}
