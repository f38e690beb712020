package wire

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
)

type memcached struct{ stream }

// OpenMemcached logs in to a memcached server: with a password, as its text
// protocol has it (the option -Y).
func OpenMemcached(c net.Conn, l Login) (Conn, error) {
	m := &memcached{newStream(c)}
	if l.Password != "" {
		if err := m.Set("login", []byte(l.User+" "), []byte(l.Password)); err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
	}
	return m, nil
}

// command sends a line of words.
func (m *memcached) command(words ...string) error {
	m.out = m.out[:0]
	for _, w := range words {
		m.out = append(append(m.out, w...), ' ')
	}
	m.out = append(m.out[:len(m.out)-1], "\r\n"...)
	return m.send(nil, nil)
}

// answer reads a line. Errors of the server are returned as such.
func (m *memcached) answer() ([]byte, error) {
	b, err := m.line()
	if err != nil {
		return nil, err
	}
	for _, refusal := range []string{"SERVER_ERROR", "CLIENT_ERROR", "ERROR"} {
		if bytes.HasPrefix(b, []byte(refusal)) {
			return nil, &RefusedError{string(cut(b))}
		}
	}
	return b, nil
}

func (m *memcached) Get(key string, room Room) ([]byte, error) {
	if err := m.command("get", key); err != nil {
		return nil, err
	}
	b, err := m.answer()
	if err != nil {
		return nil, err
	}
	if string(b) == "END" {
		return nil, ErrMissing
	}
	words := bytes.Split(b, []byte(" "))
	if len(words) < 4 || len(words) > 5 || string(words[0]) != "VALUE" || string(words[1]) != key {
		return nil, unexpected(b)
	}
	n, err := length(words[3])
	if err != nil {
		return nil, err
	}
	value, err := m.value(n, room)
	if err != nil {
		return nil, err
	}
	return value, m.expect("END")
}

func (m *memcached) Set(key string, head, body []byte) error {
	m.out = append(append(m.out[:0], "set "...), key...)
	m.out = append(m.out, " 0 0 "...)
	m.out = strconv.AppendInt(m.out, int64(len(head)+len(body)), 10)
	m.out = append(m.out, "\r\n"...)
	if err := m.send(head, body); err != nil {
		return err
	}
	return m.expect("STORED")
}

func (m *memcached) Delete(key string) error {
	if err := m.command("delete", key); err != nil {
		return err
	}
	return m.expect("DELETED", "NOT_FOUND")
}

// expect reads an answer that is one of some.
func (m *memcached) expect(answers ...string) error {
	b, err := m.answer()
	if err != nil {
		return err
	}
	for _, a := range answers {
		if string(b) == a {
			return nil
		}
	}
	return unexpected(b)
}
