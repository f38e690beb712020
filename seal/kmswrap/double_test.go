package kmswrap

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// A double is a KMS of one account that keeps data keys in memory. It checks
// requests as KMS does: signature, operation, key, context.
type double struct {
	*httptest.Server
	t    *testing.T
	keys map[string]string // ARNs by what a key may be called

	mu      sync.Mutex // guards what follows
	blobs   map[string]dataKey
	fail    []answer // given first, in order
	calls   map[string]int
	regions map[string]int // of the signatures
}

// A dataKey is what the double encrypted.
type dataKey struct {
	key     string
	plain   []byte
	context map[string]string
}

// An answer is an error of KMS.
type answer struct {
	status int
	code   string
	text   string
}

const (
	keyARN   = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	otherARN = "arn:aws:kms:us-east-2:111122223333:key/99999999-12ab-34cd-56ef-1234567890ab"
	accessID = "AKIDEXAMPLEEXAMPLE00"
	secretID = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00"
)

func newDouble(t *testing.T) *double {
	t.Helper()
	d := &double{
		t: t, blobs: map[string]dataKey{}, calls: map[string]int{}, regions: map[string]int{},
		keys: map[string]string{keyARN: keyARN, otherARN: otherARN, "alias/rivulet": keyARN, strings.Replace(keyARN, "key/1234abcd-12ab-34cd-56ef-1234567890ab", "alias/rivulet", 1): keyARN},
	}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessID, "AWS_SECRET_ACCESS_KEY": secretID, "AWS_SESSION_TOKEN": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CA_BUNDLE": "",
	} {
		t.Setenv(name, value)
	}
	return d
}

func (d *double) options() Options { return Options{Endpoint: d.URL} }

func (d *double) count(op string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[op]
}

// failNext makes the next calls fail.
func (d *double) failNext(n int, a answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = nil
	for range n {
		d.fail = append(d.fail, a)
	}
}

// signature is what AWS signature version 4 looks like.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=` + accessID + `/\d{8}/([a-z0-9-]+)/kms/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}$`)

type request struct {
	KeyId             string
	KeySpec           string
	CiphertextBlob    []byte
	EncryptionContext map[string]string
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	op, isKMS := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	d.calls[op]++
	sig := signature.FindStringSubmatch(r.Header.Get("Authorization"))
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	switch {
	case r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.1":
		d.t.Errorf("%s of %q", r.Method, r.Header.Get("Content-Type"))
	case !isKMS:
		d.t.Errorf("target %q", r.Header.Get("X-Amz-Target"))
	case sig == nil || r.Header.Get("X-Amz-Date") == "":
		d.t.Errorf("authorization %q: no signature", r.Header.Get("Authorization"))
	case !strings.Contains(";"+sig[2]+";", ";x-amz-target;") || !strings.Contains(";"+sig[2]+";", ";host;"):
		d.t.Errorf("signed headers %q: without host or target", sig[2])
	case err != nil || strings.Contains(string(body), secretID):
		d.t.Errorf("body: %v, or the secret access key is in it", err)
	}
	if d.t.Failed() {
		d.answer(w, answer{400, "ValidationException", "the double refuses"})
		return
	}
	d.regions[sig[1]]++
	if len(d.fail) > 0 {
		a := d.fail[0]
		d.fail = d.fail[1:]
		d.answer(w, a)
		return
	}
	var q request
	if err := json.Unmarshal(body, &q); err != nil {
		d.answer(w, answer{400, "SerializationException", err.Error()})
		return
	}
	d.serve(w, op, sig[1], &q)
}

func (d *double) serve(w http.ResponseWriter, op, region string, q *request) {
	key, ok := d.keys[q.KeyId]
	if a, err := arn.Parse(key); !ok || err != nil || a.Region != region {
		d.answer(w, answer{400, "NotFoundException", "no such key in " + region})
		return
	}
	switch op {
	case "GenerateDataKey":
		if q.KeySpec != "AES_256" {
			d.answer(w, answer{400, "ValidationException", "key spec " + q.KeySpec})
			return
		}
		k := dataKey{key: key, plain: make([]byte, 32), context: q.EncryptionContext}
		blob := make([]byte, 184)
		_, _ = rand.Read(k.plain)
		_, _ = rand.Read(blob)
		d.blobs[string(blob)] = k
		d.json(w, map[string]string{"KeyId": key, "Plaintext": base64.StdEncoding.EncodeToString(k.plain), "CiphertextBlob": base64.StdEncoding.EncodeToString(blob)})
	case "Decrypt":
		k, ok := d.blobs[string(q.CiphertextBlob)]
		switch {
		case !ok || !maps.Equal(k.context, q.EncryptionContext):
			d.answer(w, answer{400, "InvalidCiphertextException", ""})
		case k.key != key:
			d.answer(w, answer{400, "IncorrectKeyException", "another key"})
		default:
			d.json(w, map[string]string{"KeyId": key, "Plaintext": base64.StdEncoding.EncodeToString(k.plain)})
		}
	default:
		d.answer(w, answer{400, "UnknownOperationException", op})
	}
}

func (d *double) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		d.t.Error(err)
	}
}

func (d *double) answer(w http.ResponseWriter, a answer) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "11111111-2222-3333-4444-555555555555")
	w.WriteHeader(a.status)
	_, _ = fmt.Fprintf(w, `{"__type":%q,"message":%q}`, a.code, a.text)
}
