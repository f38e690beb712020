// Package overlay has writable disks over read-only ones.
package overlay
