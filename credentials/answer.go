package credentials

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// What an answer is good for.
const (
	keyImage    = "Image"    // the very repository
	keyRegistry = "Registry" // all of that host
	keyGlobal   = "Global"   // all that the plugin is asked for
)

// maxLogins bounds the logins of one answer.
const maxLogins = 1024

// A response is what a plugin says.
type response struct {
	Kind         string  `json:"kind"`
	APIVersion   string  `json:"apiVersion"`
	CacheKeyType string  `json:"cacheKeyType"`
	Duration     *string `json:"cacheDuration"`
	Auth         map[string]struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"auth"`
}

// A parsedAnswer has its logins by their patterns, the most particular first.
type parsedAnswer struct {
	key      string
	duration *time.Duration // nil: the usual one
	logins   []matchingLogin
}

// parseAnswer reads what a plugin said that was asked in that version. Its errors show
// nothing of it, as there are secrets in it.
func parseAnswer(b []byte, version string) (*parsedAnswer, error) {
	var r response
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, errors.New("its answer is not JSON of the form that was asked for")
	}
	if r.Kind != "CredentialProviderResponse" || r.APIVersion != version {
		return nil, fmt.Errorf("its answer is no CredentialProviderResponse of %s", version)
	}
	a := &parsedAnswer{key: r.CacheKeyType}
	if a.key != keyImage && a.key != keyRegistry && a.key != keyGlobal {
		return nil, errors.New("its answer's cacheKeyType is none of Image, Registry and Global")
	}
	if r.Duration != nil {
		d, err := time.ParseDuration(*r.Duration)
		if err != nil || d < 0 {
			return nil, errors.New("its answer's cacheDuration is no time")
		}
		a.duration = &d
	}
	if len(r.Auth) > maxLogins {
		return nil, fmt.Errorf("its answer has more than %d logins", maxLogins)
	}
	for text, login := range r.Auth {
		p, err := parsePattern(text)
		if err != nil { // which shows the pattern
			return nil, errors.New("its answer has a login for no host that can be read")
		}
		a.logins = append(a.logins, matchingLogin{p, authn.AuthConfig{Username: login.Username, Password: login.Password}})
	}
	// As the kubelet has it: "a.example.com/b" before "a.example.com", names before stars.
	slices.SortFunc(a.logins, func(x, y matchingLogin) int { return cmp.Compare(y.images.text, x.images.text) })
	return a, nil
}
