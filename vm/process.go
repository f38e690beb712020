package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/vm/guest"
)

// ErrNoCommand says that neither the image nor the user names a command.
var ErrNoCommand = errors.New("the image names no command")

// Process returns what an image's configuration (OCI image specification, config.md)
// says is to run. entryPoint, if there is one, takes the place of the image's and of
// its command; args, if there are any, that of the command. env is added to the
// variables.
func Process(config []byte, entryPoint string, args, env []string) (guest.Process, error) {
	var file v1.ConfigFile
	if err := json.Unmarshal(config, &file); err != nil {
		return guest.Process{}, fmt.Errorf("configuration of the image: %w", err)
	}
	c := file.Config
	switch {
	case entryPoint != "":
		c.Entrypoint = []string{entryPoint}
	case len(args) == 0:
		args = c.Cmd
	}
	p := guest.Process{
		Args: append(slices.Clone(c.Entrypoint), args...),
		Env:  append(slices.Clone(c.Env), env...),
		Dir:  c.WorkingDir,
		User: c.User,
	}
	if len(p.Args) == 0 {
		return guest.Process{}, ErrNoCommand
	}
	return p, nil
}
