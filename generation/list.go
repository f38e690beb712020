package generation

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/origin"
)

// Bounds of a list, which fit a pointer's value.
const (
	// MaxListed bounds the generations that a list has.
	MaxListed = 56
	// version is of the list, and of all rules by which images are carried from
	// one generation to the next: whoever adds a kind of attachment, or a pointer
	// that must be carried along, raises it, so that a collector that does not
	// know of it keeps its hands off. Profiles are carried and need not be: a
	// collector that leaves them behind costs some slow starts.
	firstLine = "rivulet generations 1"
)

// A State says what may be done with a generation.
type State uint8

// The states, in the order in which a generation goes through them.
const (
	StateActive  State = iota + 1 // read and written: the one that is published into
	StateRetired                  // read; what is wanted of it is copied forward
	StateExpired                  // read, but that raises an alarm
	StateDeleted                  // closed; still whole, and may come back as expired
	StateErased                   // gone, or about to be; never comes back
)

var stateNames = [...]string{"", "active", "retired", "expired", "deleted", "erased"}

// String returns the state's name.
func (s State) String() string {
	if int(s) < len(stateNames) && s > 0 {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Readable reports whether images of a generation in this state can be read.
func (s State) Readable() bool { return s >= StateActive && s <= StateExpired }

func parseState(name string) (State, bool) {
	for s := StateActive; s <= StateErased; s++ {
		if stateNames[s] == name {
			return s, true
		}
	}
	return 0, false
}

// An Entry is what a list says of a generation.
type Entry struct {
	ID      origin.GenerationID `json:"id"`
	State   State               `json:"state"`
	Created time.Time           `json:"created"` // when it became active; whole seconds, UTC
	Since   time.Time           `json:"since"`   // when it came into its state
}

// A List is all generations of an origin, by id; the last one is active and
// gives the next id, which is one more. States never fall from one generation to
// an older one: the older, the further. Erased ones are left out after a while,
// so a smaller id than the first is one of those.
type List []Entry

// ErrFormat is returned (wrapped) for bytes that are no list.
var ErrFormat = errors.New("malformed list of generations")

// first is the list of an origin that has none yet.
func first(now time.Time) List {
	return List{{ID: 1, State: StateActive, Created: stamp(now), Since: stamp(now)}}
}

// stamp is a time as lists have it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// Active returns the id of the active generation.
func (l List) Active() origin.GenerationID { return l[len(l)-1].ID }

// State returns the state of generation id; that of one that was never made is
// 0.
func (l List) State(id origin.GenerationID) State {
	for _, e := range l {
		if e.ID == id {
			return e.State
		}
	}
	if id != 0 && id < l[0].ID {
		return StateErased
	}
	return 0
}

// Readable returns the generations that can be read, newest first, so expired
// ones last.
func (l List) Readable() []origin.GenerationID {
	return l.newestFirst(StateExpired)
}

// newestFirst returns the generations whose state is at most s, newest first.
func (l List) newestFirst(s State) []origin.GenerationID {
	var ids []origin.GenerationID
	for i := len(l) - 1; i >= 0 && l[i].State <= s; i-- {
		ids = append(ids, l[i].ID)
	}
	return ids
}

// String returns the list as it is stored: a first line with the version, then
// a line for each generation.
func (l List) String() string {
	var b strings.Builder
	b.WriteString(firstLine + "\n")
	for _, e := range l {
		fmt.Fprintf(&b, "%v %v %s %s\n", e.ID, e.State, formatTime(e.Created), formatTime(e.Since))
	}
	return b.String()
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Parse reads a list. What it accepts encodes to the same bytes.
func Parse(b []byte) (List, error) {
	if len(b) > origin.MaxPointerBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	lines := strings.Split(string(b), "\n")
	if lines[0] != firstLine {
		return nil, fmt.Errorf("%w: it begins with %.40q, this program knows %q", ErrFormat, lines[0], firstLine)
	}
	lines = lines[1:]
	n := len(lines) - 1
	if n < 1 || n > MaxListed || lines[n] != "" {
		return nil, fmt.Errorf("%w: %d lines", ErrFormat, n)
	}
	l := make(List, n)
	for i := range l {
		if err := l[i].parse(lines[i]); err != nil {
			return nil, err
		}
	}
	if l.String() != string(b) {
		return nil, fmt.Errorf("%w: not written as it should be", ErrFormat)
	}
	return l, l.check()
}

func (e *Entry) parse(line string) error {
	f := strings.Split(line, " ")
	if len(f) != 4 {
		return fmt.Errorf("%w: line %.80q", ErrFormat, line)
	}
	var ok bool
	var err [3]error
	e.ID, err[0] = origin.ParseGenerationID(f[0])
	e.State, ok = parseState(f[1])
	e.Created, err[1] = time.Parse(time.RFC3339, f[2])
	e.Since, err[2] = time.Parse(time.RFC3339, f[3])
	if joined := errors.Join(err[:]...); joined != nil || !ok {
		return fmt.Errorf("%w: line %.80q: %w", ErrFormat, line, joined)
	}
	return nil
}

// check reports where a list breaks its promises.
func (l List) check() error {
	for i, e := range l {
		if last := i == len(l)-1; last != (e.State == StateActive) {
			return fmt.Errorf("%w: generation %v is %v; the last one, and no other, is active", ErrFormat, e.ID, e.State)
		}
		if i > 0 && l[i-1].ID >= e.ID {
			return fmt.Errorf("%w: generation %v after %v", ErrFormat, e.ID, l[i-1].ID)
		}
		if i > 0 && l[i-1].State < e.State {
			return fmt.Errorf("%w: generation %v is %v, older ones less far", ErrFormat, e.ID, e.State)
		}
	}
	return nil
}
