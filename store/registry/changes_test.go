package registry

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// TestListsAreChangedTogether: of many referrers that are listed at once where the registry does not list them,
// those that wait while a list is changed are added to it together; one whose caller gave up
// leaves the others alone.
func TestListsAreChangedTogether(t *testing.T) {
	const n = 8
	var o *Origin
	var puts atomic.Int64
	waiting := func() (all int) {
		o.client.changes.mu.Lock()
		defer o.client.changes.mu.Unlock()
		for _, list := range o.client.changes.want {
			all += len(list)
		}
		return all
	}
	var watched atomic.Bool
	host := registrytest.Memory(t, false, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/sha256-") && watched.Load() && puts.Add(1) == 1 {
				for end := time.Now().Add(20 * time.Second); waiting() < n-1 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	o = hasty(t, host, Options{})
	ctx := context.Background()
	s := o.Generation(1)
	d, err := s.PutObject(ctx, []byte("subject"))
	if err != nil {
		t.Fatal(err)
	}
	watched.Store(true)
	brief, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	attach := func(ctx context.Context, i int) {
		all.Go(func() {
			if err := s.Attach(ctx, d, "kind", fmt.Append(nil, i)); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	for i := range n - 1 {
		attach(ctx, i)
	}
	attach(brief, n)
	time.AfterFunc(time.Second, cancel) // whether it waits by then or not
	all.Wait()
	if p := puts.Load(); p > 3 {
		t.Errorf("the list was written %d times for %d referrers", p, n)
	}
	found := map[string]bool{}
	err = reopen(t, o).Generation(1).ListAttachments(ctx, d, "kind", func(b []byte) error {
		found[string(b)] = true
		return nil
	})
	for i := range n - 1 {
		if !found[fmt.Sprint(i)] {
			t.Errorf("attachment %d is not listed, %v", i, err)
		}
	}
	if waiting() != 0 {
		t.Error("changes are left")
	}
}

// TestDroppedChange: who gives up takes its own change back, and at no moment those of others.
func TestDroppedChange(t *testing.T) {
	var l listChanges
	var dropping sync.WaitGroup
	var over atomic.Bool
	for range 4 {
		dropping.Go(func() {
			for !over.Load() {
				l.drop("tag", l.add("tag", nil))
			}
		})
	}
	for range 20_000 {
		mine := l.add("tag", nil)
		runtime.Gosched()
		if !slices.Contains(l.take("tag"), mine) {
			t.Error("a change was not there for who has the lock")
			break
		}
	}
	over.Store(true)
	dropping.Wait()
}
