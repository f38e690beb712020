package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) agentFillCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fill",
		Short: "Hold up what brings whole disks to the host cache, or have it go on",
		Long: `A disk that was attached with --fill is brought to the host cache as a whole, behind
all else. Fill pause holds that up, until fill resume or the agent's next start; reads,
and what is read ahead of starts, go on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.agentPauseCommand("pause", "Hold the fill of disks up", true),
		a.agentPauseCommand("resume", "Have the fill of disks go on", false),
	)
	return cmd
}

func (a *app) agentPauseCommand(name, short string, pause bool) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [DISK...]",
		Short: short,
		Long: short + `: of those that are named, as 'rivulet agent ls' shows
them (an ID, a directory, an address, an image), or of all.`,
		Example:           "  rivulet agent fill " + name + "\n  rivulet agent fill " + name + " nginx",
		ValidArgsFunction: a.completeAttachments,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, infos, err := a.agentAttachments(cmd.Context())
			if err != nil {
				return err
			}
			var ids []string
			for _, i := range infos {
				if len(args) == 0 && i.Fill != nil {
					ids = append(ids, i.ID)
				}
			}
			for _, arg := range args {
				i, err := diskNamed(infos, arg)
				if err != nil {
					return err
				}
				ids = append(ids, i.ID)
			}
			var errs []error
			for _, id := range ids {
				errs = append(errs, c.PauseFill(cmd.Context(), id, pause))
			}
			return errors.Join(errs...)
		},
	}
}
