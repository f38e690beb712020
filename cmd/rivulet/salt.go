package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

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
its salt. 'rivulet publish' makes the domain "default" when it is first used.`,
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
--codec raw its chunks are not compressed, so that their sizes tell nothing of
what is in them.`,
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
			id, err := a.identity(ctx, true)
			if err != nil {
				return err
			}
			salt, state, err := domain.Create(ctx, store, args[0], coding, id.recipients)
			if errors.Is(err, origin.ErrConflict) {
				return fmt.Errorf("salt domain %s: is there already", args[0])
			}
			if err != nil {
				return err
			}
			return a.newEpoch(salt, state)
		},
	}
	cmd.Flags().StringVar(&codec, "codec", "zstd", "how chunks are coded: raw, zstd, or \"zstd LEVEL\" (fastest, default, better, best)")
	return cmd
}

// newEpoch remembers the salt that this user has made, and tells of it.
func (a *app) newEpoch(salt *seal.Salt, state domain.State) error {
	keys, err := keyring.Open("")
	if err != nil {
		return err
	}
	url, err := a.absoluteStore()
	if err != nil {
		return err
	}
	if err := keys.KeepSalt(url, salt); err != nil {
		return err
	}
	a.printf("%x\n", state.Salt[:])
	a.note("salt domain %s is in epoch %d", state.Name, state.Epoch)
	return nil
}

func (a *app) saltRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate [DOMAIN]",
		Short: "Begin a new epoch of a domain, with a new salt",
		Long: `Rotate gives a domain a new salt, for those who could publish with the old one.
New images share no chunk with old ones, which go on being read. A layer that
the store knows is sealed anew from its old chunks when it is next published.`,
		Example: `  rivulet salt rotate`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, name := cmd.Context(), append(args, seal.DefaultDomain)[0]
			store, err := a.openOrigin(ctx, false)
			if err != nil {
				return err
			}
			to, err := a.publishersOf(ctx, store, name)
			if err != nil {
				return err
			}
			salt, state, err := domain.Rotate(ctx, store, name, to)
			if err != nil {
				return err
			}
			return a.newEpoch(salt, state)
		},
	}
}

// publishersOf returns those who can publish in a domain, this user among them.
func (a *app) publishersOf(ctx context.Context, store origin.Origin, name string) ([]seal.Recipient, error) {
	id, err := a.identity(ctx, true)
	if err != nil {
		return nil, err
	}
	_, state, err := domain.Open(ctx, store, name, id.opens)
	if err != nil {
		return nil, err
	}
	who, err := domain.Recipients(ctx, store, name, state.Salt)
	if err != nil {
		return nil, err
	}
	to, err := readRecipients(ctx, who, nil)
	if err != nil {
		return nil, fmt.Errorf("salt domain %s: %w", name, err)
	}
	return append(id.recipients, to...), nil
}

func (a *app) saltGrantCommand() *cobra.Command {
	var name string
	var files []string
	cmd := &cobra.Command{
		Use:   "grant RECIPIENT...",
		Short: "Let others publish in a domain",
		Long: `Grant locks the salts of a domain for more publishers: age or SSH public keys,
or the ARNs of AWS KMS keys. 'rivulet keys' prints one's own. What was granted
can be taken back by 'rivulet salt rotate' alone, and only for what is published
from then on.`,
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
			id, err := a.identity(ctx, false)
			if err != nil {
				return err
			}
			return domain.Grant(ctx, store, name, id.opens, to)
		},
	}
	cmd.Flags().StringVar(&name, "domain", seal.DefaultDomain, "the domain")
	cmd.Flags().StringArrayVar(&files, "recipients-file", nil, "grant to all age and SSH recipients in this file too")
	return cmd
}

func (a *app) saltCodecCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "codec DOMAIN CODEC [LEVEL]",
		Short: "Choose how a domain's chunks are coded from now on",
		Long: `Codec is raw, or zstd with a level: fastest, default, better or best. What is
stored stays as it is; chunks that are coded otherwise are other chunks.`,
		Example: `  rivulet salt codec default zstd fastest
  rivulet salt codec tenant-7 raw`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			coding, err := domain.ParseCoding(strings.Join(args[1:], " "))
			if err != nil {
				return usageError{err}
			}
			store, err := a.openOrigin(cmd.Context(), false)
			if err != nil {
				return err
			}
			return domain.SetCoding(cmd.Context(), store, args[0], coding)
		},
	}
}
