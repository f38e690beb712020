package wire

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
)

type redis struct{ stream }

// OpenRedis logs in to a Redis or Valkey server.
func OpenRedis(c net.Conn, l Login) (Conn, error) {
	r := &redis{newStream(c)}
	if l.Password != "" {
		args := []string{"AUTH", l.User, l.Password}
		if l.User == "" {
			args = []string{"AUTH", l.Password}
		}
		if err := r.done(args...); err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
	}
	if l.Database != 0 {
		if err := r.done("SELECT", strconv.Itoa(l.Database)); err != nil {
			return nil, fmt.Errorf("select database %d: %w", l.Database, err)
		}
	}
	return r, nil
}

// begin puts the begin of a command of n arguments into r.out.
func (r *redis) begin(n int, args ...string) {
	r.out = append(r.out[:0], '*')
	r.out = strconv.AppendInt(r.out, int64(n), 10)
	for _, a := range args {
		r.out = append(r.out, "\r\n$"...)
		r.out = strconv.AppendInt(r.out, int64(len(a)), 10)
		r.out = append(r.out, "\r\n"...)
		r.out = append(r.out, a...)
	}
	r.out = append(r.out, "\r\n"...)
}

// done sends a command whose answer is OK.
func (r *redis) done(args ...string) error {
	r.begin(len(args), args...)
	if err := r.send(nil, nil); err != nil {
		return err
	}
	return r.ok()
}

func (r *redis) ok() error {
	b, err := r.answer()
	if err == nil && string(b) != "+OK" {
		err = unexpected(b)
	}
	return err
}

// answer reads the line that an answer begins with. Errors of the server are
// returned as such.
func (r *redis) answer() ([]byte, error) {
	b, err := r.line()
	if err == nil && b[0] == '-' {
		return nil, &RefusedError{string(cut(b[1:]))}
	}
	return b, err
}

func (r *redis) Get(key string, room Room) ([]byte, error) {
	r.begin(2, "GET", key)
	if err := r.send(nil, nil); err != nil {
		return nil, err
	}
	b, err := r.answer()
	if err != nil {
		return nil, err
	}
	digits, isValue := bytes.CutPrefix(b, []byte("$"))
	if !isValue {
		return nil, unexpected(b)
	}
	if string(digits) == "-1" {
		return nil, ErrMissing
	}
	n, err := length(digits)
	if err != nil {
		return nil, err
	}
	return r.value(n, room)
}

func (r *redis) Set(key string, head, body []byte) error {
	r.begin(3, "SET", key)
	r.out = append(r.out, '$')
	r.out = strconv.AppendInt(r.out, int64(len(head)+len(body)), 10)
	r.out = append(r.out, "\r\n"...)
	if err := r.send(head, body); err != nil {
		return err
	}
	return r.ok()
}

func (r *redis) Delete(key string) error {
	r.begin(2, "DEL", key)
	if err := r.send(nil, nil); err != nil {
		return err
	}
	b, err := r.answer()
	if err == nil && string(b) != ":0" && string(b) != ":1" {
		err = unexpected(b)
	}
	return err
}
