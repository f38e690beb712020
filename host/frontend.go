package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/profile"
)

// Errors that callers branch on.
var (
	// ErrNotFound says that there is no such attachment.
	ErrNotFound = errors.New("no such attachment")
	// ErrClosed says that the host is being closed, or handed over.
	ErrClosed = errors.New("the host is closed")
	// ErrBusy says that a disk is in use and was not detached.
	ErrBusy = errors.New("the disk is in use")
	// ErrGone is how a Frontend says that what it was to go on with is over:
	// somebody has unmounted it. The attachment is over, too.
	ErrGone = errors.New("what was offered is gone")
)

// A SpecError says what is wrong with a Spec: a user's mistake.
type SpecError struct{ error }

// SpecErrorf returns a SpecError.
func SpecErrorf(format string, args ...any) error { return SpecError{fmt.Errorf(format, args...)} }

// Unwrap returns the error inside.
func (e SpecError) Unwrap() error { return e.error }

// A Spec says what to attach and where. It is kept on disk, so it has no secrets:
// keys are named by the paths of their files.
type Spec struct {
	Image    string `json:"image"`    // name or digest
	Store    string `json:"store"`    // URL; paths in it are absolute
	Frontend string `json:"frontend"` // one of Config.Frontends
	Where    string `json:"where"`    // an address, or an absolute directory, as the frontend has it
	Name     string `json:"name"`     // of the export or the file
	// Identities open what is locked: paths of files, ARNs; none: the host's own.
	Identities []string `json:"identities,omitempty"`
	// Required are public keys, one of which must have signed the image.
	Required []string `json:"required,omitempty"`
	// TLS, if set, is what clients of the address must use.
	TLS *TLS `json:"tls,omitempty"`
	// Overlay, if set, makes the disk one that can be written.
	Overlay *Overlay `json:"overlay,omitempty"`
	// Workload is what is started from the disk, by whose profile is read ahead;
	// empty: what the image starts by itself.
	Workload string `json:"workload,omitempty"`
	// Profile says what is done about the start; empty: ProfileOn.
	Profile ProfileUse `json:"profile,omitempty"`
	// Neighbours says to read ahead of a start that there is no profile of by what lies
	// behind what it reads.
	Neighbours bool `json:"neighbours,omitempty"`
	// Fill, if set, has all of the disk brought to the host cache.
	Fill *Fill `json:"fill,omitempty"`
}

// TLS names the PEM files that a server uses.
type TLS struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	ClientCA    string `json:"client_ca,omitempty"`
}

// Bounds of a Spec.
const (
	maxText = 4096 // bytes of one text
	maxList = 64   // identities, keys
)

func (s *Spec) check() error {
	if s.Image == "" || s.Store == "" || s.Where == "" {
		return SpecErrorf("attach: image, store and where must be given")
	}
	texts := append([]string{s.Image, s.Store, s.Frontend, s.Where, s.Name}, s.Identities...)
	if t := s.TLS; t != nil {
		texts = append(texts, t.Certificate, t.Key, t.ClientCA)
	}
	for _, t := range append(texts, s.Required...) {
		if len(t) > maxText || strings.ContainsRune(t, 0) {
			return SpecErrorf("attach: a text is longer than %d bytes, or has a NUL", maxText)
		}
		if strings.Contains(strings.ToUpper(t), "AGE-SECRET-KEY-") {
			return SpecErrorf("attach: a secret key, where the file of one is wanted")
		}
	}
	if len(s.Identities) > maxList || len(s.Required) > maxList {
		return SpecErrorf("attach: more than %d identities or keys", maxList)
	}
	if err := profile.CheckWorkload(s.Workload); err != nil {
		return SpecErrorf("attach: %w", err)
	}
	return errors.Join(s.Profile.check(), s.Fill.check(), s.Overlay.check())
}

// A Frontend offers disks in one way. Any number of calls may run at once, but
// for Release. package host/frontends has them.
type Frontend interface {
	// Offer shows a disk. With Again in o, an earlier process offered it, and
	// this one takes over what that left: from the descriptors it inherited if
	// it can, else by beginning anew. The error is ErrGone if there is nothing
	// to go on with because it was ended on purpose.
	Offer(ctx context.Context, o Offer) (Offered, error)
	// Begin lets clients in to everything offered so far. It is called after
	// each batch of Offers, so that no client finds only some of them.
	Begin() error
	// Release ends serving and leaves everything as it is for the next process:
	// what has been read is answered, or will be sent again. It returns the
	// descriptors, the caller's. What it cannot end within ctx it cuts off.
	// Offers after that go on anew.
	Release(ctx context.Context) ([]keep.Descriptor, error)
}

// An Offer is a disk to show.
type Offer struct {
	ID          string // of the attachment: short, of letters and digits
	Where       string // as in Spec
	Name        string
	TLS         *TLS
	Disk        string          // names the content; equal ones promise equal bytes
	Description string          // for people
	Device      blockdev.Device // stays open until the Offered has ended; a blockdev.Writer if it can be written
	Room        int64           // bytes that may be written to files of a mount; 0: all that are free
	State       json.RawMessage // of the earlier Offered; nil: it had saved none
	Again       bool            // an earlier process has begun to offer it: it may have left things
	Inherited   *keep.Inherited // what that process left; nil: nothing
	// Save keeps what the next process will need as State. Each call replaces
	// what was kept before. It returns when that would outlive a power cut.
	Save func(state json.RawMessage) error
}

// An Offered is one disk that is shown.
type Offered interface {
	// Address is where it is, as clients say it: a URI, a directory.
	Address() string
	// Done is closed when it has ended by itself, with Err as the reason: nil if
	// somebody did so on purpose. It is not closed by Detach or Release.
	Done() <-chan struct{}
	Err() error
	// Detach ends it and returns when the device is no longer used. If it is in
	// use, Detach waits for that to end, as long as ctx, and then returns
	// ErrBusy with nothing changed; or, with force, takes it away from its users.
	Detach(ctx context.Context, force bool) error
}

// AbsoluteDir reports, by a nil error, that Where is an absolute directory, for
// frontends that want one.
func (o *Offer) AbsoluteDir() error {
	if !filepath.IsAbs(o.Where) {
		return SpecErrorf("attach: directory %q is not absolute", o.Where)
	}
	return nil
}
