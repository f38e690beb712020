package keyring

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
)

// maxSeenBytes bounds what is read, and kept, of the file.
const maxSeenBytes = 64 << 10

// Seen returns what this user last published into in a store: the salt of the domain,
// and the generation. It is a guess at what is so now, and good for nothing but to ask
// early; what cannot be read is not known.
func (f *Folder) Seen(store, domain string) (salt blockmap.SaltID, generation uint32, ok bool) {
	salts, err := f.salts()
	if err != nil {
		return salt, 0, false
	}
	var last saltLine
	for _, l := range salts {
		if l.store == store && l.domain == domain && l.epoch >= last.epoch {
			last = l
		}
	}
	salt, err = catalog.ParseSaltID(last.id)
	lines, readErr := f.generations()
	if err != nil || readErr != nil {
		return salt, 0, false
	}
	i := slices.IndexFunc(lines, func(l seenLine) bool { return l.store == store })
	if i < 0 {
		return salt, 0, false
	}
	return salt, lines[i].generation, true
}

// See remembers the generation that this user has published into in a store. Of
// several who do so at once, one may be forgotten.
func (f *Folder) See(store string, generation uint32) error {
	lines, err := f.generations()
	if err != nil {
		return err
	}
	now := seenLine{store, generation}
	if len(lines) > 0 && slices.Contains(lines, now) {
		return nil
	}
	lines = slices.DeleteFunc(lines, func(l seenLine) bool { return l.store == store })
	var b strings.Builder
	for _, l := range append([]seenLine{now}, lines...) { // the newest first
		line := l.String()
		if b.Len()+len(line) > maxSeenBytes {
			break
		}
		b.WriteString(line)
	}
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(f.path, generationsFile+".*")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(b.String())
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), f.file(generationsFile))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(temp.Name()))
	}
	return err
}

// A seenLine is a line of the file: a store's address and the generation.
type seenLine struct {
	store      string
	generation uint32
}

func (l seenLine) String() string {
	return url.PathEscape(l.store) + " " + strconv.FormatUint(uint64(l.generation), 10) + "\n"
}

// generations reads the file. Lines that make no sense are passed over: they are made
// anew.
func (f *Folder) generations() ([]seenLine, error) {
	file, err := os.Open(f.file(generationsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	var list []seenLine
	for lines := bufio.NewScanner(io.LimitReader(file, maxSeenBytes)); lines.Scan(); {
		escaped, number, _ := strings.Cut(lines.Text(), " ")
		store, err := url.PathUnescape(escaped)
		n, err2 := strconv.ParseUint(number, 10, 32)
		if err == nil && err2 == nil {
			list = append(list, seenLine{store, uint32(n)})
		}
	}
	return list, nil
}
