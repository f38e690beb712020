package python

import (
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/sandbox"
)

func TestArrange(t *testing.T) {
	wheels := []lock.Wheel{{URL: "https://host/x-1-py3-none-any.whl"}}
	l := &lock.Lock{Packages: []lock.Package{{Name: "Flask", Wheels: wheels}, {Name: "jinja2", Wheels: wheels}, {Name: "markupsafe", Wheels: wheels}, {Name: "there", Wheels: wheels}}}
	answer := &uvAnswer{
		Missing: []string{"flask==3", "jinja2==3", "markupsafe==2"},
		Via:     "flask==3       # via -r /run/rivulet/requirements/specs.txt\njinja2==3  # via flask\nmarkupsafe==2  # via flask, jinja2\nthere==1  # via flask\n",
	}
	if err := (&UV{}).arrange(l, answer, Request{}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range l.Packages {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "markupsafe jinja2 Flask" || len(l.Packages[2].Dependencies) != 2 {
		t.Errorf("order %s: %+v", got, l.Packages)
	}
	if got := l.Tool.Rivulet.Requested; len(got) != 1 || got[0] != "flask" {
		t.Errorf("requested %v", got)
	}
	l = &lock.Lock{Packages: []lock.Package{{Name: "a", Version: "1"}}}
	if err := (&UV{}).arrange(l, &uvAnswer{Missing: []string{"a==1"}}, Request{}); err == nil || !strings.Contains(err.Error(), "no wheel of a 1") {
		t.Errorf("without a wheel: %v", err)
	}
}

func TestExplainedByUV(t *testing.T) {
	e := &sandbox.Error{Reason: "exit status 1", Output: "Using Python 3.11 environment at: /usr\n  × No solution found when resolving dependencies:\n  ╰─▶ Because there is no version of a and you require a, we can conclude\n      that your requirements are unsatisfiable.\n"}
	want := "No solution found when resolving dependencies: Because there is no version of a and you require a, we can conclude that your requirements are unsatisfiable."
	if got := explainedByUV(e).Error(); got != want {
		t.Errorf("got %q", got)
	}
}

func TestUVSettings(t *testing.T) {
	u := &UV{Resolver: &Resolver{env: []string{"PIP_INDEX_URL=https://a/simple", "PIP_PRE=1", "PIP_NO_DEPS=1", "https_proxy=p"}}}
	u.configure([]string{"UV_INDEX=https://b", "UV_CACHE_DIR=/x", "HOME=/y"})
	if got := strings.Join(u.env, " "); got != "UV_DEFAULT_INDEX=https://a/simple UV_PRERELEASE=allow https_proxy=p UV_INDEX=https://b" {
		t.Errorf("got %q", got)
	}
}
