//go:build !linux

package dir

import "errors"

func mount(string, string, bool) error { return errors.ErrUnsupported }

func unmount(string) error { return nil }
