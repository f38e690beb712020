package packages

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// TestFetchSilent: a server that stops sending is left, and asked again.
func TestFetchSilent(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	patience = 200 * time.Millisecond
	content := []byte("a wheel")
	var asked atomic.Int64
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch asked.Add(1) {
		case 1: // says nothing
			<-hang
		case 2: // stops in the middle
			w.Header().Set("Content-Length", "7")
			_, _ = w.Write(content[:3])
			w.(http.Flusher).Flush()
			<-hang
		default:
			_, _ = w.Write(content)
		}
	}))
	defer s.Close()
	defer close(hang)
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	path, err := c.fetch(t.Context(), s.URL+"/a.whl", "a.whl", hex.EncodeToString(sum[:]), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); string(got) != string(content) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	asked.Store(-2)
	other := sha256.Sum256([]byte("never sent"))
	if _, err := c.fetch(t.Context(), s.URL+"/b.whl", "b.whl", hex.EncodeToString(other[:]), nil); err == nil || errors.Is(err, errSilent) {
		t.Errorf("another file than was asked for: %v", err)
	}
}
