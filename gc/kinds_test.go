package gc_test

import (
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/seal/kmswrap"
	"github.com/rivuletfs/rivulet/sign"
)

// TestKindsAreCarried has every kind of attachment that a package of ours makes:
// one that is not carried forward is lost with its generation.
func TestKindsAreCarried(t *testing.T) {
	for _, kind := range []string{agewrap.Kind, kmswrap.Kind, seal.RecipientKind, sign.Kind} {
		if !slices.Contains(generation.Kinds, kind) {
			t.Errorf("attachments of kind %q are not carried forward", kind)
		}
	}
}
