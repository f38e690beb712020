package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rivuletfs/rivulet/keyring"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/seal/kmswrap"
	"github.com/rivuletfs/rivulet/sign"
)

// An identity is a user's own: what opens what was locked for it, and for whom
// to lock so that it can be opened.
type identity struct {
	opens      []seal.Unwrapper
	recipients []seal.Recipient
}

// isKMS reports whether the name of a recipient or identity is that of an AWS
// KMS key.
func isKMS(name string) bool { return strings.HasPrefix(name, "arn:") }

// chosenIdentities returns what --identity, or else $RIVULET_IDENTITY, names:
// files and ARNs. A secret in their place is refused before it gets into an error
// or into the arguments of another process.
func (a *app) chosenIdentities() ([]string, error) {
	names := a.identities
	if one := os.Getenv("RIVULET_IDENTITY"); len(names) == 0 && one != "" {
		names = []string{one}
	}
	for _, name := range names {
		if isSecret(name) {
			return nil, usagef("--identity and $RIVULET_IDENTITY take the file of an identity, not the secret key itself")
		}
	}
	return names, nil
}

// isSecret reports whether s is, or begins like, an age identity itself.
func isSecret(s string) bool {
	return strings.HasPrefix(strings.ToUpper(strings.TrimSpace(s)), "AGE-SECRET-KEY-")
}

// identity returns the user's identity: the one chosen, or that of the user's
// keys. With create, one is made if there is none; else it may be empty.
func (a *app) identity(ctx context.Context, create bool) (*identity, error) {
	id := &identity{}
	chosen, err := a.chosenIdentities()
	if err != nil {
		return nil, err
	}
	for _, name := range chosen {
		if err := id.add(ctx, name, a.ask()); err != nil {
			return nil, err
		}
	}
	if len(chosen) > 0 {
		return id, nil
	}
	keys, err := keyring.Open("")
	if err != nil {
		if create {
			return nil, err
		}
		return id, nil // a user without a home has no keys
	}
	var own *agewrap.Identities
	made := false
	if create {
		own, made, err = keys.MakeIdentity(a.ask())
	} else {
		own, err = keys.Identity(a.ask())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return nil, err
	}
	if made {
		a.note("rivulet: made an identity in %s. Keep it: what is published for it cannot be read without.", keys.IdentityPath())
	}
	id.addAge(own)
	return id, nil
}

// add adds the identity in a file, or a KMS key by its ARN.
func (id *identity) add(ctx context.Context, name string, ask agewrap.Ask) error {
	if !isKMS(name) {
		own, err := agewrap.ReadIdentities(name, ask)
		if err == nil {
			id.addAge(own)
		}
		return err
	}
	opens, err := kmswrap.NewUnwrapper(ctx, kmswrap.Options{}, name)
	if err != nil {
		return err
	}
	r, err := kmswrap.NewWrapper(ctx, name, kmswrap.Options{})
	if err != nil {
		return err
	}
	id.opens, id.recipients = append(id.opens, opens), append(id.recipients, r)
	return nil
}

func (id *identity) addAge(own *agewrap.Identities) {
	id.opens = append(id.opens, own)
	for _, r := range own.Recipients() {
		id.recipients = append(id.recipients, r)
	}
}

// ask asks for passphrases; nil: nobody can be asked.
func (a *app) ask() agewrap.Ask {
	if a.silent {
		return nil
	}
	return askPassphrase
}

// askPassphrase asks on the terminal.
func askPassphrase(what string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", agewrap.ErrPassphrase
	}
	defer func() { _ = tty.Close() }()
	fmt.Fprintf(tty, "Passphrase of %s: ", what)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return string(b), err
}

// parseRecipient reads a recipient as people write it.
func parseRecipient(ctx context.Context, s string) (seal.Recipient, error) {
	if isKMS(s) {
		return kmswrap.NewWrapper(ctx, s, kmswrap.Options{})
	}
	return agewrap.ParseRecipient(s)
}

// readRecipients returns the recipients named, and those of files.
func readRecipients(ctx context.Context, names, files []string) ([]seal.Recipient, error) {
	var list []seal.Recipient
	for _, name := range names {
		r, err := parseRecipient(ctx, name)
		if err != nil {
			return nil, usageError{err}
		}
		list = append(list, r)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		more, err := agewrap.ParseRecipients(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, r := range more {
			list = append(list, r)
		}
	}
	return list, nil
}

// publicKeys returns the keys that these words are, or that are in files so
// named.
func publicKeys(names []string) ([]sign.PublicKey, error) {
	var list []sign.PublicKey
	for _, name := range names {
		if isSecret(name) {
			return nil, usagef("a publisher's public key is wanted, and an identity (a secret key) was given")
		}
		k, err := sign.FindPublicKey(name)
		if err != nil {
			return nil, usageError{err}
		}
		list = append(list, k)
	}
	return list, nil
}

// An ownKeys is what keys prints.
type ownKeys struct {
	Recipients []string `json:"recipients"`
	Publisher  string   `json:"publisher"`
}

func (a *app) keysCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Show your public keys, to give to others",
		Long: `Keys prints the recipient that others lock images and salts for so that you can
open them, and the public key that checks what you sign. They are made, in your
configuration folder, if there are none.`,
		Example: `  rivulet keys
  rivulet grant nginx age1...                  # run by who published it
  rivulet serve nginx --require-signature RW...`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := a.identity(cmd.Context(), true)
			if err != nil {
				return err
			}
			signer, err := a.signer()
			if err != nil {
				return err
			}
			own := ownKeys{Publisher: signer.Public().String()}
			for _, r := range id.recipients {
				own.Recipients = append(own.Recipients, r.String())
			}
			if asJSON {
				return a.printJSON(own)
			}
			for _, r := range own.Recipients {
				a.printf("recipient  %s\n", r)
			}
			a.printf("publisher  %s\n", own.Publisher)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// signer returns the key that the user signs with, made the first time.
func (a *app) signer() (*sign.Key, error) {
	keys, err := keyring.Open("")
	if err != nil {
		return nil, err
	}
	signer, made, err := keys.MakePublisher()
	if made {
		a.note("rivulet: made a key to sign with, in %s; its public key is %s", keys.Path(), signer.Public())
	}
	return signer, err
}
