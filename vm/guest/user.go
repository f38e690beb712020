package guest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxAccounts bounds /etc/passwd and /etc/group, in bytes.
const maxAccounts = 8 << 20

// A User is whom a process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // all that it is in, beside GID
	Home     string   // "/" if the image has no such account
}

// FindUser finds a Process.User in an image's accounts, as container engines do: a
// number needs no account, and then has group 0 unless the text names one; groups
// beside the own come from the image only where the text names none.
func FindUser(root fs.FS, text string) (User, error) {
	name, group, hasGroup := strings.Cut(text, ":")
	if name == "" {
		name = "0"
	}
	u := User{Home: "/"}
	account, found, err := findLine(root, "etc/passwd", 7, 2, name)
	if err != nil {
		return u, fmt.Errorf("find user %q: %w", text, err)
	}
	switch {
	case found:
		uid, errUID := parseID(account[2])
		gid, errGID := parseID(account[3])
		if errUID != nil || errGID != nil {
			return u, fmt.Errorf("find user %q: its line in /etc/passwd has no numbers", text)
		}
		u.UID, u.GID = uid, gid
		if account[5] != "" {
			u.Home = account[5]
		}
	default:
		if u.UID, err = parseID(name); err != nil {
			return u, fmt.Errorf("find user %q: no such user in /etc/passwd of the image", text)
		}
	}
	if hasGroup && group != "" {
		u.GID, err = findGroup(root, group)
		if err != nil {
			return u, fmt.Errorf("find user %q: %w", text, err)
		}
		return u, nil
	}
	if found {
		u.Groups, err = groupsOf(root, account[0], u.GID)
	}
	return u, err
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n > math.MaxInt32 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

func findGroup(root fs.FS, group string) (uint32, error) {
	line, found, err := findLine(root, "etc/group", 4, 2, group)
	if err != nil {
		return 0, err
	}
	if found {
		return parseID(line[2])
	}
	gid, err := parseID(group)
	if err != nil {
		return 0, fmt.Errorf("no group %q in /etc/group of the image", group)
	}
	return gid, nil
}

// findLine returns the first line whose name is key, or else whose field number is.
func findLine(root fs.FS, file string, fields, number int, key string) (line []string, found bool, err error) {
	var numbered []string
	err = eachLine(root, file, fields, func(f []string) bool {
		if f[0] == key {
			line = f
			return false
		}
		if numbered == nil && f[number] == key {
			numbered = f
		}
		return true
	})
	if line == nil {
		line = numbered
	}
	return line, line != nil, err
}

// groupsOf returns the groups, but own, that list the user.
func groupsOf(root fs.FS, user string, own uint32) ([]uint32, error) {
	var list []uint32
	err := eachLine(root, "etc/group", 4, func(f []string) bool {
		gid, err := parseID(f[2])
		if err == nil && gid != own && slices.Contains(strings.Split(f[3], ","), user) {
			list = append(list, gid)
		}
		return true
	})
	return list, err
}

// eachLine calls fn for the lines that have so many fields, until it returns false.
// A file that is not there has no lines.
func eachLine(root fs.FS, file string, fields int, fn func([]string) bool) error {
	f, err := root.Open(file)
	if err != nil {
		return nil //nolint:nilerr // an image need not have accounts
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	s.Buffer(nil, maxLine)
	for s.Scan() {
		if parts := strings.Split(s.Text(), ":"); len(parts) == fields && parts[0] != "" && !fn(parts) {
			return nil
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("/%s: %w", file, err)
	}
	return nil
}
