package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
)

const (
	recordVersion  = 1
	maxRecordBytes = 1 << 20
	recordSuffix   = ".json"
	newPrefix      = ".new-" // of files that are not whole yet
)

// A record is an attachment's file.
type record struct {
	Version int             `json:"version"`
	ID      string          `json:"id"`
	Spec    Spec            `json:"spec"`
	Image   string          `json:"digest"` // of the block map; what is attached, whatever the name means later
	Disk    string          `json:"disk"`   // digest of the disk
	Size    int64           `json:"size"`   // bytes
	Since   time.Time       `json:"since"`
	State   json.RawMessage `json:"state,omitempty"` // the frontend's
	Kept    *Kept           `json:"kept,omitempty"`  // nil: nothing; an older version wrote it
}

func (r *record) check(name string) error {
	switch {
	case r.Version != recordVersion:
		return fmt.Errorf("version %d, want %d", r.Version, recordVersion)
	case r.ID+recordSuffix != name || !validID(r.ID):
		return fmt.Errorf("it says that it is %q", r.ID)
	case r.Size < 0 || r.Image == "":
		return errors.New("without an image, or of negative size")
	}
	return r.Spec.check()
}

func validID(id string) bool {
	return id != "" && len(id) <= 32 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// A folder keeps records, one file each. Of a nil folder nothing outlives the
// process.
type folder struct {
	path string
	dir  *os.File // the same, to sync
	lock *os.File
	maps keptMaps

	naming sync.Mutex // held while a file gets a name
}

// add keeps an attachment: the block map of its image, then its record.
func (f *folder) add(r *record, m *blockmap.Map) error {
	if f == nil {
		return nil
	}
	err := f.keepMap(m, r.ID)
	if err == nil {
		if err = f.write(r); err != nil {
			f.dropMap(r.Image, r.ID)
		}
	}
	return err
}

// write replaces the record's file; it is there after a power cut, too.
func (f *folder) write(r *record) error {
	if f == nil {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err == nil && len(b) >= maxRecordBytes {
		err = SpecErrorf("more than %d bytes, which nobody would read again", maxRecordBytes)
	}
	if err == nil {
		err = f.replace(r.ID+recordSuffix, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep attachment %s: %w", r.ID, err)
	}
	return nil
}

// replace replaces a file, or makes it. Many at once wait for the disk together, but get
// their names one after the other, as they would in the kernel, where those that wait
// for a folder keep processors busy.
func (f *folder) replace(name string, data []byte) error {
	f.naming.Lock()
	tmp, err := os.CreateTemp(f.path, newPrefix+"*") // mode 0600
	f.naming.Unlock()
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		f.naming.Lock()
		err = os.Rename(tmp.Name(), filepath.Join(f.path, name))
		f.naming.Unlock()
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return f.dir.Sync()
}

// remove removes a record, and then the block map of its image if that was the last
// of it. One that is not there is no error.
func (f *folder) remove(id, image string) error {
	if f == nil {
		return nil
	}
	err := os.Remove(filepath.Join(f.path, id+recordSuffix))
	if err == nil {
		err = f.dir.Sync()
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("forget attachment %s: %w", id, err)
	}
	f.dropMap(image, id)
	return nil
}

// clean removes what a process that was killed had begun to write. It is for who
// has the lock.
func (f *folder) clean() error {
	if f == nil {
		return nil
	}
	left, err := f.files(newPrefix, "")
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// files returns the paths of what is in the folder whose names begin and end so.
func (f *folder) files(prefix, suffix string) (paths []string, err error) {
	entries, err := os.ReadDir(f.path)
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			paths = append(paths, filepath.Join(f.path, name))
		}
	}
	return paths, err
}

// load reads all records. Those that cannot be read are left as they are; bad
// says why, for each. Another process may be writing and removing some.
func (f *folder) load() (all []*record, bad []error, err error) {
	if f == nil {
		return nil, nil, nil
	}
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return nil, nil, fmt.Errorf("read attachments: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), recordSuffix) {
			continue
		}
		path := filepath.Join(f.path, e.Name())
		r, err := readRecord(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // detached just now
		}
		if err == nil {
			err = r.check(e.Name())
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("attachment file %s: %w", path, err))
			continue
		}
		all = append(all, r)
	}
	return all, bad, nil
}

func readRecord(path string) (*record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(io.LimitReader(file, maxRecordBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxRecordBytes {
		return nil, fmt.Errorf("more than %d bytes", maxRecordBytes)
	}
	return parseRecord(b)
}

func parseRecord(b []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	return r, nil
}
