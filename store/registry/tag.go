package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/rivuletfs/rivulet/origin"
)

// Tags have at most maxTag characters: letters, digits and "_.-". Ours use no
// capitals, since registries sort, and some may compare, without case.
const (
	maxTag    = 128
	tagEscape = '_' // before two hexadecimal digits, for any other byte

	tagPrefix = "rivulet-"
	plainTag  = "p-" // what follows is the pointer's name
	hashTag   = "h-" // what follows is how the name begins, and its SHA-256
)

// generationPrefix begins all tags of a generation.
func generationPrefix(id origin.GenerationID) string { return tagPrefix + "g" + id.String() + "-" }

// generationOf returns the generation that a tag belongs to.
func generationOf(tag string) (origin.GenerationID, bool) {
	rest, ok := strings.CutPrefix(tag, tagPrefix+"g")
	digits, _, ok2 := strings.Cut(rest, "-")
	id, err := origin.ParseGenerationID(digits)
	return id, ok && ok2 && err == nil
}

// escape writes a name in the characters of a tag, one way.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%c%02x", tagEscape, c)
		}
	}
	return b.String()
}

// unescape is the inverse of escape. It may accept more.
func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != tagEscape {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		raw, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.WriteByte(raw[0])
		i += 2
	}
	return b.String(), true
}

// pointerTag returns the tag of a pointer: its name, if it fits.
func pointerTag(prefix, name string) string {
	if tag := prefix + plainTag + escape(name); len(tag) <= maxTag {
		return tag
	}
	sum := sha256.Sum256([]byte(name))
	return prefix + hashTag + hashHead(prefix, name) + "-" + hex.EncodeToString(sum[:])
}

// hashHead returns how a long name begins, as far as there is room for it in a
// tag.
func hashHead(prefix, name string) string {
	head := escape(name)
	return head[:min(len(head), maxTag-len(prefix)-len(hashTag)-1-2*sha256.Size)]
}

// pointerName returns the name that a tag says by itself.
func pointerName(prefix, tag string) (string, bool) {
	escaped, ok := strings.CutPrefix(tag, prefix+plainTag)
	if !ok {
		return "", false
	}
	name, ok := unescape(escaped)
	return name, ok && origin.ValidName(name) == nil && pointerTag(prefix, name) == tag
}

// mayBegin reports whether the name behind a tag of the other form may begin
// with start.
func mayBegin(prefix, tag, start string) bool {
	rest, ok := strings.CutPrefix(tag, prefix+hashTag)
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 0 {
		return false
	}
	head, want := rest[:i], escape(start)
	return strings.HasPrefix(head, want) || strings.HasPrefix(want, head)
}
