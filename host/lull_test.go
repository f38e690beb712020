package host

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		l := lull{fn: func() { calls++ }, after: time.Second}
		expect := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if calls != want {
				t.Errorf("%s: %d calls, want %d", when, calls, want)
			}
		}
		time.Sleep(2 * time.Second)
		expect("before anything stirred", 0)
		for range 5 {
			l.stir()
			time.Sleep(time.Second / 2)
		}
		expect("while it stirs", 0)
		time.Sleep(time.Second / 2)
		expect("after a second", 1)
		time.Sleep(10 * time.Second)
		expect("nothing new", 1)
		l.stir()
		time.Sleep(time.Second)
		expect("after it stirred again", 2)
		l.stir()
		l.end()
		l.stir()
		time.Sleep(10 * time.Second)
		expect("after its end", 2)
	})
}

func TestLullWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := false
		l := lull{after: time.Second, fn: func() {
			time.Sleep(time.Minute)
			over = true
		}}
		l.stir()
		time.Sleep(2 * time.Second)
		l.end()
		if !over {
			t.Error("end did not wait for the call that ran")
		}
	})
}
