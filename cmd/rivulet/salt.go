package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/internal/privatefile"
	"github.com/rivuletfs/rivulet/seal"
)

// openSalt returns the salt that this user publishes with, from a file in the
// configuration folder, which it makes the first time.
func openSalt() (*seal.Salt, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("no folder to keep a salt in: %w", err)
	}
	path := filepath.Join(config, "rivulet", "salt")
	for {
		b, err := privatefile.Read(path, seal.MaxSaltBytes)
		if err == nil {
			s, err := seal.ParseSalt(b)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			return s, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		s, err := seal.NewSalt(seal.DefaultDomain, 1)
		if err != nil {
			return nil, err
		}
		if err := privatefile.Create(path, s.Bytes()); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
}
