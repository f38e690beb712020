package zonetest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// maxValue is the longest value that a Server takes, in bytes.
const maxValue = 8 << 20

// A Server is a server in this process that speaks both protocols, as far as a
// zone does, on one port. It holds what is put, and what a test puts there behind
// the protocol's back.
type Server struct {
	listener net.Listener

	// Delay is how long each answer waits, in nanoseconds.
	Delay atomic.Int64
	// Answers is how many reads were answered with a value.
	Answers atomic.Int64

	mu     sync.Mutex
	values map[string][]byte
	behave Behaviour
	conns  map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// A Behaviour answers a read instead of the server: with anything at all, written
// to w. The read key has that value, nil if there is none. If it returns false the
// server answers after all; if it returns an error the connection is closed.
type Behaviour func(w io.Writer, key string, value []byte) (bool, error)

// NewServer starts a server for the time of a test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{listener: l, values: make(map[string][]byte), conns: make(map[net.Conn]struct{})}
	s.wg.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

// Addr returns the server's HOST:PORT.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URL returns the server's address as a zone takes it, as a Redis server.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Close cuts all connections and waits for the end of what serves them.
func (s *Server) Close() {
	_ = s.listener.Close()
	s.Cut()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Cut closes the connections that there are.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Behave has b answer reads from now on; nil: nobody but the server.
func (s *Server) Behave(b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behave = b
}

// Keys returns the keys that are held, in order.
func (s *Server) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for k := range s.values {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// Value returns a copy of a value; nil: the key is not held.
func (s *Server) Value(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.values[key])
}

// SetValue puts a value; nil removes the key.
func (s *Server) SetValue(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value == nil {
		delete(s.values, key)
		return
	}
	s.values[key] = slices.Clone(value)
}

// Clear removes all keys.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.values)
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			_ = c.Close()
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			_ = s.serve(c)
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

var errCommand = errors.New("unknown command")

// serve answers commands: of RESP if they begin with a star.
func (s *Server) serve(c net.Conn) error {
	r := bufio.NewReader(c)
	for {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		d := dialect{c, true}
		var args []string
		if n, isRESP := strings.CutPrefix(line, "*"); isRESP {
			args, err = readArgs(r, n)
		} else {
			d.resp = false
			args, err = readText(r, line)
		}
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(s.Delay.Load()))
		if err := s.answer(d, args); err != nil {
			return err
		}
	}
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

func readBytes(r *bufio.Reader, digits string) ([]byte, error) {
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > maxValue {
		return nil, errCommand
	}
	b := make([]byte, n+2)
	_, err = io.ReadFull(r, b)
	return b[:n], err
}

func readArgs(r *bufio.Reader, count string) ([]string, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > 8 {
		return nil, errCommand
	}
	var args []string
	for range n {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		b, err := readBytes(r, strings.TrimPrefix(line, "$"))
		if err != nil {
			return nil, err
		}
		args = append(args, string(b))
	}
	return args, nil
}

// readText reads a command of memcached's, and returns it as Redis has it.
func readText(r *bufio.Reader, line string) ([]string, error) {
	words := strings.Fields(line)
	switch {
	case len(words) == 2 && words[0] == "get":
		return []string{"GET", words[1]}, nil
	case len(words) == 2 && words[0] == "delete":
		return []string{"DEL", words[1]}, nil
	case len(words) == 5 && words[0] == "set":
		b, err := readBytes(r, words[4])
		return []string{"SET", words[1], string(b)}, err
	}
	return nil, errCommand
}

// A dialect says things in one of the protocols.
type dialect struct {
	w    io.Writer
	resp bool
}

func (d dialect) say(resp, text string) error {
	if !d.resp {
		resp = text
	}
	_, err := io.WriteString(d.w, resp+"\r\n")
	return err
}

func (d dialect) value(key string, value []byte) error {
	if value == nil {
		return d.say("$-1", "END")
	}
	head, tail := fmt.Sprintf("$%d\r\n", len(value)), "\r\n"
	if !d.resp {
		head, tail = fmt.Sprintf("VALUE %s 0 %d\r\n", key, len(value)), "\r\nEND\r\n"
	}
	_, err := d.w.Write(bytes.Join([][]byte{[]byte(head), value, []byte(tail)}, nil))
	return err
}

func (s *Server) answer(d dialect, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "GET":
		s.mu.Lock()
		value, behave := s.values[args[1]], s.behave
		s.mu.Unlock()
		if behave != nil {
			if done, err := behave(d.w, args[1], value); done || err != nil {
				return err
			}
		}
		if value != nil {
			s.Answers.Add(1)
		}
		return d.value(args[1], value)
	case len(args) == 3 && args[0] == "SET":
		s.SetValue(args[1], []byte(args[2]))
		return d.say("+OK", "STORED")
	case len(args) == 2 && args[0] == "DEL":
		held := s.Value(args[1]) != nil
		s.SetValue(args[1], nil)
		if held {
			return d.say(":1", "DELETED")
		}
		return d.say(":0", "NOT_FOUND")
	}
	return d.say("-ERR unknown command", "ERROR")
}
