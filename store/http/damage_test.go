package http

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/store/dir"
)

// TestDamage damages each single answer of a session, in each way.
func TestDamage(t *testing.T) {
	for name, change := range map[string]func(http.Handler) http.Handler{
		"file server":    func(h http.Handler) http.Handler { return h },
		"ignores ranges": func(h http.Handler) http.Handler { return hide(h, []string{"Range"}, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			fill, err := dir.Open(path, true)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(change(http.FileServer(http.Dir(path))))
			defer server.Close()
			proxy, err := faultproxy.NewServer(strings.TrimPrefix(server.URL, "http://"), nil, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer proxy.Close()
			origintest.TestDamage(t, fill, func(t *testing.T) origin.Origin {
				o := openURL(t, "http://"+proxy.Addr())
				o.policy.First = time.Millisecond
				return o
			}, wire(proxy))
		})
	}
}

func wire(p *faultproxy.Server) origintest.Wire {
	return origintest.Wire{
		Answers: func() int { n, _ := p.Requests(); return n },
		Spoil:   func(n int, how string, random uint64) { p.Single(n, faultproxy.Kind(how), random) },
	}
}

// TestCorruptPointers reads what a directory has, damaged there.
func TestCorruptPointers(t *testing.T) {
	path := t.TempDir()
	fill, err := dir.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	o := open(t, http.FileServer(http.Dir(path)))
	o.policy.First, o.policy.Budget.Burst, o.policy.Budget.Share = time.Millisecond, 1<<20, 1
	origintest.TestCorruptPointers(t, fill, o, path)
}

// TestVersionAgain opens origins whose version arrives damaged, or is another.
func TestVersionAgain(t *testing.T) {
	for _, c := range []struct {
		bad   int64 // answers
		asked int64
		want  error
	}{{0, 1, nil}, {1, 2, nil}, {3, 4, nil}, {99, 4, origin.ErrVersion}} {
		var asked atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text := place.VersionText
			if asked.Add(1) <= c.bad {
				text = strings.Replace(text, "store", "st\xefre", 1)
			}
			_, _ = io.WriteString(w, text)
		}))
		defer server.Close()
		config, err := ParseURL(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		o, err := Open(ctx, config)
		if err == nil {
			o.Close()
		}
		if !errors.Is(err, c.want) || asked.Load() != c.asked {
			t.Errorf("%d damaged: %v after %d requests; want %v after %d", c.bad, err, asked.Load(), c.want, c.asked)
		}
	}
}
