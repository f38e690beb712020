// Package control is how commands speak with the agent: a few requests of HTTP and
// JSON over a unix socket that its user alone may use (mode 0600, and the peer's
// user is asked for).
//
//	POST   /v1/attach            {"attach": [SPEC…]} → {"attachments": [INFO…]}; all or none
//	POST   /v1/find              {"find": QUERY} → FOUND: a published image; nothing is attached
//	GET    /v1/attachments       → {"attachments": [INFO…]}
//	DELETE /v1/attachments/ID    ?force=1&wait=SECONDS → 204
//	GET    /v1/attachments/ID/wait → 204 once the attachment has ended
//	GET    /v1/attachments/ID/slow → SLOW: its slow reads, summed up by tier, and the newest
//	POST   /v1/attachments/ID/mark → 204: its start is over, and remembered
//	POST   /v1/attachments/ID/fill {"pause": BOOL} → 204: the fill of its disk pauses, or goes on
//	GET    /v1/agent             → AGENT: version, process, since when
//	GET    /v1/stores            → {"stores": [STORE…]}: whether they answer, within 5 s
//	POST   /v1/attachments/ID/snapshot → {"snapshot": TOKEN, "size": N, "info": INFO}, a line [OFFSET, LENGTH, ZERO]
//	                             for each range that was written, {"error": TEXT}; it lasts until the client hangs up
//	GET    /v1/snapshots/TOKEN   → its bytes; ranges, as HTTP has them
//	POST   /v1/upgrade           → {"pid": N}: another process serves from now on
//	GET    /healthz              → 200 "ok", or 503 with what is not well
//
// SPEC, INFO, QUERY, FOUND, SLOW and STORE are host.Spec, Info, Query, Found, Slow and StoreHealth; AGENT is an Agent.
// An error is {"error": TEXT, "kind": KIND} with a status of 4xx or 5xx.
package control

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/host"
)

// maxBody bounds a request, in bytes.
const maxBody = 4 << 20

type attachRequest struct {
	Attach []host.Spec `json:"attach"`
}

type findRequest struct {
	Find host.Query `json:"find"`
}

type reachRequest struct {
	Reach []string `json:"reach"`
}

type fillRequest struct {
	Pause bool `json:"pause"`
}

type attachments struct {
	Attachments []host.Info `json:"attachments"`
}

// An Agent tells of the process that answers.
type Agent struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"` // when it began to answer
}

type stores struct {
	Stores []host.StoreHealth `json:"stores"`
}

// Upgraded tells of the process that took an agent over.
type Upgraded struct {
	PID int `json:"pid"`
}

// An Error is an error of the agent's, as it arrives.
type Error struct {
	Text string `json:"error"`
	Kind string `json:"kind,omitempty"`
}

// Error returns what the agent said.
func (e *Error) Error() string { return e.Text }

// Is lets callers ask for the errors that keep their meaning on the way.
func (e *Error) Is(target error) bool {
	for _, k := range kinds {
		if k.err == target {
			return k.name == e.Kind
		}
	}
	return false
}

// kinds are the errors that keep their meaning on the way.
var kinds = []struct {
	name   string
	err    error
	status int
}{
	{"unknown attachment", host.ErrNotFound, http.StatusNotFound},
	{"busy", host.ErrBusy, http.StatusConflict},
	{"closed", host.ErrClosed, http.StatusServiceUnavailable},
	{"unknown image", chunk.ErrNotFound, http.StatusNotFound},
	{"forbidden", fs.ErrPermission, http.StatusInternalServerError},
}

// specKind is the kind of a host.SpecError.
const specKind = "spec"

// refuse answers with err.
func refuse(w http.ResponseWriter, err error) {
	e := Error{Text: err.Error()}
	status := http.StatusInternalServerError
	if errors.As(err, new(host.SpecError)) {
		e.Kind, status = specKind, http.StatusBadRequest
	}
	for _, k := range kinds {
		if e.Kind == "" && errors.Is(err, k.err) {
			e.Kind, status = k.name, k.status
		}
	}
	answer(w, status, &e)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked may have gone
}
