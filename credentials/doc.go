// Package credentials finds logins for registries that docker's configuration does
// not have: those that a kubelet was given with a pull, and those of the kubelet's
// credential-provider plugins.
//
//	kubelet ──PullImage──► image service proxy ──Pulls.Learn─┐
//	                                                          ▼
//	agent ──Client──unix socket──► Server ──► Keychain: Pulls, Plugins
//
// A lazily read image outlives the token that it was pulled with, so logins are looked for whenever a
// registry wants one, and those of plugins are asked for anew before they expire.
//
// A login of a pull is good for the very repository that was pulled: what one tenant
// may read is not lent to another.
package credentials

import (
	"context"

	"github.com/google/go-containerregistry/pkg/authn"
)

// A Keychain asks Pulls and Plugins, either of which may be nil. For as long as a
// login of a pull is new it comes first, as it has just been of use; after that one of a
// plugin does, which is renewed.
type Keychain struct {
	Pulls   *Pulls
	Plugins *Plugins
}

var (
	_ authn.Keychain        = Keychain{}
	_ authn.ContextKeychain = Keychain{}
)

// Resolve implements [authn.Keychain].
func (k Keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements [authn.ContextKeychain]. A repository that nobody has a
// login for is authn.Anonymous; so it is if a plugin fails, which is logged, as others may have
// one.
func (k Keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	if login := k.login(ctx, r.String()); login != nil {
		return authn.FromConfig(*login), nil
	}
	return authn.Anonymous, nil
}

// login returns the login for a repository, nil if there is none.
func (k Keychain) login(ctx context.Context, repository string) *authn.AuthConfig {
	pulled, isNew := k.Pulls.find(repository)
	if isNew {
		return pulled
	}
	if given := k.Plugins.find(ctx, repository); given != nil {
		return given
	}
	return pulled
}
