package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRecordIsReadAgain keeps nothing that could not be brought back.
func TestRecordIsReadAgain(t *testing.T) {
	s := newSite(t)
	h := s.start()
	big := &record{Version: recordVersion, ID: "ab", Image: "x", Spec: Spec{Image: "x", Store: "x", Where: "x", Identities: long(maxList)}}
	if err := h.folder.write(big); err == nil {
		t.Error("kept what is too large to be read")
	}
	if all, bad, err := h.folder.load(); len(all)+len(bad) != 0 || err != nil {
		t.Errorf("%d records, %v, %v", len(all), bad, err)
	}
}

// TestRecover starts a second host on the first one's folder: all is offered as it
// was, pinned to what was attached, though the name means another image by now.
func TestRecover(t *testing.T) {
	s := newSite(t)
	h := s.start()
	before := s.attach(h, spec("tree", "a"), spec("tree", "b"))
	s.close(h)
	if len(s.records()) != 2 {
		t.Fatalf("%d records are left, want 2", len(s.records()))
	}
	s.publish("tree", "two")
	h = s.start()
	eventually(t, "the disks to open", func() bool { return states(h)[Ready] == 2 })
	after := h.List()
	for i := range after {
		if after[i].ID != before[i].ID || after[i].Digest != before[i].Digest || after[i].Address != before[i].Address {
			t.Errorf("was %+v, is %+v", before[i], after[i])
		}
	}
	o, n := s.front.last("a")
	var state map[string]string
	if err := json.Unmarshal(o.State, &state); n != 2 || !o.Again || err != nil || state["where"] != "a" {
		t.Errorf("offered %d times, the last time with %s, again %v, %v", n, o.State, o.Again, err)
	}
	if got := readFile(t, o); got != strings.Repeat("one", 1000) {
		t.Error("reads another image")
	}
	s.attach(h, spec("tree", "c"))
	if o, _ := s.front.last("c"); readFile(t, o) != strings.Repeat("two", 1000) {
		t.Error("a new attachment reads the old image")
	}
}

// TestRecoverWithoutStore offers what is attached before its disk can be opened,
// by a record of an older version: reads wait, and get their bytes.
func TestRecoverWithoutStore(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"))
	h = s.restartWithoutStore(h)
	if n := states(h); n[Opening] != 1 {
		t.Fatalf("states %v, want one opening", n)
	}
	eventually(t, "the problem to be told", func() bool { return strings.Contains(h.List()[0].Problem, errBroken.Error()) })
	o, _ := s.front.last("a")
	read := make(chan string)
	go func() { read <- readFile(t, o) }()
	select {
	case <-read:
		t.Fatal("read without a store")
	case <-time.After(20 * time.Millisecond):
	}
	s.broken.Store(0)
	if got := <-read; got != strings.Repeat("one", 1000) {
		t.Error("wrong bytes")
	}
	eventually(t, "no problem", func() bool { i := h.List()[0]; return i.State == Ready && i.Problem == "" })
	s.close(h)
	s.broken.Store(-1)
	h = s.start()
	eventually(t, "what opens the image to be kept from then on", func() bool { return states(h)[Ready] == 1 })
}

// TestRecoverRetries tries again what its frontend fails to offer, and brings back
// the others at once.
func TestRecoverRetries(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "good"), spec("tree", "bad"), spec("tree", "gone"))
	s.close(h)
	s.front.fail = map[string]error{"bad": errBroken, "gone": ErrGone}
	s.front.failures = -1
	h = s.start()
	eventually(t, "what is gone to be forgotten", func() bool { return len(h.List()) == 2 && len(s.records()) == 2 })
	eventually(t, "several attempts", func() bool { _, n := s.front.last("bad"); return n > 4 })
	if n := states(h); n[Waiting] != 1 || s.front.at("good") == nil {
		t.Errorf("states %v; want one ready, one waiting", n)
	}
	s.front.mu.Lock()
	begins := s.front.begins
	s.front.failures = 0
	s.front.mu.Unlock()
	eventually(t, "all to be ready", func() bool { return states(h)[Ready] == 2 })
	eventually(t, "clients to be let in", func() bool {
		s.front.mu.Lock()
		defer s.front.mu.Unlock()
		return s.front.begins > begins
	})
}

// TestBadRecords leaves files that it cannot read as they are, and says so.
func TestBadRecords(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"))
	s.close(h)
	good, err := os.ReadFile(s.records()[0])
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"torn.json":    good[:len(good)/2],
		"empty.json":   nil,
		"other.json":   good,
		"version.json": bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 2`), 1),
		"large.json":   bytes.Repeat([]byte(" "), maxRecordBytes+1),
		".new-1234":    good,
	}
	for name, b := range bad {
		if err := os.WriteFile(filepath.Join(s.state, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h = s.start()
	if n := len(h.List()); n != 1 {
		t.Errorf("%d attachments, want 1", n)
	}
	for name, b := range bad {
		got, err := os.ReadFile(filepath.Join(s.state, name))
		if temporary := strings.HasPrefix(name, "."); temporary != errors.Is(err, os.ErrNotExist) || !temporary && !bytes.Equal(got, b) {
			t.Errorf("%s: changed, or not removed: %v", name, err)
		}
	}
	if _, err := s.bare().Prepare(t.Context()); err == nil {
		t.Error("a host prepares to take over what it cannot read")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"ab","digest":"sha256:00","size":1,"spec":{"image":"a","store":"s","where":"w"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil || r.check(r.ID+recordSuffix) != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := parseRecord(again); err != nil || r2.ID != r.ID || r2.check(r.ID+recordSuffix) != nil {
			t.Errorf("%s is not read again: %v", again, err)
		}
	})
}
