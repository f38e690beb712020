package disk

import (
	"reflect"
	"testing"
)

// TestAddAll adds every counter there is.
func TestAddAll(t *testing.T) {
	var a, b Stats
	x, y := reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()
	for i := range x.NumField() {
		x.Field(i).SetInt(int64(1 + i))
		y.Field(i).SetInt(1000)
	}
	a.Add(b)
	for i := range x.NumField() {
		if got := x.Field(i).Int(); got != int64(1001+i) {
			t.Errorf("%s is not added: %d", x.Type().Field(i).Name, got)
		}
	}
}
