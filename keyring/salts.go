package keyring

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/seal"
)

// ErrSalt is returned (wrapped) for a salt that is not the one seen before.
var ErrSalt = errors.New("the store offers another salt than before")

// CheckSalt compares a salt that a store gave with those that it gave before, and
// remembers it. store is the store's URL, without secrets. ErrSalt is a second salt
// of one epoch, one of an epoch before the last that was seen, and one of a later
// epoch for which descends is false: it is asked whether the salt was made by
// holders of the one with that ID (domain.Descends), and its errors are returned.
//
// Whoever may write to a store could otherwise choose the salt, and then read what
// is published by way of its segment records.
func (f *Folder) CheckSalt(store string, s *seal.Salt, descends func(from blockmap.SaltID) (bool, error)) error {
	id := s.ID()
	mine := saltLine{store, s.Domain(), s.Epoch(), fmt.Sprintf("%x", id[:])}
	seen, err := f.salts()
	if err != nil {
		return err
	}
	var last saltLine // of those of this store and domain
	for _, l := range seen {
		if l.store != mine.store || l.domain != mine.domain {
			continue
		}
		if l.epoch == mine.epoch && l.id != mine.id {
			return f.otherSalt(mine, l)
		}
		if l.epoch >= last.epoch {
			last = l
		}
	}
	switch {
	case last == mine:
		return nil
	case last.epoch > mine.epoch:
		return f.otherSalt(mine, last)
	case last.id != "":
		from, err := catalog.ParseSaltID(last.id)
		ok := false
		if err == nil {
			ok, err = descends(from)
		}
		if err != nil {
			return err
		}
		if !ok {
			return f.otherSalt(mine, last)
		}
	}
	return f.appendSalt(mine)
}

func (f *Folder) otherSalt(now, before saltLine) error {
	return fmt.Errorf("%s: salt domain %s: epoch %d with salt %s, seen before: epoch %d with salt %s: %w; if somebody made the store anew, take the line out of %s",
		now.store, now.domain, now.epoch, now.id, before.epoch, before.id, ErrSalt, f.file(saltsFile))
}

// KeepSalt remembers a salt that this user has made for a domain that was not
// there, whatever was seen before: nobody else has chosen it. It reports whether
// anything was: then somebody made the store anew, or took the domain away.
func (f *Folder) KeepSalt(store string, s *seal.Salt) (again bool, err error) {
	seen, err := f.salts()
	if err != nil {
		return false, err
	}
	again = slices.ContainsFunc(seen, func(l saltLine) bool { return l.store == store && l.domain == s.Domain() })
	id := s.ID()
	return again, f.appendSalt(saltLine{store, s.Domain(), s.Epoch(), fmt.Sprintf("%x %s", id[:], madeWord)})
}

// madeWord ends a line that makes those before it, of its store and domain, void.
const madeWord = "made"

// A saltLine is a line of the file: four words, and perhaps madeWord.
type saltLine struct {
	store, domain string
	epoch         uint32
	id            string
}

func (l saltLine) String() string {
	return fmt.Sprintf("%s %s %d %s\n", url.PathEscape(l.store), l.domain, l.epoch, l.id)
}

func (f *Folder) salts() ([]saltLine, error) {
	file, err := os.Open(f.file(saltsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	if err := ownersAlone(file); err != nil {
		return nil, err
	}
	var list []saltLine
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		bad := fmt.Errorf("%s: line %d: want store, domain, epoch and salt", file.Name(), n)
		if len(words) < 4 || len(words) > 5 || len(words) == 5 && words[4] != madeWord {
			return nil, bad
		}
		store, err := url.PathUnescape(words[0])
		epoch, err2 := strconv.ParseUint(words[2], 10, 32)
		if err != nil || err2 != nil {
			return nil, bad
		}
		if len(words) == 5 {
			list = slices.DeleteFunc(list, func(l saltLine) bool { return l.store == store && l.domain == words[1] })
		}
		list = append(list, saltLine{store, words[1], uint32(epoch), words[3]})
	}
	return list, lines.Err()
}

// appendSalt adds a line, in one write: several processes may add at once, and a
// line that stands twice does no harm.
func (f *Folder) appendSalt(l saltLine) error {
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(f.file(saltsFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(l.String())
	return errors.Join(err, file.Close())
}
