//go:build !linux

// Package vhostuserclient needs Linux.
package vhostuserclient
