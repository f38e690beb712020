package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

var (
	// ErrUnauthorized is returned (wrapped) when the registry does not take our
	// credentials, or has none and wants some.
	ErrUnauthorized = errors.New("not logged in")
	// ErrDenied is returned (wrapped) when it knows us and does not let us.
	ErrDenied = errors.New("not allowed")
	// ErrNoDelete is returned (wrapped) when it deletes nothing.
	ErrNoDelete = errors.New("the registry does not delete")
	// ErrNoRanges is returned (wrapped) when it sends whole blobs only, and one
	// is too large to be read for the sake of a part.
	ErrNoRanges = errors.New("the registry ignores ranges")
	// ErrTooMany is returned (wrapped) when it went on refusing because of too
	// many requests.
	ErrTooMany = errors.New("too many requests")
	// ErrNotMounted is returned (wrapped) by Adopt when a pack cannot be mounted
	// from the other repository: its chunks have to be copied.
	ErrNotMounted = errors.New("not mounted")
	// ErrIndex is returned (wrapped) for a malformed index.
	ErrIndex = errors.New("malformed pack index")
	// ErrArtifact is returned (wrapped) for a manifest that is none of ours, which
	// is an origin.ErrCorrupt.
	ErrArtifact error = artifactError{}
)

type artifactError struct{}

func (artifactError) Error() string { return "unexpected manifest" }

// Is implements what errors.Is looks for.
func (artifactError) Is(target error) bool { return target == origin.ErrCorrupt }

const (
	maxErrorBytes = 64 << 10 // read of the text of an error
	maxCodeBytes  = 40       // of an error's code that is shown
)

// An Error is what a registry answered instead of what it was asked for. Its
// text has the status and the error's code, but nothing that the registry
// wrote freely, which may repeat a secret.
type Error struct {
	Registry   string
	Repository string
	Status     int    // of HTTP
	Code       string // as in the distribution specification; "" if there was none
	Method     string // of the request
}

func newError(repo name.Repository, resp *http.Response) *Error {
	e := &Error{Registry: repo.RegistryStr(), Repository: repo.RepositoryStr(), Status: resp.StatusCode}
	if resp.Request != nil {
		e.Method = resp.Request.Method
	}
	var body struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if b, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes)); err == nil && json.Unmarshal(b, &body) == nil && len(body.Errors) > 0 {
		e.Code = code(body.Errors[0].Code)
	}
	return e
}

// code returns s if it looks like the code of an error.
func code(s string) string {
	if len(s) > maxCodeBytes {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && c != '_' {
			return ""
		}
	}
	return s
}

func (e *Error) Error() string {
	what := fmt.Sprintf("%s: %d %s", e.Registry, e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		what += " (" + e.Code + ")"
	}
	switch is := e.Unwrap(); is {
	case ErrUnauthorized:
		return what + ": not logged in, or the login has expired: run docker login " + e.Registry
	case ErrDenied:
		return what + ": this login may not do that in repository " + e.Repository
	case ErrNoDelete:
		return what + ": the registry does not delete: its operator has to allow it (distribution: storage.delete.enabled)"
	case ErrTooMany:
		return what + ": the registry asks for fewer requests: try again later"
	case nil:
	default:
		return what + ": " + is.Error()
	}
	switch {
	case e.Code == "NAME_UNKNOWN":
		return what + ": there is no repository " + e.Repository
	case e.Status == http.StatusRequestEntityTooLarge:
		return what + ": the registry, or a proxy before it, takes no blob of that size: choose smaller packs"
	}
	return what
}

// Unwrap returns what the answer means, or nil.
func (e *Error) Unwrap() error {
	switch e.Status {
	case http.StatusUnauthorized:
		return ErrUnauthorized
	case http.StatusForbidden:
		return ErrDenied
	case http.StatusNotFound:
		if e.Method == http.MethodGet || e.Method == http.MethodHead || e.Method == http.MethodDelete {
			return chunk.ErrNotFound
		}
	case http.StatusTooManyRequests:
		return ErrTooMany
	case http.StatusMethodNotAllowed:
		if e.Method == http.MethodDelete {
			return ErrNoDelete
		}
	}
	if e.Method == http.MethodDelete && e.Code == "UNSUPPORTED" {
		return ErrNoDelete
	}
	return nil
}
