package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/profile"
)

// startFlags say what is done about the start of a disk.
type startFlags struct {
	workload, use string
	fill          bool
	neighbours    bool
	fillRate      string
}

// add gives a command the flags. own says what the workload is if none is named.
func (s *startFlags) add(cmd *cobra.Command, own string) {
	f := cmd.Flags()
	f.StringVar(&s.workload, "workload", "", "what is started from the disk, a name of your choice: each has a profile of its own (default "+own+")")
	f.StringVar(&s.use, "profile", string(host.ProfileOn), "what is done about the start: on (read ahead by the profile of earlier ones, and record this one), replay (read ahead alone), record (record alone, also a start that reads little) or off")
	f.BoolVar(&s.neighbours, "neighbours", false, "read ahead of a start that there is no profile of: the next chunks of a file or directory that is read on through; of a far store alone")
	f.BoolVar(&s.fill, "fill", false, "bring all of the disk to the host cache, behind all else, when its start is over or has read or waited for much")
	f.StringVar(&s.fillRate, "fill-rate", "", "with --fill, bound of the stored bytes in a second, such as 20M")
	var uses []cobra.Completion
	for _, u := range host.ProfileUses {
		uses = append(uses, string(u))
	}
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(uses, cobra.ShellCompDirectiveNoFileComp))
}

// check reports a mistake in the flags.
func (s *startFlags) check() error { return s.set(&host.Spec{}) }

// set completes a spec. What is usual is left out, which agents that know nothing of
// it take too.
func (s *startFlags) set(spec *host.Spec) error {
	if err := profile.CheckWorkload(s.workload); err != nil {
		return usagef("--workload: %w", err)
	}
	spec.Workload, spec.Neighbours = s.workload, s.neighbours
	if s.fillRate != "" && !s.fill {
		return usagef("--fill-rate needs --fill")
	}
	if s.fill {
		spec.Fill = &host.Fill{}
		if s.fillRate != "" {
			var err error
			if spec.Fill.Rate, err = parseSize(s.fillRate); err != nil {
				return err
			}
			if spec.Fill.Rate == 0 {
				return usagef("--fill-rate 0: want at least a byte a second, or no bound")
			}
		}
	}
	for _, u := range host.ProfileUses {
		if string(u) == s.use {
			if u != host.ProfileOn {
				spec.Profile = u
			}
			return nil
		}
	}
	return usagef("--profile %q: want on, replay, record or off", s.use)
}

// forward adds the flags to the arguments of a process that does the work.
func (s *startFlags) forward(args []string) []string {
	args = append(args, "--workload", s.workload, "--profile", s.use)
	if s.fill {
		args = append(args, "--fill", "--fill-rate", s.fillRate)
	}
	return args
}

// workloadOf is what a command that is run from an image is called: by its program,
// since the rest may be secret; "" for none, which is the image's own.
func workloadOf(command []string) string {
	if len(command) == 0 {
		return ""
	}
	name := strings.ToValidUTF8(filepath.Base(command[0]), "")
	if profile.CheckWorkload(name) != nil {
		return "other"
	}
	return name
}
