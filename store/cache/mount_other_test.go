//go:build !linux

package cache

import "errors"

func mountTmpfs(string, int64) error { return errors.New("no tmpfs") }

func unmount(string) error { return nil }
