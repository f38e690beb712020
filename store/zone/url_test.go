package zone

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	t.Setenv(UserVariable, "user")
	t.Setenv(PasswordVariable, "hidden")
	for address, want := range map[string]Config{
		"redis://a":                         {Nodes: []string{"redis://a"}},
		"redis://a,b:1,memcached://c,d":     {Nodes: []string{"redis://a", "redis://b:1", "memcached://c", "memcached://d"}},
		"valkeys://u:p@a/3?scheme=2of3":     {Nodes: []string{"valkeys://u:p@a/3"}, Scheme: Coded{2, 3}},
		"redis://a?scheme=whole":            {Nodes: []string{"redis://a"}, Scheme: Whole{}},
		"redis://a?scheme=replicas":         {Nodes: []string{"redis://a"}, Scheme: Replicas{}},
		"redis://a?hedge=1&scheme=replicas": {Nodes: []string{"redis://a"}, Scheme: Replicas{Hedge: 1}},
		"redis://a?timeout=1s&connections=3&ca=/x": {
			Nodes: []string{"redis://a"}, Timeout: time.Second, Connections: 3, CAFile: "/x",
		},
	} {
		want.User, want.Password = "user", "hidden"
		if got, err := ParseURL(address); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", address, got, err)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for address, says := range map[string]string{
		"":                                              "scheme",
		"a:6379":                                        "scheme",
		"redis://":                                      "not an address",
		"redis://a,":                                    "not an address",
		"http://secret@a":                               "scheme",
		"redis://u:secret@a b":                          "not an address",
		"redis://u:secret@a:port":                       "not an address",
		"redis://u:secret@a:1#secret":                   "not an address",
		"redis://u:secret@a/x":                          "database",
		"redis://u:secret@a/-1":                         "database",
		"redis://u:secret@a/65536":                      "database",
		"memcached://u:secret@a/1":                      "database",
		"redis://a?scheme=5of4":                         "stripes",
		"redis://a?scheme=4of17":                        "stripes",
		"redis://a?scheme=0of1":                         "stripes",
		"redis://a?scheme=raid":                         "KofN",
		"redis://a?scheme=1of2x":                        "KofN",
		"redis://a?hedge=0.1":                           "replicas",
		"redis://a?scheme=replicas&hedge":               "hedge",
		"redis://a?scheme=replicas&hedge=2":             "share",
		"redis://a?scheme=replicas&hedge=NaN":           "share",
		"redis://a?timeout=5":                           "timeout",
		"redis://a?timeout=-5s":                         "negative",
		"redis://a?connections=x":                       "connections",
		"redis://a?color=red":                           "unknown",
		"redis://a?timeout=1s&timeout=1s":               "twice",
		"redis://a?%":                                   "malformed",
		"redis://u:sec%ret@a":                           "not an address",
		strings.Repeat("redis://a,", 300) + "redis://a": "nodes",
	} {
		_, err := ParseURL(address)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want something of %q", address, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is in %q", err)
		}
	}
}

func TestConfigPrints(t *testing.T) {
	c := Config{Nodes: []string{"redis://u:secret@a", "redis://u:secret@a b", "memcached://b"}, Password: "secret"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, c); got != "zone of 3 nodes; a:6379; ; b:11211" {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for what, c := range map[string]Config{
		"no nodes":     {},
		"one twice":    {Nodes: []string{"redis://a", "memcached://A:6379"}},
		"no address":   {Nodes: []string{"a"}},
		"certificates": {Nodes: []string{"redis://a"}, CAFile: "url_test.go"},
		"no file":      {Nodes: []string{"redis://a"}, CAFile: "/nonexistent"},
	} {
		if z, err := Open(c); err == nil {
			_ = z.Close()
			t.Errorf("%s: no error", what)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("redis://u:p@a:6379/1,b?scheme=4of5&timeout=1s")
	f.Add("memcached://[::1]:1,?")
	f.Fuzz(func(t *testing.T, address string) {
		c, err := ParseURL(address)
		if err != nil {
			return
		}
		for _, n := range c.Nodes {
			if _, err := parseNode(n); err != nil {
				t.Errorf("%q is taken, and its node %q is not: %v", address, n, err)
			}
		}
	})
}
