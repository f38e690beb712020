package wire

import (
	"encoding/binary"

	"github.com/rivuletfs/rivulet/chunk"
)

var le = binary.LittleEndian

// A Greeting is the payload of Hello.
type Greeting struct{ Version uint32 }

// Append appends the encoded payload to b.
func (g Greeting) Append(b []byte) []byte {
	b = append(append(b, magic...), 0)
	return le.AppendUint32(b, g.Version)
}

// ParseGreeting is the inverse of [Greeting.Append].
func ParseGreeting(b []byte) (Greeting, error) {
	rest, err := afterMagic(b, 4)
	if err != nil {
		return Greeting{}, err
	}
	return Greeting{le.Uint32(rest)}, nil
}

// afterMagic returns the n bytes that must follow the magic number.
func afterMagic(b []byte, n int) ([]byte, error) {
	m := len(magic) + 1
	if len(b) != m+n || string(b[:m-1]) != magic || b[m-1] != 0 {
		return nil, malformed("the peer does not speak the cache protocol")
	}
	return b[m:], nil
}

// Terms is the payload of Welcome: what a client may do.
type Terms struct {
	Version     uint32
	Outstanding uint32 // requests without an answer at a time
	WaitMillis  uint32 // the longest that a Get waits
}

// Append appends the encoded payload to b.
func (t Terms) Append(b []byte) []byte {
	b = append(append(b, magic...), 0)
	b = le.AppendUint32(b, t.Version)
	b = le.AppendUint32(b, t.Outstanding)
	return le.AppendUint32(b, t.WaitMillis)
}

// ParseTerms is the inverse of [Terms.Append].
func ParseTerms(b []byte) (Terms, error) {
	rest, err := afterMagic(b, 12)
	if err != nil {
		return Terms{}, err
	}
	return Terms{le.Uint32(rest), le.Uint32(rest[4:]), le.Uint32(rest[8:])}, nil
}

// A Want is the payload of Get.
type Want struct {
	ID         chunk.ID
	Off, Len   uint32 // the part of the object that has to be there; Len 0: all from Off on
	Priority   chunk.Priority
	WaitMillis uint32 // how long the client waits at most
	// Extract are frames that have to be there instead, of which Off and Len may be a part; the
	// others are not brought for this. 0: Off and Len say it, and what is brought is the chunk.
	Extract chunk.Extract
}

// Append appends the encoded payload to b.
func (w *Want) Append(b []byte) []byte {
	b = append(b, w.ID[:]...)
	b = le.AppendUint32(b, w.Off)
	b = le.AppendUint32(b, w.Len)
	b = append(b, byte(w.Priority), 0, 0, 0)
	b = le.AppendUint32(b, w.WaitMillis)
	return le.AppendUint64(b, uint64(w.Extract))
}

// ParseWant is the inverse of [Want.Append].
func ParseWant(b []byte) (w Want, err error) {
	if len(b) != idLen+24 {
		return w, malformed("GET of %d bytes", len(b))
	}
	copy(w.ID[:], b)
	b = b[idLen:]
	w.Off, w.Len, w.Priority, w.WaitMillis = le.Uint32(b), le.Uint32(b[4:]), chunk.Priority(b[8]), le.Uint32(b[12:])
	w.Extract = chunk.Extract(le.Uint64(b[16:]))
	switch {
	case w.Off > chunk.MaxStoredSize || w.Len > chunk.MaxStoredSize:
		return w, malformed("GET of %d bytes at %d", w.Len, w.Off)
	case w.Priority >= chunk.Priorities || b[9]|b[10]|b[11] != 0:
		return w, malformed("GET with priority %d", w.Priority)
	}
	return w, nil
}

// An Urgent is the payload of Raise.
type Urgent struct {
	ID       chunk.ID
	Priority chunk.Priority
}

// Append appends the encoded payload to b.
func (u Urgent) Append(b []byte) []byte { return append(append(b, u.ID[:]...), byte(u.Priority)) }

// ParseUrgent is the inverse of [Urgent.Append].
func ParseUrgent(b []byte) (u Urgent, err error) {
	if len(b) != idLen+1 || b[idLen] >= chunk.Priorities {
		return u, malformed("RAISE of %d bytes, or with no priority", len(b))
	}
	copy(u.ID[:], b)
	u.Priority = chunk.Priority(b[idLen])
	return u, nil
}

// A Held is the payload of Hit and Part: what the descriptor leads to, and how it came
// there if somebody had to get it.
type Held struct {
	Size    uint32        // bytes of the object
	Checked uint32        // of them, from byte 0 on, that may be read; Size in a Hit
	Extract chunk.Extract // of which the object is; 0, as in a Part: the whole chunk
	Steps   []Step        // at most MaxSteps; none: it was there
}

// A Step is what the daemon asked another tier for.
type Step struct {
	Tier  chunk.Tier // chunk.Zone or chunk.Origin
	End   End
	Bytes uint32 // that have come from it
	Ago   uint32 // µs from its begin to the answer
	Took  uint32 // µs; of one that goes on: so far
}

// An End is how a step ended.
type End uint8

// How.
const (
	Lacked End = 0 // the tier did not have the chunk
	Had    End = 1 // it had, or has sent some of it
	Failed End = 2 // anything else
)

const (
	// MaxSteps is how many steps an answer tells of.
	MaxSteps = 8
	heldLen  = 16
	stepLen  = 16
)

// Append appends the encoded payload to b.
func (h Held) Append(b []byte) []byte {
	b = le.AppendUint32(le.AppendUint32(b, h.Size), h.Checked)
	b = le.AppendUint64(b, uint64(h.Extract))
	for _, s := range h.Steps[:min(len(h.Steps), MaxSteps)] {
		b = append(b, byte(s.Tier), byte(s.End), 0, 0)
		b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, s.Bytes), s.Ago), s.Took)
	}
	return b
}

// ParseHeld is the inverse of [Held.Append].
func ParseHeld(b []byte) (Held, error) {
	if len(b) < heldLen || len(b) > heldLen+MaxSteps*stepLen || (len(b)-heldLen)%stepLen != 0 {
		return Held{}, malformed("HIT or PART of %d bytes", len(b))
	}
	h := Held{Size: le.Uint32(b), Checked: le.Uint32(b[4:]), Extract: chunk.Extract(le.Uint64(b[8:]))}
	if h.Size == 0 || h.Size > chunk.MaxStoredSize || h.Checked > h.Size || h.Extract != 0 && h.Checked < h.Size {
		return Held{}, malformed("HIT or PART with %d bytes of %d", h.Checked, h.Size)
	}
	for b = b[heldLen:]; len(b) > 0; b = b[stepLen:] {
		s := Step{Tier: chunk.Tier(b[0]), End: End(b[1]), Bytes: le.Uint32(b[4:]), Ago: le.Uint32(b[8:]), Took: le.Uint32(b[12:])}
		if s.Tier != chunk.Zone && s.Tier != chunk.Origin || s.End > Failed || b[2]|b[3] != 0 ||
			s.Bytes > chunk.MaxStoredSize || s.Took > s.Ago {
			return Held{}, malformed("HIT or PART with step %x", b[:stepLen])
		}
		h.Steps = append(h.Steps, s)
	}
	return h, nil
}

// A Daemon is the payload of Self.
type Daemon struct {
	Process uint32
	Since   uint64 // Unix time, in seconds
	Version string // cut to MaxVersion bytes
}

const selfLen = 12

// Append appends the encoded payload to b.
func (d Daemon) Append(b []byte) []byte {
	b = le.AppendUint64(le.AppendUint32(b, d.Process), d.Since)
	return append(b, d.Version[:min(len(d.Version), MaxVersion)]...)
}

// ParseDaemon is the inverse of [Daemon.Append].
func ParseDaemon(b []byte) (Daemon, error) {
	if len(b) < selfLen || len(b) > selfLen+MaxVersion {
		return Daemon{}, malformed("SELF of %d bytes", len(b))
	}
	return Daemon{le.Uint32(b), le.Uint64(b[4:]), string(b[selfLen:])}, nil
}

// A Right is the payload of Lease.
type Right struct {
	Lease  uint64
	Millis uint32 // until Fetch, Deposit or Renew
}

// Append appends the encoded payload to b.
func (r Right) Append(b []byte) []byte { return le.AppendUint32(le.AppendUint64(b, r.Lease), r.Millis) }

// ParseRight is the inverse of [Right.Append].
func ParseRight(b []byte) (Right, error) {
	if len(b) != 12 {
		return Right{}, malformed("LEASE of %d bytes", len(b))
	}
	return Right{le.Uint64(b), le.Uint32(b[8:])}, nil
}

// AppendNumber appends the payload of Abandon, Renew and Scrub.
func AppendNumber(b []byte, n uint64) []byte { return le.AppendUint64(b, n) }

// ParseNumber is the inverse of [AppendNumber].
func ParseNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, malformed("number of %d bytes", len(b))
	}
	return le.Uint64(b), nil
}

// A Field is one field of an HTTP header.
type Field struct{ Name, Value string }

// An Errand is the payload of Fetch: an origin.Request for a leased chunk.
type Errand struct {
	Lease  uint64
	Offset uint64 // where the object begins in what URL names
	Length uint32 // bytes of the object; 0: all that URL names
	URL    string
	Fields []Field
}

// Append appends the encoded payload to b, or fails for an errand beyond the
// bounds.
func (e *Errand) Append(b []byte) ([]byte, error) {
	if len(e.URL) > MaxURL || len(e.Fields) > MaxFields || e.Offset > 1<<62 {
		return b, malformed("FETCH: an address of %d bytes, %d fields, offset %d", len(e.URL), len(e.Fields), e.Offset)
	}
	begin := len(b)
	b = le.AppendUint64(b, e.Lease)
	b = le.AppendUint64(b, e.Offset)
	b = le.AppendUint32(b, e.Length)
	b = le.AppendUint16(b, uint16(len(e.Fields)))
	b = appendText(b, e.URL)
	for _, f := range e.Fields {
		if len(f.Name)+len(f.Value) > MaxField {
			return b[:begin], malformed("FETCH: a field of %d bytes", len(f.Name)+len(f.Value))
		}
		b = appendText(appendText(b, f.Name), f.Value)
	}
	if len(b)-begin > MaxPayload {
		return b[:begin], malformed("FETCH of %d bytes", len(b)-begin)
	}
	return b, nil
}

func appendText(b []byte, s string) []byte { return append(le.AppendUint16(b, uint16(len(s))), s...) }

// ParseErrand is the inverse of [Errand.Append].
func ParseErrand(b []byte) (e Errand, err error) {
	if len(b) < 22 {
		return e, malformed("FETCH of %d bytes", len(b))
	}
	e.Lease, e.Offset, e.Length = le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[16:])
	n := int(le.Uint16(b[20:]))
	if n > MaxFields || e.Length > chunk.MaxStoredSize || e.Offset > 1<<62 {
		return e, malformed("FETCH: %d fields, %d bytes at %d", n, e.Length, e.Offset)
	}
	b = b[22:]
	take := func(most int) (s string) {
		if err != nil {
			return ""
		}
		if len(b) < 2 || len(b)-2 < int(le.Uint16(b)) || int(le.Uint16(b)) > most {
			err = malformed("FETCH: a text is cut or too long")
			return ""
		}
		end := 2 + int(le.Uint16(b))
		s, b = string(b[2:end]), b[end:]
		return s
	}
	e.URL = take(MaxURL)
	for range n {
		f := Field{take(MaxField), take(MaxField)}
		if len(f.Name)+len(f.Value) > MaxField {
			err = malformed("FETCH: a field of %d bytes", len(f.Name)+len(f.Value))
		}
		e.Fields = append(e.Fields, f)
	}
	if err == nil && len(b) > 0 {
		err = malformed("FETCH: %d bytes too many", len(b))
	}
	return e, err
}

// A Piece is the payload of Deposit.
type Piece struct {
	Lease uint64
	Size  uint32 // bytes of the object
	Off   uint32 // where Data belongs: where the last piece ended
	Data  []byte // of the message
}

// Append appends the encoded payload to b.
func (p *Piece) Append(b []byte) []byte {
	b = le.AppendUint64(b, p.Lease)
	b = le.AppendUint32(b, p.Size)
	b = le.AppendUint32(b, p.Off)
	return append(b, p.Data...)
}

// ParsePiece is the inverse of [Piece.Append]. Data is a part of b.
func ParsePiece(b []byte) (Piece, error) {
	if len(b) <= 16 || len(b) > 16+MaxPiece {
		return Piece{}, malformed("DEPOSIT of %d bytes", len(b))
	}
	p := Piece{le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:]), b[16:]}
	if p.Size > chunk.MaxStoredSize || p.Off > p.Size || uint32(len(p.Data)) > p.Size-p.Off {
		return Piece{}, malformed("DEPOSIT of %d bytes at %d of %d", len(p.Data), p.Off, p.Size)
	}
	return p, nil
}

// A Reason says why there is a Miss or Fail.
type Reason uint8

// Why.
const (
	Waited   Reason = 1 // Miss: it took too long
	NoRoom   Reason = 2 // Miss: the cache cannot take the chunk
	NoOrigin Reason = 3 // Miss: nobody's request brought it
	Busy     Reason = 4 // Miss or Fail: too much is under way
	Closing  Reason = 5 // Miss: the daemon ends
	Internal Reason = 6 // Miss or Fail: the daemon's disk, or memory

	NoLease  Reason = 16 // Fail: the lease is not yours, or not any more
	Corrupt  Reason = 17 // Fail: a deposit is not what its name promises
	Refused  Reason = 18 // Fail: you may not do that
	NotHeld  Reason = 19 // Fail: there is no such chunk in the cache
	InUse    Reason = 20 // Fail: somebody reads or pinned it
	WrongUse Reason = 21 // Fail: not now, or not so
)

// A Refusal is the payload of Miss and Fail.
type Refusal struct {
	Reason Reason
	Text   string // for people; cut to MaxText bytes
}

// Append appends the encoded payload to b.
func (r Refusal) Append(b []byte) []byte {
	return append(append(b, byte(r.Reason)), r.Text[:min(len(r.Text), MaxText)]...)
}

// ParseRefusal is the inverse of [Refusal.Append].
func ParseRefusal(b []byte) (Refusal, error) {
	if len(b) < 1 || len(b) > 1+MaxText {
		return Refusal{}, malformed("MISS or FAIL of %d bytes", len(b))
	}
	return Refusal{Reason(b[0]), string(b[1:])}, nil
}

// AppendIDs appends the payload of what names chunks.
func AppendIDs(b []byte, ids ...chunk.ID) []byte {
	for i := range ids {
		b = append(b, ids[i][:]...)
	}
	return b
}

// ParseID is the inverse of [AppendIDs] for one.
func ParseID(b []byte) (id chunk.ID, err error) {
	if len(b) != idLen {
		return id, malformed("chunk ID of %d bytes", len(b))
	}
	copy(id[:], b)
	return id, nil
}

// ParseIDs is the inverse of [AppendIDs].
func ParseIDs(b []byte) ([]chunk.ID, error) {
	if len(b)%idLen != 0 || len(b) > MaxIDs*idLen {
		return nil, malformed("chunk IDs of %d bytes", len(b))
	}
	ids := make([]chunk.ID, len(b)/idLen)
	for i := range ids {
		copy(ids[i][:], b[i*idLen:])
	}
	return ids, nil
}

// AppendNumbers appends the payload of Statistics and Scrubbed.
func AppendNumbers(b []byte, list ...uint64) []byte {
	for _, n := range list {
		b = le.AppendUint64(b, n)
	}
	return b
}

// ParseNumbers is the inverse of [AppendNumbers].
func ParseNumbers(b []byte) ([]uint64, error) {
	if len(b)%8 != 0 || len(b) > 8*MaxStats {
		return nil, malformed("numbers of %d bytes", len(b))
	}
	list := make([]uint64, len(b)/8)
	for i := range list {
		list[i] = le.Uint64(b[8*i:])
	}
	return list, nil
}

// An Entry is what Listed says of a chunk.
type Entry struct {
	ID     chunk.ID
	Size   uint32 // bytes of the object
	Pinned bool
}

// AppendEntries appends the payload of Listed.
func AppendEntries(b []byte, list []Entry) []byte {
	for i := range list {
		e := &list[i]
		b = le.AppendUint32(append(b, e.ID[:]...), e.Size)
		pinned := byte(0)
		if e.Pinned {
			pinned = 1
		}
		b = append(b, pinned)
	}
	return b
}

// ParseEntries is the inverse of [AppendEntries].
func ParseEntries(b []byte) ([]Entry, error) {
	if len(b)%entryLen != 0 || len(b) > MaxListed*entryLen {
		return nil, malformed("LISTED of %d bytes", len(b))
	}
	list := make([]Entry, len(b)/entryLen)
	for i := range list {
		e := b[i*entryLen:]
		copy(list[i].ID[:], e)
		list[i].Size = le.Uint32(e[idLen:])
		if e[idLen+4] > 1 {
			return nil, malformed("LISTED: flag %d", e[idLen+4])
		}
		list[i].Pinned = e[idLen+4] == 1
	}
	return list, nil
}
