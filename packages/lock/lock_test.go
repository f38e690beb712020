package lock

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

var sum = strings.Repeat("ab", 32)

func good() *Lock {
	return &Lock{
		Version: "1.0", CreatedBy: "rivulet", RequiresPython: "==3.11.*",
		Packages: []Package{
			{Name: "idna", Version: "3.7", Wheels: []Wheel{{Name: "idna-3.7-py3-none-any.whl", URL: "https://host/x/idna-3.7-py3-none-any.whl", Size: 7, Hashes: map[string]string{"sha256": sum}}}},
			{Name: "Requests", Version: "2.32", Dependencies: []Dependency{{"idna"}, {"urllib3"}}},
			{Name: "urllib3", Dependencies: []Dependency{{"idna"}}},
			{Name: "flask", Dependencies: []Dependency{{"requests"}}},
		},
		Tool: Tool{Origin{Requested: []string{"flask", "urllib3"}, Target: "cpython-311"}},
	}
}

func TestEncode(t *testing.T) {
	data, err := good().Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(data)
	if err != nil || !reflect.DeepEqual(again, good()) {
		t.Errorf("%v\n%s\nread again: %+v", err, data, again)
	}
}

func TestWhy(t *testing.T) {
	got := good().Why("IDNA", strings.ToLower)
	if want := [][]string{{"flask", "requests", "idna"}, {"urllib3", "idna"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := good().Why("none", strings.ToLower); got != nil {
		t.Errorf("a package that is not there: %v", got)
	}
}

// TestForeign reads a lock as another program writes it.
func TestForeign(t *testing.T) {
	l, err := Parse(fmt.Appendf(nil, `lock-version = "1.0"
environments = ["sys_platform == 'linux'"]
created-by = "other"
[[packages]]
name = "attrs"
version = "25.1.0"
requires-python = ">=3.8"
marker = "python_version < '4'"
wheels = [
  {url = "https://host/attrs-25.1.0-py3-none-any.whl", upload-time = 2025-01-25T11:30:10.164985+00:00, size = 63152, hashes = {sha256 = "%s"}},
]
[[packages.attestation-identities]]
kind = "GitHub"
`, sum))
	if err != nil || l.Packages[0].Wheels[0].FileName() != "attrs-25.1.0-py3-none-any.whl" || l.Packages[0].Marker == "" {
		t.Errorf("%+v: %v", l, err)
	}
}

func TestRefused(t *testing.T) {
	wheel := func(text string) string {
		return "lock-version='1.0'\n[[packages]]\nname='a'\nwheels=[{" + text + "}]"
	}
	for _, c := range [][2]string{
		{"x", "no lock in TOML"},
		{"lock-version='2.0'", "only 1.0"},
		{"lock-version='1.0'\n[[packages]]\nname='../a'", "not a package's name"},
		{"lock-version='1.0'\n[[packages]]\nname='a'\nversion='1/..'", "version"},
		{wheel("url='https://h/a-1-py3-none-any.whl',hashes={md5='x'}"), "has no SHA-256"},
		{wheel("hashes={sha256='" + sum + "'}"), "neither url nor path"},
		{wheel("url='https://h/a.tar.gz',hashes={sha256='" + sum + "'}"), "is no wheel's name"},
		{wheel("url='h',name='../a.whl',hashes={sha256='" + sum + "'}"), "is no wheel's name"},
		{strings.Repeat("#", MaxBytes+1), "at most"},
	} {
		if _, err := Parse([]byte(c[0])); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%.80s: %v, want %q", c[0], err, c[1])
		}
	}
}

func FuzzParse(f *testing.F) {
	data, err := good().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
	})
}
