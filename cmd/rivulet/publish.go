package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/domain"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/keyring"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/packages"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store"
)

// publishMemory is where the garbage collector begins to work harder, in bytes:
// what an image of a million files takes, without an equal share of garbage.
const publishMemory = 896 << 20

// boundMemory sets that limit, unless GOMEMLIMIT did. It is soft: a larger image
// takes more memory, and more time to collect garbage, and is not refused.
func boundMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(publishMemory)
	}
}

// processors has each processor run two threads, unless GOMAXPROCS says how many there
// are: those that wait for the disk to be synced then leave no processor without work
// until the Go runtime finds out. It returns how many sealers suit them: one each, and
// one for when another waits for memory, or for its turn.
var processors = sync.OnceValue(func() int {
	n := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * n)
	}
	return n + 1
})

// What --predict takes.
const (
	predictOn  = "on"
	predictOff = "off"
)

// farSample is how many chunks of each known layer are looked for in a far store.
const farSample = 2

// publishFlags are the flags that do not go into publish.Options as they are.
type publishFlags struct {
	size, platform, domain    string
	zone                      string
	recipients, files, trusts []string
	check, json               bool
	apart                     bool            // --packages-apart
	resolver                  string          // --resolver
	noRecords                 bool            // --no-records
	packages                  *packageSources // what opens those of the sources that are packages; nil: none is
	lock                      string          // file for the lock of the image's packages
	predict                   string          // --predict
	converted                 bool
	convertedTag              string
}

func (a *app) publishCommand() *cobra.Command {
	var opts publish.Options
	var flags publishFlags
	cmd := &cobra.Command{
		Use:   "publish SOURCE...",
		Short: "Turn an image into a disk in the store",
		Long: `Publish flattens an image into one ext4 disk, cuts it into chunks, encrypts
them, and stores those that the store does not have yet. A source is

  REFERENCE            an image in a registry (docker's credentials are used)
  oci:DIR[:TAG]        an image in an OCI image layout
  docker-archive:FILE  an image saved by docker
  dir:PATH             a folder
  tar:FILE             an archive, plain, gzip or zstd
  zip:FILE[@DIR]       a zip file, such as a function's, below DIR
  pip:SPEC             a Python package and what it needs, such as pip:'flask>=3'
  requirements:FILE    the packages that a file of requirements asks for
  pylock:FILE          those that a lock has (pylock.toml)
  wheel:FILE           one wheel, and nothing that it needs
  sdist:FILE           a source distribution, built in a sandbox
  npm:FILE[@DIR]       the npm packages of a package-lock.json or package.json

Several sources are stacked, the first at the bottom. A layer that the store
knows is not read again. Publish can be stopped at any time and run again.

The image is locked for you, and for whom --recipient names: an age or SSH
public key, or the ARN of an AWS KMS key. The first time, an identity and a key
to sign with are made in your configuration folder. With --open, whoever can
read the store can read the image.

Python packages are for the Python of the image below them, and are layers of
their own, each stored once. pip chooses them, in a sandbox; see 'rivulet
packages --help' and doc/functions.md. --lock writes what it chose to a file. A
package that you, or a trusted publisher, have installed on another host is taken
over from the store.

With --converted, an image of the repository that is the store too gets a
converted one beside it: an index that has the plain image, for whoever pulls it,
and its disk. The image's own tag and digest stay as they are. What other
platforms' images have there already stays. Whoever reads images reads it by its
address: 'rivulet serve oci://registry.example/app:1.2-rivulet'.

Layers compressed by gzip are decompressed by the program igzip, if it is in
PATH and they are large enough, in a third of the time. RIVULET_GUNZIP=igzip
wants it for every layer, RIVULET_GUNZIP=go for none: igzip is written in C and
assembly and runs as you, so choose go for images from strangers.`,
		Example: `  rivulet publish docker.io/library/python:3.12
  rivulet publish oci:./layout:python3 --name python3 --recipient age1...
  rivulet publish docker.io/library/debian:12 dir:./app --name app --open
  rivulet publish oci:./layout:python3 pip:'requests[socks]>=2.30,<3' zip:handler.zip@/var/task --name function
  rivulet publish registry.example/app:1.2 --store oci://registry.example/app --converted`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.parse(&opts); err != nil {
				return err
			}
			to, err := a.conversion(flags.converted, flags.convertedTag, args)
			if err != nil {
				return err
			}
			if flags.packages, err = a.openPackageSources(args, &flags, &opts); err != nil {
				return err
			}
			return a.publishShown(cmd.Context(), args, &flags, &opts, to)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Name, "name", "", "name to publish under (default: the source's own)")
	f.StringVar(&flags.size, "size", "", "size of the disk, such as 20G (default: room for twice the content, and 1 GiB more)")
	f.StringVar(&flags.platform, "platform", "", "platform to choose of several, such as linux/arm64 (default: this machine's)")
	f.StringVar(&opts.TempDir, "temp", "", "folder for layers while they are cut (default: the system's)")
	flags.lockFlags(f, &opts)
	f.BoolVar(&flags.check, "check", false, "look for every known chunk in a far store too, and store again what is missing")
	f.StringVar(&flags.zone, "prime-zone", "", "put the image's chunks into these cache servers too, as cached --zone takes them")
	f.BoolVar(&flags.converted, "converted", false, "in a registry: write an index of image and disk too, at the image's tag and -rivulet")
	f.StringVar(&flags.convertedTag, "converted-tag", "", "the same, at this tag")
	f.StringVar(&flags.lock, "lock", "", "write the lock of the image's packages to this file (pylock.toml)")
	flags.predictFlag(f)
	f.StringVar(&flags.resolver, "resolver", packages.Resolvers[0], "what chooses Python packages: pip or uv")
	f.BoolVar(&flags.noRecords, "no-records", false, "install packages here, whatever the store has records of")
	f.BoolVar(&flags.apart, "packages-apart", false, "put each package into /packages/NAME==VERSION, and a path file into site-packages")
	f.BoolVar(&flags.json, "json", false, "print the result as JSON, and progress as JSON lines to standard error")
	return cmd
}

// publishShown publishes an image, shows how that goes on and what came of it, and does
// what is wanted beside; to may be nil.
func (a *app) publishShown(ctx context.Context, srcs []string, flags *publishFlags, opts *publish.Options, to *conversion) error {
	boundMemory()
	opts.Workers = processors()
	z, err := a.primeZone(flags.zone)
	if err != nil {
		return err
	}
	defer z.close()
	bars := a.newProgress(flags.json)
	opts.Progress = bars.event
	soon := &expectation{app: a}
	if flags.predict == predictOn {
		opts.Preview, opts.Keep = soon.look, !a.near()
	}
	o, res, err := a.publish(ctx, srcs, flags, opts, a.openChosen)
	bars.end()
	if err != nil {
		return err
	}
	if flags.lock != "" {
		if err := a.writeLock(ctx, o, res, flags.lock); err != nil {
			return err
		}
	}
	p := publication{Result: res}
	if to != nil {
		if p.Converted, err = to.write(ctx, a.view(o), res.BlockMap); err != nil {
			return err
		}
	}
	p.Inherited = a.inheritAfter(ctx, o, res)
	if flags.predict == predictOn {
		p.Predicted = a.predictAfter(ctx, o, res, p.Inherited, soon)
	}
	p.Imports = a.importsAfter(ctx, o, &p, flags.packages)
	if err := a.published(&p, flags.json); err != nil {
		return err
	}
	return z.prime(ctx, o, res.BlockMap, flags.json)
}

// lockFlags adds the flags that say for whom an image is locked, and in which domain.
func (f *publishFlags) lockFlags(flags *pflag.FlagSet, opts *publish.Options) {
	flags.StringArrayVar(&f.recipients, "recipient", nil, "lock the image for this age1…, ssh-… or arn:aws:kms:… too; may be repeated")
	flags.StringArrayVar(&f.files, "recipients-file", nil, "lock the image for all age and SSH recipients in this file too")
	flags.BoolVar(&opts.Open, "open", false, "do not lock the image: whoever can read the store can read it")
	flags.StringVar(&f.domain, "domain", seal.DefaultDomain, "salt domain: images of one domain share chunks, those of two share none")
	flags.StringArrayVar(&f.trusts, "trust-publisher", nil, "take over known layers from the publisher with this public key or key file; may be repeated")
}

// predictFlag adds the flag that says whether a start is predicted.
func (f *publishFlags) predictFlag(flags *pflag.FlagSet) {
	flags.StringVar(&f.predict, "predict", predictOn, "predict what the first start will read, for it to be read ahead of: on or off")
}

// parse checks the flags that need it and puts them into o.
func (f *publishFlags) parse(o *publish.Options) (err error) {
	if f.size != "" {
		if o.Size, err = parseSize(f.size); err != nil {
			return err
		}
	}
	if f.platform != "" {
		if o.Source.Platform, err = v1.ParsePlatform(f.platform); err != nil {
			return usagef("platform %q: %w", f.platform, err)
		}
	}
	if o.Source.Gunzip, err = source.ParseGunzip(os.Getenv("RIVULET_GUNZIP")); err != nil {
		return usagef("RIVULET_GUNZIP: %w", err)
	}
	if o.Name != "" {
		if err := catalog.CheckName(o.Name); err != nil {
			return usageError{err}
		}
	}
	if f.predict != "" && f.predict != predictOn && f.predict != predictOff {
		return usagef("--predict %.40q: want %s or %s", f.predict, predictOn, predictOff)
	}
	if err := seal.CheckDomain(f.domain); err != nil {
		return usageError{err}
	}
	if o.Open && len(f.recipients)+len(f.files) > 0 {
		return usagef("--open locks for nobody; leave it out, or the recipients")
	}
	return nil
}

// publish publishes an image into the origin that open opens. What a far origin will be
// asked first is asked while it is opened.
func (a *app) publish(ctx context.Context, srcs []string, f *publishFlags, o *publish.Options, open func(context.Context, store.Options) (origin.Origin, error)) (origin.Origin, *publish.Result, error) {
	if f.packages != nil {
		return a.publishPackages(ctx, srcs, f, o, open)
	}
	d, err := publish.Open(ctx, srcs, o.Source, o.TempDir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = d.Close() }()
	ahead := store.Options{Create: true, Ahead: []string{generation.Pointer, domain.Pointer(f.domain)}}
	if ahead.AheadIn, err = a.guess(d, f.domain, o.Size); err != nil {
		return nil, nil, err
	}
	place, err := open(ctx, ahead)
	if err != nil {
		return nil, nil, err
	}
	if err := a.publishKeys(ctx, place, f, o); err != nil {
		return nil, nil, err
	}
	into := o.Generations.Active()
	res, err := d.Publish(ctx, place, *o)
	if err != nil {
		return nil, nil, err
	}
	return place, res, a.see(into)
}

// guess names the pointer that an image which is there is found by, if the store's
// active generation and the domain's salt are those that this user has seen last: who
// has guessed right has one round trip less. Whether it did is seen by asking for them.
func (a *app) guess(d *publish.Draft, domain string, size int64) (map[origin.GenerationID][]string, error) {
	if a.near() {
		return nil, nil
	}
	url, err := a.absoluteStore()
	if err != nil {
		return nil, err
	}
	keys, err := keyring.Open("")
	if err != nil {
		return nil, err
	}
	salt, g, ok := keys.Seen(url, domain)
	if !ok {
		return nil, nil
	}
	signer, err := a.signer()
	if err != nil {
		return nil, err
	}
	return map[origin.GenerationID][]string{origin.GenerationID(g): {d.Shortcut(salt, size, signer.Public())}}, nil
}

// see remembers where was published, for guess. That it cannot is no failure.
func (a *app) see(g origin.GenerationID) error {
	if a.near() {
		return nil
	}
	url, err := a.absoluteStore()
	if err != nil {
		return err
	}
	keys, err := keyring.Open("")
	if err == nil {
		err = keys.See(url, uint32(g))
	}
	if err != nil {
		a.logger().Warn("where was published is not remembered", "err", err)
	}
	return nil
}

// publishKeys puts into o who publishes, with which salt, and for whom.
func (a *app) publishKeys(ctx context.Context, store origin.Origin, f *publishFlags, o *publish.Options) error {
	more, err := readRecipients(ctx, f.recipients, f.files)
	if err != nil {
		return err
	}
	if o.Trusted, err = publicKeys(f.trusts); err != nil {
		return err
	}
	id, err := a.identity(ctx, true)
	if err != nil {
		return err
	}
	if o.Signer, err = a.signer(); err != nil {
		return err
	}
	keys, err := keyring.Open("")
	if err != nil {
		return err
	}
	trusted, err := keys.Trusted()
	if err != nil {
		return err
	}
	o.Trusted = append(o.Trusted, trusted...)
	o.Unwrappers = id.opens
	o.Recipients = append(append(o.Recipients, id.recipients...), more...)
	if !f.check && !a.near() {
		o.Sample = farSample
	}
	g, ctx := errgroup.WithContext(ctx) // a far store answers late
	g.Go(func() (err error) { o.Generations, err = generation.Enter(ctx, store); return err })
	g.Go(func() error { return a.publishSalt(ctx, store, keys, f.domain, id, o) })
	return g.Wait()
}

// publishSalt puts the domain's salt into o, to be opened while publish.Image looks
// for the image. The default domain is made if it is
// not there: another one may have been taken away by somebody who would have its
// chunks coded otherwise, or be a slip of the pen.
func (a *app) publishSalt(ctx context.Context, store origin.Origin, keys *keyring.Folder, name string, id *identity, o *publish.Options) error {
	found, err := findDomain(ctx, store, name)
	var state domain.State
	if errors.Is(err, errNoDomain) && name == seal.DefaultDomain {
		o.Salt, state, err = a.createDomain(ctx, store, keys, name, domain.Coding{}, id)
		if errors.Is(err, origin.ErrConflict) { // somebody was faster
			found, err = findDomain(ctx, store, name)
		}
	}
	if err != nil {
		return err
	}
	if o.Salt == nil {
		state, o.SaltID = found.State, found.Salt
		o.OpenSalt = func(ctx context.Context) (*seal.Salt, error) { return a.openFound(ctx, store, keys, found, id) }
	}
	o.Policy, o.Level = state.Coding.Policy, state.Coding.Level
	o.OldSalt = func(ctx context.Context, old blockmap.SaltID) (*seal.Salt, error) {
		return domain.Salt(ctx, store, name, old, id.opens, id.recipients...)
	}
	return nil
}

// published tells what was published.
func (a *app) published(r *publication, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(a.out).Encode(r)
	}
	a.printf("%s\n", r.Digest)
	a.note("published %s: disk of %s, %d chunks, %s stored", r.Name, size(r.DiskSize), r.Chunks, size(r.StoredBytes))
	a.note("new in the store: %d chunks, %s; fetched %s; %d of %d layers were known",
		r.NewChunks, size(r.NewBytes), size(r.FetchedBytes), r.LayersKnown, r.Layers)
	if r.Converted != "" {
		a.note("converted image: %s", r.Converted)
	}
	if r.Imports > 0 {
		a.note("what imports of its packages read: %d frames", r.Imports)
	}
	for _, i := range r.Inherited {
		a.note("inherited from the name's image before: what starts of workload %s read, %d frames", shownWorkload(i.Workload), i.Frames)
	}
	if p := r.Predicted; p != nil {
		a.note("predicted of its first start: %d frames, %s", p.Frames, size(p.Bytes))
	}
	return nil
}
