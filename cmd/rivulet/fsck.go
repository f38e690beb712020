package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/store"
)

// errUnsound is the error of a store in which something is wrong.
var errUnsound = errors.New("the store is not sound")

func (a *app) fsckCommand() *cobra.Command {
	var opt fsck.Options
	var from string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck [STORE]",
		Short: "Check that a store is whole, and repair it",
		Long: `Fsck finds chunks, objects and attachments that are missing or damaged, names
that lead nowhere, and what nobody needs. It can run while the store is in use.
With --repair it takes good bytes from other generations of the store, with
--from also from another store that has the same images; and chunks that none of
them has, from the host cache, whose bytes are checked like all others. A name
that is damaged leads where it does in the other store, once all is there that it
leads to; a name that can be read is never changed. Profiles that cannot be repaired
are dropped: no image needs them.

The exit status is 1 if something is wrong that was not repaired.`,
		Example: `  rivulet fsck --deep
  rivulet fsck dir:/srv/rivulet --from dir:/backup
  rivulet fsck --deep --repair --cache /run/rivulet/cached.sock`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.storeURL = args[0]
			}
			o, err := a.openOrigin(cmd.Context(), false)
			if err != nil {
				return err
			}
			if from != "" {
				opt.Repair = true
				if opt.From, err = a.openURL(cmd.Context(), from, store.Options{}); err != nil {
					return err
				}
			}
			if opt.Repair {
				opt.Cache = a.cachedChunks(cmd.Context())
			}
			if isTerminal(a.err) {
				line := newStatusLine(a)
				opt.Tell = func(n int) { line.show("checked %d chunks", n) }
			}
			r, err := fsck.Check(cmd.Context(), o, opt)
			if err != nil {
				return err
			}
			return a.printChecked(r, asJSON)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&opt.Deep, "deep", false, "read every chunk that an image needs, and check its bytes")
	f.BoolVar(&opt.Repair, "repair", false, "repair from other generations of the store, and from the host cache")
	f.StringVar(&from, "from", "", "repair from this store too")
	a.cacheFlag(cmd)
	f.BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) printChecked(r *fsck.Report, asJSON bool) error {
	a.clearLine()
	var err error
	if !r.Sound() {
		err = errUnsound
	}
	if asJSON {
		return errors.Join(err, a.printJSON(r))
	}
	for i := range r.Problems {
		fmt.Fprintln(a.out, r.Problems[i].String())
	}
	a.printf("%d generations, %d images, %d objects, %d attachments, %d pointers\n", len(r.Generations), r.Images, r.Objects, r.Attachments, r.Pointers)
	a.printf("%d chunks (%s)", r.Chunks, size(r.Bytes))
	if r.Read > 0 {
		a.printf(", the bytes of %d checked", r.Read)
	}
	a.printf("\n")
	if r.OrphanChunks > 0 || len(r.OrphanObjects) > 0 {
		a.printf("nobody needs %d chunks (%s) and %d objects; they go with their generation\n", r.OrphanChunks, size(r.OrphanBytes), len(r.OrphanObjects))
	}
	for _, g := range r.Leftovers {
		a.printf("generation %v is in no list, or erased, and not empty; 'rivulet gc run' removes what is erased\n", g)
	}
	if len(r.Alarms) > 0 {
		a.note("rivulet: %d alarms stop all deletion; 'rivulet gc alarms' lists them", len(r.Alarms))
	}
	if err == nil && len(r.Problems) > 0 {
		a.printf("all %d problems are repaired\n", len(r.Problems))
	}
	return err
}
