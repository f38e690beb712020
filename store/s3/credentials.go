package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// metadataTimeout bounds a request to the metadata service of a cloud machine,
// which elsewhere nobody answers.
const metadataTimeout = 5 * time.Second

// ErrNoCredentials is returned (wrapped) when credentials are found nowhere.
var ErrNoCredentials = errors.New("no credentials found")

// A keyring gets credentials from the first of the usual places that has some,
// and remembers the secrets among them, so that they can be kept out of texts.
type keyring struct {
	profile string
	places  []namedProvider

	// Of the last retrieval; credentials.Credentials locks.
	found bool
	renew time.Time // zero: never

	mu      sync.Mutex
	secrets []string // all that were ever returned
}

type namedProvider struct {
	name string
	credentials.Provider
}

// newKeyring looks in the environment, in the shared files, and where the
// platform gives out roles (web identity, containers, machines); with a profile
// in the shared files alone.
func newKeyring(profile string) *keyring {
	k := &keyring{profile: profile}
	files := namedProvider{"shared credentials file", &credentials.FileAWSCredentials{Profile: profile}}
	if profile != "" {
		files.name = fmt.Sprintf("profile %q", profile)
		k.places = []namedProvider{files}
		return k
	}
	k.places = []namedProvider{{"environment", &credentials.EnvAWS{}}, files}
	if !strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") || givenRole() {
		role := &credentials.IAM{Client: &http.Client{Timeout: metadataTimeout}}
		k.places = append(k.places, namedProvider{"role of this machine", role})
	}
	return k
}

// givenRole reports whether the platform says where it gives out a role.
func givenRole() bool {
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

// RetrieveWithCredContext implements credentials.Provider.
func (k *keyring) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var tried []string
	for _, p := range k.places {
		v, err := p.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			k.found, k.renew = true, renewal(v.Expiration)
			k.remember(v)
			return v, nil
		}
		if cc != nil && cc.Context != nil && cc.Context.Err() != nil {
			return credentials.Value{}, cc.Context.Err()
		}
		tried = append(tried, p.name)
	}
	return credentials.Value{}, fmt.Errorf("%w in %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "+
		"add profile=NAME for one of ~/.aws/credentials, or anonymous=true for a bucket that is open to all",
		ErrNoCredentials, strings.Join(tried, ", "))
}

// Retrieve implements credentials.Provider.
func (k *keyring) Retrieve() (credentials.Value, error) {
	return k.RetrieveWithCredContext(&credentials.CredContext{Context: context.Background()})
}

// IsExpired implements credentials.Provider. (The providers' own answer is of no
// use: the one of files says so of everything that does not expire.)
func (k *keyring) IsExpired() bool {
	return !k.found || !k.renew.IsZero() && time.Now().After(k.renew)
}

// renewal returns when to renew what expires at some time: a little earlier.
func renewal(expires time.Time) time.Time {
	if expires.IsZero() {
		return expires
	}
	return expires.Add(-min(5*time.Minute, time.Until(expires)/5))
}

func (k *keyring) remember(v credentials.Value) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range []string{v.SecretAccessKey, v.SessionToken} {
		if s != "" {
			k.secrets = append(k.secrets, s)
		}
	}
	const most = 16 // of renewed ones
	k.secrets = k.secrets[max(0, len(k.secrets)-most):]
}

// maxText is how much is shown of what a server says, in bytes.
const maxText = 300

// clean makes a server's text fit to be shown: on one line, not long, and
// without the secrets that it may repeat.
func (k *keyring) clean(text string) string {
	if k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, s := range k.secrets {
			text = strings.ReplaceAll(text, s, "[secret]")
		}
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return strings.TrimSpace(text)
}
