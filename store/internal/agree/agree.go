// Package agree reads lists that nothing proves: the names in a folder of a
// bucket, the tags of a repository. A name in which one bit was flipped on the
// way is another name, and the right one is then missing, which a reader would
// take for the truth.
//
// So such a list is asked for twice, at the same time, and a third time if the
// answers differ. Of three answers those items are believed that two have.
// What lies there all the time is then found, and what never did is not, if one
// answer is damaged; of what comes or goes meanwhile either may be said.
package agree

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// An Answer is a list, or a page of one.
type Answer[T comparable] struct {
	Items []T
	Next  string // where the list goes on; "" if it does not
}

// most is how many answers List takes.
const most = 6

// List returns what two answers of ask have, by name, which is what an item is
// known by: the rest of it may change. The items come in the order of names. One
// error of ask is overlooked, the next is returned. ask is called from several
// goroutines.
func List[T comparable](ctx context.Context, ask func(context.Context) (Answer[T], error), name func(T) string) (Answer[T], error) {
	var both [2]Answer[T]
	var errs [2]error
	var wg sync.WaitGroup
	for i := range both {
		wg.Go(func() { both[i], errs[i] = ask(ctx) })
	}
	wg.Wait()
	var all []Answer[T]
	failed := 0
	byName := func(x, y T) int { return strings.Compare(name(x), name(y)) }
	add := func(a Answer[T], err error) error {
		if err == nil {
			slices.SortFunc(a.Items, byName) // servers need not have an order
			all = append(all, a)
		} else if failed++; failed > 1 || ctx.Err() != nil {
			return err
		}
		return nil
	}
	for i := range both {
		if err := add(both[i], errs[i]); err != nil {
			return Answer[T]{}, err
		}
	}
	for len(all) < most {
		if a, ok := settle(all, name); ok {
			return a, nil
		}
		if err := add(ask(ctx)); err != nil {
			return Answer[T]{}, err
		}
	}
	return Answer[T]{}, fmt.Errorf("no two of %d answers go on at the same place", most)
}

// settle returns what answers have in common: two that are the same, or what two
// of more have.
func settle[T comparable](all []Answer[T], name func(T) string) (Answer[T], bool) {
	if len(all) < 2 {
		return Answer[T]{}, false
	}
	if first := &all[0]; len(all) == 2 {
		return *first, first.Next == all[1].Next && slices.Equal(first.Items, all[1].Items)
	}
	versions, nexts := make(map[string][]T), make([]string, 0, most)
	for _, a := range all {
		nexts = append(nexts, a.Next)
		said := make(map[string]bool, len(a.Items))
		for _, item := range a.Items {
			if n := name(item); !said[n] {
				said[n] = true
				versions[n] = append(versions[n], item)
			}
		}
	}
	var a Answer[T]
	for _, v := range versions {
		if len(v) > 1 {
			item, _ := twice(v)
			a.Items = append(a.Items, item)
		}
	}
	slices.SortFunc(a.Items, func(x, y T) int { return strings.Compare(name(x), name(y)) })
	next, ok := twice(nexts)
	a.Next = next
	return a, ok
}

// twice returns what is in a list two times, or its last element and false.
func twice[T comparable](list []T) (T, bool) {
	for i, v := range list {
		if slices.Contains(list[:i], v) {
			return v, true
		}
	}
	return list[len(list)-1], false
}
