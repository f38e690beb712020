package guest

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

func valid() *Config {
	return &Config{
		Device: "/dev/vda", Transport: Serial, End: Reboot,
		Process: Process{Args: []string{"sh"}, Env: []string{"A=b"}, Dir: "/srv", User: "www"},
	}
}

func TestConfig(t *testing.T) {
	want := valid()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for name, spoil := range map[string]func(*Config){
		"no command":         func(c *Config) { c.Process.Args = nil },
		"empty command":      func(c *Config) { c.Process.Args[0] = "" },
		"NUL in argument":    func(c *Config) { c.Process.Args = []string{"a", "b\x00c"} },
		"NUL in variable":    func(c *Config) { c.Process.Env = []string{"A=\x00"} },
		"variable, no =":     func(c *Config) { c.Process.Env = []string{"A"} },
		"variable, no name":  func(c *Config) { c.Process.Env = []string{"=a"} },
		"relative directory": func(c *Config) { c.Process.Dir = "srv" },
		"no device":          func(c *Config) { c.Device = "/etc/passwd" },
		"transport":          func(c *Config) { c.Transport = "pigeon" },
		"end":                func(c *Config) { c.End = "burn" },
	} {
		c := valid()
		spoil(c)
		if _, err := c.Encode(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Decode(bytes.Repeat([]byte(" "), maxConfig+1)); err == nil {
		t.Error("a configuration that is too long: no error")
	}
}

func TestMessages(t *testing.T) {
	var buf bytes.Buffer
	want := []Message{{Started: true}, {Signal: 15}, {Resize: &Terminal{24, 80}}, {Exit: &Exit{Code: 143, Signal: 15}}, {Failed: "no"}}
	for _, m := range want {
		if err := m.Write(&buf); err != nil {
			t.Fatal(err)
		}
	}
	var got []Message
	for m, err := range Messages(&buf) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, bad := range []string{
		"no JSON\n", `{"exit":{"code":256}}` + "\n", `{"exit":{"code":-1}}` + "\n", `{"exit":{"code":1,"signal":200}}` + "\n",
		`{"signal":65}` + "\n", `{"failed":"` + strings.Repeat("a", maxFailed+1) + `"}` + "\n",
		strings.Repeat("a", maxLine+1),
	} {
		failed := false
		for _, err := range Messages(strings.NewReader(bad + "{}\n{}\n")) {
			if failed {
				t.Errorf("%.40q: goes on after an error", bad)
			}
			failed = failed || err != nil
		}
		if !failed {
			t.Errorf("%.40q: no error", bad)
		}
	}
	long := Message{Failed: strings.Repeat("a", 2*maxLine)}
	buf.Reset()
	if err := long.Write(&buf); err != nil {
		t.Fatal(err)
	}
	for m, err := range Messages(&buf) {
		if err != nil || len(m.Failed) != maxFailed {
			t.Errorf("a long text: %d bytes, %v", len(m.Failed), err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"exit":{"code":1}}` + "\n"))
	f.Add([]byte(`{"failed":"x"}` + "\n" + `{"resize":{"rows":1,"cols":2}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for m, err := range Messages(bytes.NewReader(b)) {
			if err == nil && m.Exit != nil && (m.Exit.Code < 0 || m.Exit.Code > 255) {
				t.Errorf("exit code %d", m.Exit.Code)
			}
		}
	})
}

func TestFindUser(t *testing.T) {
	root := fstest.MapFS{
		"etc/passwd": {Data: []byte("root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:34::/var/www:/bin/false\n7:x:70:71::/seven:\nbad:x:a:b::/:\nhomeless:x:90:91:::\n")},
		"etc/group":  {Data: []byte("root:x:0:\nwww:x:34:www\nadm:x:4:root,www\nvideo:x:44:www\n")},
	}
	for text, want := range map[string]User{
		"":         {0, 0, nil, "/root"},
		"root":     {0, 0, []uint32{4}, "/root"},
		"www":      {33, 34, []uint32{4, 44}, "/var/www"},
		"33":       {33, 34, []uint32{4, 44}, "/var/www"},
		"www:adm":  {33, 4, nil, "/var/www"},
		"www:500":  {33, 500, nil, "/var/www"},
		"www:":     {33, 34, []uint32{4, 44}, "/var/www"},
		"1000":     {1000, 0, nil, "/"},
		"1000:33":  {1000, 33, nil, "/"},
		"7":        {70, 71, nil, "/seven"}, // a name is looked for first
		"homeless": {90, 91, nil, "/"},
	} {
		if text == "" {
			want.Groups = []uint32{4}
		}
		if got, err := FindUser(root, text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("FindUser(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"nobody", "www:nobody", "-1", "4294967296", "2147483648", "bad"} {
		if u, err := FindUser(root, text); err == nil {
			t.Errorf("FindUser(%q) = %+v, want an error", text, u)
		}
	}
	if u, err := FindUser(fstest.MapFS{}, "5:6"); err != nil || u.UID != 5 || u.GID != 6 {
		t.Errorf("an image without accounts: %+v, %v", u, err)
	}
}

func FuzzFindUser(f *testing.F) {
	f.Add([]byte("root:x:0:0::/:\n"), []byte("root:x:0:root\n"), "root:root")
	f.Fuzz(func(t *testing.T, passwd, group []byte, text string) {
		root := fstest.MapFS{"etc/passwd": {Data: passwd}, "etc/group": {Data: group}}
		_, _ = FindUser(root, text)
	})
}
