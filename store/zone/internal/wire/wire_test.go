package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A script is a connection on which a server says the same whatever it is asked.
type script struct {
	in   *strings.Reader
	sent bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.sent.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

func talk(says string) *script { return &script{in: strings.NewReader(says)} }

const limit = 100

func room(n int) []byte {
	if n > limit {
		return nil
	}
	return make([]byte, n)
}

type opener func(net.Conn, Login) (Conn, error)

// wants fails the test if err is not want. A refusal has the server's words, which
// want has not.
func wants(t *testing.T, err, want error) {
	t.Helper()
	var refused *RefusedError
	switch {
	case !errors.As(want, &refused):
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	case !errors.As(err, &refused) || refused.Text == "" || len(refused.Text) > maxQuote:
		t.Errorf("%v, want the server's words", err)
	}
}

func TestGet(t *testing.T) {
	for name, c := range map[string]struct {
		open  opener
		says  string
		value string
		err   error
	}{
		"redis value":            {OpenRedis, "$5\r\nab\r\nc\r\n", "ab\r\nc", nil},
		"redis empty":            {OpenRedis, "$0\r\n\r\n", "", nil},
		"redis none":             {OpenRedis, "$-1\r\n", "", ErrMissing},
		"redis refuses":          {OpenRedis, "-LOADING wait\r\n", "", &RefusedError{}},
		"redis too long":         {OpenRedis, "$101\r\n", "", ErrLength},
		"redis huge":             {OpenRedis, "$2147483647\r\n", "", ErrLength},
		"redis more than huge":   {OpenRedis, "$99999999999999999999\r\n", "", ErrProtocol},
		"redis negative":         {OpenRedis, "$-2\r\n", "", ErrProtocol},
		"redis signed":           {OpenRedis, "$+5\r\nabcde\r\n", "", ErrProtocol},
		"redis no number":        {OpenRedis, "$x\r\n", "", ErrProtocol},
		"redis array":            {OpenRedis, "*1000000000\r\n", "", ErrProtocol},
		"redis integer":          {OpenRedis, ":1\r\n", "", ErrProtocol},
		"redis empty line":       {OpenRedis, "\r\n", "", ErrProtocol},
		"redis no carriage":      {OpenRedis, "$5\nabcde\r\n", "", ErrProtocol},
		"redis endless line":     {OpenRedis, strings.Repeat("$", 1<<20), "", ErrProtocol},
		"redis long line":        {OpenRedis, "-" + strings.Repeat("x", maxLine) + "\r\n", "", ErrProtocol},
		"redis cut":              {OpenRedis, "$5\r\nabc", "", io.ErrUnexpectedEOF},
		"redis cut in the line":  {OpenRedis, "$5", "", io.ErrUnexpectedEOF},
		"redis says nothing":     {OpenRedis, "", "", io.EOF},
		"redis longer than said": {OpenRedis, "$5\r\nabcdefg\r\n", "", ErrProtocol},

		"memcached value":          {OpenMemcached, "VALUE k 0 5\r\nab\r\nc\r\nEND\r\n", "ab\r\nc", nil},
		"memcached value and cas":  {OpenMemcached, "VALUE k 7 1 12\r\na\r\nEND\r\n", "a", nil},
		"memcached none":           {OpenMemcached, "END\r\n", "", ErrMissing},
		"memcached refuses":        {OpenMemcached, "SERVER_ERROR out of memory\r\n", "", &RefusedError{}},
		"memcached does not know":  {OpenMemcached, "ERROR\r\n", "", &RefusedError{}},
		"memcached another key":    {OpenMemcached, "VALUE l 0 1\r\na\r\nEND\r\n", "", ErrProtocol},
		"memcached two values":     {OpenMemcached, "VALUE k 0 1\r\na\r\nVALUE k 0 1\r\na\r\nEND\r\n", "", ErrProtocol},
		"memcached too long":       {OpenMemcached, "VALUE k 0 101\r\n", "", ErrLength},
		"memcached negative":       {OpenMemcached, "VALUE k 0 -1\r\n", "", ErrProtocol},
		"memcached huge":           {OpenMemcached, "VALUE k 0 99999999999999999999\r\n", "", ErrProtocol},
		"memcached few words":      {OpenMemcached, "VALUE k 0\r\n", "", ErrProtocol},
		"memcached many words":     {OpenMemcached, "VALUE k 0 1 2 3\r\na\r\nEND\r\n", "", ErrProtocol},
		"memcached cut":            {OpenMemcached, "VALUE k 0 5\r\nabc", "", io.ErrUnexpectedEOF},
		"memcached stored":         {OpenMemcached, "STORED\r\n", "", ErrProtocol},
		"memcached end is missing": {OpenMemcached, "VALUE k 0 1\r\na\r\n", "", io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := c.open(talk(c.says), Login{})
			if err != nil {
				t.Fatal(err)
			}
			value, err := conn.Get("k", room)
			wants(t, err, c.err)
			if err == nil && string(value) != c.value {
				t.Errorf("%q, want %q", value, c.value)
			}
		})
	}
}

func TestCommands(t *testing.T) {
	refused := &RefusedError{}
	set := func(c Conn) error { return c.Set("k", []byte("ab"), []byte("c\r\n")) }
	drop := func(c Conn) error { return c.Delete("k") }
	for name, c := range map[string]struct {
		open opener
		do   func(Conn) error
		says string
		sent string
		err  error
	}{
		"redis set":          {OpenRedis, set, "+OK\r\n", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nabc\r\n\r\n", nil},
		"redis full":         {OpenRedis, set, "-OOM full\r\n", "", refused},
		"redis set, odd":     {OpenRedis, set, "+QUEUED\r\n", "", ErrProtocol},
		"redis del":          {OpenRedis, drop, ":1\r\n", "*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n", nil},
		"redis del of none":  {OpenRedis, drop, ":0\r\n", "", nil},
		"redis del, odd":     {OpenRedis, drop, ":2\r\n", "", ErrProtocol},
		"memcached set":      {OpenMemcached, set, "STORED\r\n", "set k 0 0 5\r\nabc\r\n\r\n", nil},
		"memcached full":     {OpenMemcached, set, "SERVER_ERROR object too large for cache\r\n", "", refused},
		"memcached set, odd": {OpenMemcached, set, "NOT_STORED\r\n", "", ErrProtocol},
		"memcached del":      {OpenMemcached, drop, "DELETED\r\n", "delete k\r\n", nil},
		"memcached del none": {OpenMemcached, drop, "NOT_FOUND\r\n", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := talk(c.says)
			conn, err := c.open(s, Login{})
			if err != nil {
				t.Fatal(err)
			}
			wants(t, c.do(conn), c.err)
			if c.sent != "" && s.sent.String() != c.sent {
				t.Errorf("sent %q, want %q", s.sent.String(), c.sent)
			}
		})
	}
}

// TestUnasked: what a server says after an answer is never taken for the next one.
func TestUnasked(t *testing.T) {
	for says, open := range map[string]opener{
		"$1\r\na\r\n$1\r\nb\r\n":             OpenRedis,
		"VALUE k 0 1\r\na\r\nEND\r\nEND\r\n": OpenMemcached,
	} {
		c, err := open(talk(says), Login{})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := c.Get("k", room); err != nil || string(v) != "a" {
			t.Errorf("%q, %v", v, err)
		}
		if v, err := c.Get("k", room); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q, %v", v, err)
		}
	}
}

func TestLogin(t *testing.T) {
	for name, c := range map[string]struct {
		open  opener
		login Login
		says  string
		sent  string
		ok    bool
	}{
		"redis, none":          {OpenRedis, Login{}, "", "", true},
		"redis":                {OpenRedis, Login{Password: "p w"}, "+OK\r\n", "*2\r\n$4\r\nAUTH\r\n$3\r\np w\r\n", true},
		"redis, a user":        {OpenRedis, Login{User: "u", Password: "p"}, "+OK\r\n", "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n", true},
		"redis, wrong":         {OpenRedis, Login{Password: "secret"}, "-WRONGPASS no\r\n", "", false},
		"redis, database":      {OpenRedis, Login{Database: 12}, "+OK\r\n", "*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n", true},
		"redis, no database":   {OpenRedis, Login{Database: 12}, "-ERR out of range\r\n", "", false},
		"memcached":            {OpenMemcached, Login{User: "u", Password: "p"}, "STORED\r\n", "set login 0 0 3\r\nu p\r\n", true},
		"memcached, wrong":     {OpenMemcached, Login{Password: "secret"}, "CLIENT_ERROR authentication failure\r\n", "", false},
		"memcached, not asked": {OpenMemcached, Login{User: "u"}, "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := talk(c.says)
			_, err := c.open(s, c.login)
			if (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in %q", err)
			}
			if c.sent != "" && s.sent.String() != c.sent {
				t.Errorf("sent %q, want %q", s.sent.String(), c.sent)
			}
		})
	}
}

// fuzz has a server say anything: nothing is read past what was said, nothing
// longer than the limit is returned, and nothing panics.
func fuzz(f *testing.F, open opener, seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, says string) {
		asked := 0
		for _, do := range []func(Conn) error{
			func(c Conn) error {
				value, err := c.Get("k", func(n int) []byte { asked = n; return room(n) })
				if err == nil && (len(value) != asked || len(value) > limit || !strings.Contains(says, string(value))) {
					t.Errorf("%q of %q", value, says)
				}
				return err
			},
			func(c Conn) error { return c.Set("k", []byte("a"), []byte("b")) },
			func(c Conn) error { return c.Delete("k") },
		} {
			if c, err := open(talk(says), Login{}); err == nil {
				_ = do(c) // any answer will do, a panic will not
			}
		}
		_, _ = open(talk(says), Login{User: "u", Password: "p", Database: 1})
	})
}

func FuzzRedis(f *testing.F) {
	fuzz(f, OpenRedis, "$5\r\nabcde\r\n+OK\r\n:1\r\n", "+OK\r\n+OK\r\n$-1\r\n+OK\r\n:0\r\n", "-ERR\r\n", "$99999999999\r\n", "*1\r\n", "%1\r\n", "$?\r\n")
}

func FuzzMemcached(f *testing.F) {
	fuzz(f, OpenMemcached, "VALUE k 0 5\r\nabcde\r\nEND\r\nSTORED\r\nDELETED\r\n", "STORED\r\nEND\r\n", "SERVER_ERROR x\r\n", "VALUE k 0 99999999999\r\n", "VALUE k\r\n")
}
