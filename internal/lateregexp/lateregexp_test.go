package lateregexp

import "testing"

func TestNew(t *testing.T) {
	broken := New(`(`) // nobody has asked for it
	digits := New(`^[0-9]+$`)
	if digits() != digits() || !digits().MatchString("42") || digits().MatchString("x") {
		t.Error("another expression")
	}
	defer func() {
		if recover() == nil {
			t.Error("what is no expression was compiled")
		}
	}()
	broken()
}
