//go:build !linux

// Package transport needs Linux.
package transport
