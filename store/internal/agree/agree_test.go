package agree

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

type item struct {
	name string
	size int
}

// script answers with what it has, one after the other.
type script struct {
	mu      sync.Mutex
	answers []string // items "a1 b2", "/" and Next; "!": an error
	asked   int
}

var errBroken = errors.New("broken")

func (s *script) ask(context.Context) (a Answer[item], err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.answers[min(s.asked, len(s.answers)-1)]
	s.asked++
	if text == "!" {
		return a, errBroken
	}
	items, next, _ := strings.Cut(text, "/")
	for f := range strings.FieldsSeq(items) {
		a.Items = append(a.Items, item{f[:1], int(f[1] - '0')})
	}
	a.Next = next
	return a, nil
}

func TestList(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		want    string // "" with asked 0: an error
		asked   int
	}{
		"same":              {[]string{"a1 b2/n"}, "a1 b2/n", 2},
		"empty":             {[]string{""}, "", 2},
		"another name":      {[]string{"a1 b2", "a1 c2", "a1 b2"}, "a1 b2", 3},
		"another size":      {[]string{"a1 b2", "a1 b3", "a1 b2"}, "a1 b2", 3},
		"last is damaged":   {[]string{"a1", "a1 b2", "a1 c2"}, "a1", 3},
		"came meanwhile":    {[]string{"a1 c3", "a1 b2 c3"}, "a1 b2 c3", 3},
		"went meanwhile":    {[]string{"a1 b2 c3", "a1 c3"}, "a1 c3", 3},
		"sizes change":      {[]string{"a1", "a2", "a3"}, "a3", 3},
		"said twice":        {[]string{"a1", "b1 b1", "a1"}, "a1", 3},
		"another order":     {[]string{"a1 b2", "b2 a1"}, "a1 b2", 2},
		"goes on elsewhere": {[]string{"a1/x", "a1/y", "a1/x"}, "a1/x", 3},
		"thrice elsewhere":  {[]string{"a1/x", "a1/y", "a1/z", "a1/y"}, "a1/y", 4},
		"one error":         {[]string{"!", "a1"}, "a1", 3},
		"error and damage":  {[]string{"!", "a1", "b1", "a1"}, "a1", 4},
		"an error later":    {[]string{"a1", "b1", "!", "a1"}, "a1", 4},
		"two errors":        {[]string{"!", "!"}, "", 0},
		"two errors, later": {[]string{"!", "a1", "!"}, "", 0},
		"nothing in common": {[]string{"/a", "/b", "/c", "/d", "/e", "/f"}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: c.answers}
			got, err := List(context.Background(), s.ask, func(i item) string { return i.name })
			if c.asked == 0 {
				if err == nil {
					t.Fatalf("%v; want an error", got)
				}
				return
			}
			want, _ := (&script{answers: []string{c.want}}).ask(context.Background())
			if err != nil || got.Next != want.Next || !slices.Equal(got.Items, want.Items) || s.asked != c.asked {
				t.Errorf("%v, %v after %d answers; want %v after %d", got, err, s.asked, want, c.asked)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := &script{answers: []string{"!", "a1"}}
	if _, err := List(ctx, s.ask, func(i item) string { return i.name }); err != errBroken {
		t.Errorf("%v; want the error of an ended context at once", err)
	}
}
