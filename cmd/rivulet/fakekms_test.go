package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// kmsKey is the key that a fakeKMS has.
const kmsKey = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// A fakeKMS is an AWS KMS with one key, that answers below /ok as it should, and
// below /CODE with the error CODE. seal/kmswrap has one that checks requests.
type fakeKMS struct {
	mu    sync.Mutex
	plain map[string][]byte // data keys by what they are encrypted as
}

// startKMS returns the URL of a fakeKMS that listens until end is called.
func startKMS() (url string, end func()) {
	s := httptest.NewServer(&fakeKMS{plain: map[string][]byte{}})
	return s.URL, s.Close
}

func (k *fakeKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if code := strings.Trim(r.URL.Path, "/"); code != "ok" {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"__type":%q,"message":"at %s"}`, code, time.Now().Format(time.RFC3339))
		return
	}
	var in struct{ CiphertextBlob []byte }
	_ = json.NewDecoder(r.Body).Decode(&in)
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".GenerateDataKey") {
		plain := make([]byte, 32)
		_, _ = rand.Read(plain)
		in.CiphertextBlob = []byte(rand.Text())
		k.plain[string(in.CiphertextBlob)] = plain
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": kmsKey, "CiphertextBlob": in.CiphertextBlob, "Plaintext": k.plain[string(in.CiphertextBlob)]})
}
