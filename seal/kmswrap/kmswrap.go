// Package kmswrap wraps image keys by AWS Key Management Service.
//
// Each wrapping asks KMS for a fresh data key (GenerateDataKey) and encrypts the
// image key with it, once, by AES-256-GCM; what is stored is the data key as KMS
// encrypted it, and the image key as the data key did. So KMS never sees an
// image key, a map can be wrapped for any number of KMS keys beside other
// recipients, and publishers need the permission kms:GenerateDataKey alone,
// readers kms:Decrypt alone.
//
// The encryption context of both calls is {"rivulet-image": digest of the
// source image's manifest}: what an administrator knows an image by. Key
// policies can ask for it, and CloudTrail shows it. The digest of the block map
// is bound too, as additional data of the GCM, so that a key that was moved to
// another map is refused without KMS having to know the map.
//
// Credentials come from where AWS's own tools find them: environment, shared
// configuration, single sign-on, web identity, container or instance roles.
package kmswrap

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/rivuletfs/rivulet/seal"
)

// Kind is the kind of attachment that wrapped keys are stored as.
const Kind = "aws-kms"

// contextKey is the one entry's name in the encryption context.
const contextKey = "rivulet-image"

// DefaultAttempts is how often a call is tried, with growing random pauses.
const DefaultAttempts = 5

// Options say how KMS is reached. The zero value uses what the environment says.
type Options struct {
	Region   string // of keys that are not named by an ARN; "": AWS_REGION or the profile's
	Endpoint string // URL of KMS; "": AWS's for the region
	Attempts int    // of each call; 0: DefaultAttempts
}

// clients has a client of KMS for each region.
type clients struct {
	config aws.Config

	mu     sync.Mutex // guards region
	region map[string]*kms.Client
}

func newClients(ctx context.Context, o Options) (*clients, error) {
	if o.Attempts == 0 {
		o.Attempts = DefaultAttempts
	}
	load := []func(*config.LoadOptions) error{config.WithRetryMaxAttempts(o.Attempts)}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Endpoint != "" {
		load = append(load, config.WithBaseEndpoint(o.Endpoint))
	}
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	return &clients{config: c, region: map[string]*kms.Client{}}, nil
}

// maxRegions bounds the clients that hostile wrapped keys can make.
const maxRegions = 64

// arnParts is the form of a key's or an alias's ARN. It is strict: the region
// becomes a part of the name of the host that is asked.
var arnParts = regexp.MustCompile(`^arn:aws(?:-[a-z]+)*:kms:([a-z0-9]+(?:-[a-z0-9]+)*):[0-9]{12}:(?:key|alias)/[A-Za-z0-9/_-]+$`)

// of returns the client for the region of a key.
func (c *clients) of(key string) (*kms.Client, error) {
	region := c.config.Region
	if strings.HasPrefix(key, "arn:") {
		a := arnParts.FindStringSubmatch(key)
		if a == nil {
			return nil, fmt.Errorf("KMS key %.200q: want arn:aws:kms:REGION:ACCOUNT:key/ID", key)
		}
		region = a[1]
	}
	if region == "" {
		return nil, fmt.Errorf("KMS key %.200q: in which region? name it by its ARN, or set AWS_REGION", key)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	client := c.region[region]
	if client == nil {
		if len(c.region) >= maxRegions {
			return nil, fmt.Errorf("KMS key %.200q: keys in more than %d regions", key, maxRegions)
		}
		client = kms.NewFromConfig(c.config, func(o *kms.Options) { o.Region = region })
		c.region[region] = client
	}
	return client, nil
}

// A Wrapper wraps image keys for whoever may decrypt with one KMS key. Any
// number of goroutines may use one.
type Wrapper struct {
	key    string
	client *kms.Client
}

var _ seal.Wrapper = (*Wrapper)(nil)

// NewWrapper returns the Wrapper for a symmetric KMS key, named by ARN, alias ARN
// or, in the region of o, ID or alias. It asks KMS nothing yet.
func NewWrapper(ctx context.Context, key string, o Options) (*Wrapper, error) {
	c, err := newClients(ctx, o)
	if err != nil {
		return nil, err
	}
	client, err := c.of(key)
	if err != nil {
		return nil, err
	}
	return &Wrapper{key: key, client: client}, nil
}

// Kind implements seal.Wrapper.
func (*Wrapper) Kind() string { return Kind }

// String returns the key's name as it was given.
func (w *Wrapper) String() string { return w.key }

// Wrap implements seal.Wrapper.
func (w *Wrapper) Wrap(ctx context.Context, key seal.ImageKey, about seal.About) ([]byte, error) {
	out, err := w.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &w.key, KeySpec: types.DataKeySpecAes256, EncryptionContext: encryptionContext(about),
	})
	if err != nil {
		return nil, explain("make a data key", w.key, err)
	}
	defer clear(out.Plaintext)
	if len(out.Plaintext) != 32 || out.KeyId == nil {
		return nil, fmt.Errorf("make a data key with KMS key %s: the answer has no 256-bit key, or no key's name", w.key)
	}
	e := envelope{key: *out.KeyId, dataKey: out.CiphertextBlob}
	return e.seal([32]byte(out.Plaintext), key, about)
}

// An Unwrapper reads image keys that were wrapped for KMS keys that the
// credentials may use. Any number of goroutines may use one.
type Unwrapper struct {
	keys    []string
	clients *clients
}

var _ seal.Unwrapper = (*Unwrapper)(nil)

// NewUnwrapper returns the Unwrapper for the KMS keys of these ARNs. Without
// any, it asks whatever key a wrapped key names, in whosever account: KMS then
// tells the owner of that key who asked. It asks KMS nothing yet.
func NewUnwrapper(ctx context.Context, o Options, keys ...string) (*Unwrapper, error) {
	for _, key := range keys {
		if !arnParts.MatchString(key) {
			return nil, fmt.Errorf("KMS key %.200q: want its ARN, arn:aws:kms:REGION:ACCOUNT:key/ID", key)
		}
	}
	c, err := newClients(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Unwrapper{keys: slices.Clone(keys), clients: c}, nil
}

// Kind implements seal.Unwrapper.
func (*Unwrapper) Kind() string { return Kind }

// Unwrap implements seal.Unwrapper.
func (u *Unwrapper) Unwrap(ctx context.Context, data []byte, about seal.About) (seal.ImageKey, error) {
	e, err := parse(data)
	if err != nil {
		return seal.ImageKey{}, fmt.Errorf("image key of %v by KMS: %w", about.Map, err)
	}
	if len(u.keys) > 0 && !slices.Contains(u.keys, e.key) {
		return seal.ImageKey{}, fmt.Errorf("image key of %v by KMS key %q: %w", about.Map, e.key, seal.ErrNotRecipient)
	}
	client, err := u.clients.of(e.key)
	if err != nil {
		return seal.ImageKey{}, fmt.Errorf("image key of %v: %w", about.Map, err)
	}
	out, err := client.Decrypt(ctx, &kms.DecryptInput{
		CiphertextBlob: e.dataKey, KeyId: &e.key, EncryptionContext: encryptionContext(about),
	})
	if err != nil {
		return seal.ImageKey{}, fmt.Errorf("image key of %v: %w", about.Map, explain("decrypt", e.key, err))
	}
	defer clear(out.Plaintext)
	if len(out.Plaintext) != 32 {
		return seal.ImageKey{}, fmt.Errorf("image key of %v: KMS key %s gave %d bytes, want 32", about.Map, e.key, len(out.Plaintext))
	}
	key, err := e.open([32]byte(out.Plaintext), about)
	if err != nil {
		return seal.ImageKey{}, fmt.Errorf("image key of %v by KMS key %s: %w", about.Map, e.key, err)
	}
	return key, nil
}

func encryptionContext(about seal.About) map[string]string {
	return map[string]string{contextKey: about.Source.String()}
}
