package control

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/rivuletfs/rivulet/host"
)

// snapshotHead is the first line of a snapshot.
type snapshotHead struct {
	Token string    `json:"snapshot"`
	Size  int64     `json:"size"` // bytes
	Info  host.Info `json:"info"`
}

// A Range is a part of a disk that was written to.
type Range struct {
	Offset, Length int64 // bytes
	Zero           bool  // it reads as zeros
}

// MarshalJSON implements [json.Marshaler], as [OFFSET, LENGTH, ZERO].
func (r Range) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d,%t]", r.Offset, r.Length, r.Zero), nil
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (r *Range) UnmarshalJSON(b []byte) error {
	list := [3]any{&r.Offset, &r.Length, &r.Zero}
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	if len(parts) != len(list) {
		return fmt.Errorf("range %.100s: want 3 elements", b)
	}
	for i, p := range parts {
		if err := json.Unmarshal(p, list[i]); err != nil {
			return err
		}
	}
	return nil
}

// snapshotEnd is the last line: all ranges were told, if there is no error.
type snapshotEnd struct {
	Error *string `json:"error"`
}

// snapshot freezes a disk as long as its client stays.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) {
	snap, err := s.Host.Snapshot(r.Context(), r.PathValue("id"))
	if err != nil {
		refuse(w, err)
		return
	}
	token := rand.Text()
	s.snapshots.Store(token, snap)
	defer func() {
		s.snapshots.Delete(token)
		_ = snap.Close() // nobody is there who could be told; it is merged with the next
	}()
	out := bufio.NewWriter(w)
	lines := json.NewEncoder(out)
	err = lines.Encode(snapshotHead{token, snap.Size(), snap.Info})
	if err == nil {
		var failed error
		err = snap.Changed(r.Context(), func(off, length int64, zero bool) bool {
			failed = lines.Encode(Range{off, length, zero})
			return failed == nil
		})
		err = errors.Join(err, failed)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	_ = lines.Encode(snapshotEnd{&text})
	_ = out.Flush()
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func (s *Server) readSnapshot(w http.ResponseWriter, r *http.Request) {
	snap, ok := s.snapshots.Load(r.PathValue("token"))
	if !ok {
		refuse(w, fmt.Errorf("snapshot: %w", host.ErrNotFound))
		return
	}
	d := snap.(*host.Snapshot)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(d, 0, d.Size()))
}

// A Snapshot is a disk of an agent as it was at one moment. Any number of reads
// may run at once.
type Snapshot struct {
	Info    host.Info // of the attachment
	Size    int64     // bytes
	Changed []Range   // what was written to, in order

	client *Client
	ctx    context.Context // ends with the snapshot
	token  string
	hangUp context.CancelFunc
	held   io.Closer
}

// Snapshot freezes the disk of an attachment; see Host.Snapshot. The caller closes
// it, which lets the agent go on as before.
func (c *Client) Snapshot(ctx context.Context, id string) (*Snapshot, error) {
	ctx, hangUp := context.WithCancel(ctx)
	resp, err := c.ask(ctx, http.MethodPost, "/v1/attachments/"+url.PathEscape(id)+"/snapshot", nil, nil)
	if err != nil {
		hangUp()
		return nil, err
	}
	s := &Snapshot{client: c, ctx: ctx, hangUp: hangUp, held: resp.Body}
	if err := s.read(resp.Body); err != nil {
		s.Close()
		return nil, fmt.Errorf("agent at %s: snapshot of %s: %w", c.socket, id, err)
	}
	return s, nil
}

// read reads what the agent says first.
func (s *Snapshot) read(r io.Reader) error {
	lines := json.NewDecoder(r)
	var head snapshotHead
	if err := lines.Decode(&head); err != nil {
		return err
	}
	s.token, s.Size, s.Info = head.Token, head.Size, head.Info
	for {
		var line json.RawMessage
		if err := lines.Decode(&line); err != nil {
			return err
		}
		if line[0] == '[' {
			var one Range
			if err := json.Unmarshal(line, &one); err != nil {
				return err
			}
			s.Changed = append(s.Changed, one)
			continue
		}
		var end snapshotEnd
		if err := json.Unmarshal(line, &end); err != nil || end.Error == nil {
			return fmt.Errorf("unexpected line %.100s: %w", line, err)
		}
		if *end.Error != "" {
			return errors.New(*end.Error)
		}
		return nil
	}
}

// ReadAt reads from the agent, of the whole range or nothing.
func (s *Snapshot) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.Size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), s.Size-off)]
	ask := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+int64(len(want))-1)}}
	resp, err := s.client.ask(s.ctx, http.MethodGet, "/v1/snapshots/"+s.token, nil, ask)
	if err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusPartialContent {
		return 0, fmt.Errorf("read snapshot: agent says %s", resp.Status)
	}
	n, err := io.ReadFull(resp.Body, want)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Close ends the snapshot.
func (s *Snapshot) Close() {
	s.hangUp()
	_ = s.held.Close()
}
