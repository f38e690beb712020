package lateregexp

import "testing"

func TestNew(t *testing.T) {
	broken := New(`(`) // nobody has asked for it
	digits := New(`^[0-9]+$`)
	once := digits()
	if once != digits() || !once.MatchString("42") || once.MatchString("x") {
		t.Error("another expression")
	}
	defer func() {
		if recover() == nil {
			t.Error("what is no expression was compiled")
		}
	}()
	broken()
}
