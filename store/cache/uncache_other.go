//go:build !linux

package cache

import "os"

func uncache(*os.File) {}
