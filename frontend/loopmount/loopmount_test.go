package loopmount

import "testing"

func TestOptions(t *testing.T) {
	for _, o := range []Options{{BlockSize: 1}, {BlockSize: 8192}, {BlockSize: -512}, {ReadAhead: 4097}} {
		if _, err := o.check(); err == nil {
			t.Errorf("%+v accepted", o)
		}
	}
	if o, err := (Options{}).check(); err != nil || o.BlockSize != 512 {
		t.Errorf("zero options: %+v, %v", o, err)
	}
}
