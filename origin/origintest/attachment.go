package origintest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

func testObjectList(t *testing.T, s origin.Store) {
	ctx := context.Background()
	want := map[origin.Digest]int64{}
	for _, data := range []string{"", "one", "another"} {
		d, err := s.PutObject(ctx, []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		want[d] = int64(len(data))
	}
	check := func() {
		t.Helper()
		n := 0
		err := s.ListObjects(ctx, func(d origin.Digest, size int64) error {
			n++
			if have, ok := want[d]; !ok || size != have {
				t.Errorf("listed %v of %d bytes, want %d, %v", d, size, have, ok)
			}
			return nil
		})
		if err != nil || n != len(want) {
			t.Errorf("ListObjects told of %d, %v; want %d", n, err, len(want))
		}
	}
	check()
	gone := origin.Sum([]byte("one"))
	for range 2 { // what is gone may be removed again
		if err := s.RemoveObject(ctx, gone); err != nil {
			t.Fatalf("RemoveObject: %v", err)
		}
	}
	delete(want, gone)
	check()
	if _, err := s.GetObject(ctx, gone, 10); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("GetObject of a removed one: %v; want ErrNotFound", err)
	}
}

// attachments returns what s has of a kind, sorted.
func attachments(t *testing.T, s origin.Attachments, subject origin.Digest, kind string) []string {
	t.Helper()
	var got []string
	err := s.ListAttachments(context.Background(), subject, kind, func(data []byte) error {
		got = append(got, string(data))
		clear(data) // it is the caller's
		return nil
	})
	if err != nil {
		t.Fatalf("ListAttachments %s of %v: %v", kind, subject, err)
	}
	slices.Sort(got)
	return got
}

func attach(t *testing.T, s origin.Attachments, subject origin.Digest, kind, data string) {
	t.Helper()
	b := []byte(data)
	if err := s.Attach(context.Background(), subject, kind, b); err != nil {
		t.Fatalf("Attach %s to %v: %v", kind, subject, err)
	}
	clear(b) // the store must not have kept it
}

func testAttachments(t *testing.T, s origin.Store) {
	there, err := s.PutObject(context.Background(), []byte("a subject"))
	if err != nil {
		t.Fatal(err)
	}
	absent := origin.Sum([]byte("not there"))
	for _, subject := range []origin.Digest{there, absent} {
		if got := attachments(t, s, subject, "note"); len(got) != 0 {
			t.Errorf("a new store lists %q", got)
		}
		attach(t, s, subject, "note", "b")
		attach(t, s, subject, "note", "a")
		attach(t, s, subject, "note", "a")
		attach(t, s, subject, "note-2", "c")
		attach(t, s, subject, "n", "")
		for kind, want := range map[string][]string{"note": {"a", "b"}, "note-2": {"c"}, "n": {""}, "not": nil} {
			for range 2 {
				if got := attachments(t, s, subject, kind); !slices.Equal(got, want) {
					t.Errorf("attachments %s = %q, want %q", kind, got, want)
				}
			}
		}
	}
	stop := errors.New("stop")
	calls := 0
	err = s.ListAttachments(context.Background(), there, "note", func([]byte) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("ListAttachments = %v after %d calls; want fn's error after 1", err, calls)
	}
}

func testAttachmentLimits(t *testing.T, s origin.Store) {
	ctx, subject := context.Background(), origin.Sum([]byte("subject"))
	most := string(make([]byte, origin.MaxAttachmentBytes))
	attach(t, s, subject, "most", most)
	if got := attachments(t, s, subject, "most"); len(got) != 1 || got[0] != most {
		t.Errorf("the largest attachment came back as %d", len(got))
	}
	if err := s.Attach(ctx, subject, "over", make([]byte, origin.MaxAttachmentBytes+1)); err == nil {
		t.Error("an attachment over the limit is taken")
	}
	for _, kind := range []string{"", "A", "1a", "-a", "a/b", "..", "a b", "abcdefghijklmnopqrstuvwxyz0123456"} {
		if err := s.Attach(ctx, subject, kind, nil); err == nil {
			t.Errorf("kind %q is taken", kind)
		}
		if err := s.ListAttachments(ctx, subject, kind, func([]byte) error { return nil }); err == nil {
			t.Errorf("kind %q is listed", kind)
		}
	}
}
