package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/layout"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = ""

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of the program and of its formats",
		Example: `  rivulet version --json`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
				Layout   int    `json:"layout_version"`
				BlockMap int    `json:"block_map_version"`
			}{programVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, layout.Version, blockmap.Version}
			if asJSON {
				return a.printJSON(v)
			}
			a.printf("rivulet %s (%s, %s), layout %d, block map %d\n", v.Version, v.Go, v.Platform, v.Layout, v.BlockMap)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
