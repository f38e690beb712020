package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
)

// A Message is one line of the control channel. From the guest come Started, then
// Exit or Failed, once; to the guest go the others.
type Message struct {
	Started bool   `json:"started,omitempty"` // the process runs
	Exit    *Exit  `json:"exit,omitempty"`    // it has ended
	Failed  string `json:"failed,omitempty"`  // it could not be started: why

	Signal int       `json:"signal,omitempty"` // is to be sent to it, by Linux' numbers
	Resize *Terminal `json:"resize,omitempty"` // of its terminal
}

// An Exit says how a process ended.
type Exit struct {
	Code   int `json:"code"`             // 0 to 255; 128 + Signal for one that was killed
	Signal int `json:"signal,omitempty"` // what killed it
}

// maxLine bounds one Message, in bytes.
const maxLine = 64 << 10

// maxFailed bounds a Failed, in bytes.
const maxFailed = 4 << 10

// Write writes a Message as one line, by one call.
func (m Message) Write(w io.Writer) error {
	if len(m.Failed) > maxFailed {
		m.Failed = m.Failed[:maxFailed]
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Messages yields what r has, one after the other, and ends at r's end or after an
// error. A line that is too long, no Message, or out of bounds is an error.
func Messages(r io.Reader) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(nil, maxLine)
		for s.Scan() {
			m, err := parse(s.Bytes())
			if !yield(m, err) || err != nil {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(Message{}, fmt.Errorf("control channel of guest: %w", err))
		}
	}
}

func parse(line []byte) (Message, error) {
	var m Message
	err := json.Unmarshal(line, &m)
	switch {
	case err != nil:
	case m.Exit != nil && (m.Exit.Code < 0 || m.Exit.Code > 255 || m.Exit.Signal < 0 || m.Exit.Signal > 127):
		err = errors.New("exit status out of bounds")
	case len(m.Failed) > maxFailed:
		err = fmt.Errorf("a text of %d bytes", len(m.Failed))
	case m.Signal < 0 || m.Signal > 64:
		err = fmt.Errorf("signal %d", m.Signal)
	}
	if err != nil {
		return Message{}, fmt.Errorf("control channel of guest: %w", err)
	}
	return m, nil
}
