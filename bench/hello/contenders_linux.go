package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// A contender is one way to start a container of an image that a host does not have.
type contender struct {
	Name  string
	About string
	// Tools are the programs that it needs, besides those that all need.
	Tools []string
	// Snapshotter is containerd's name of it.
	Snapshotter string
	// Repository is the part of the reference that says in which form the image is there.
	Repository string
	// Begin starts what it needs on a host, before containerd; nil: nothing.
	Begin func(ctx context.Context, b *bench, h *host) error
	// Host is where it runs.
	Host string
	// Follows names the contender whose host it takes over, with what that has cached;
	// containerd and all processes are new.
	Follows string
}

const (
	plain          = "plain"
	erofs          = "erofs"
	stargz         = "estargz"
	stargzBest     = "estargz-opt"
	soci           = "soci"
	rivuletCold    = "rivulet"
	rivuletProfile = "rivulet-profile"
	rivuletPack    = "rivulet-pack"
	rivuletL1      = "rivulet-l1"
	rivuletL2      = "rivulet-l2"
)

// Repositories of the registry, by the form of what is in them.
const (
	asPushed     = "lab"
	asStargz     = "stargz"
	asStargzBest = "stargz-opt"
	asSOCI       = "soci"
)

// contenders are all, in the order of a round.
var contenders = []contender{
	{Name: plain, About: "containerd's overlayfs snapshotter: every layer is downloaded and unpacked", Snapshotter: "overlayfs"},
	{Name: erofs, About: "containerd's EROFS snapshotter and differ: layers are downloaded and made into images", Snapshotter: "erofs", Tools: []string{"mkfs.erofs"}},
	{Name: stargz, About: "stargz-snapshotter, layers converted to eStargz", Snapshotter: "stargz", Repository: asStargz, Begin: beginStargz, Tools: stargzTools},
	{Name: stargzBest, About: "stargz-snapshotter, eStargz optimised by a recorded run of the same workload", Snapshotter: "stargz", Repository: asStargzBest, Begin: beginStargz, Tools: stargzTools},
	{Name: soci, About: "soci-snapshotter, with an index of each layer", Snapshotter: "soci", Repository: asSOCI, Begin: beginSOCI, Tools: []string{"soci", "soci-snapshotter-grpc"}},
	{Name: rivuletCold, About: "rivulet, nobody has started the image before", Snapshotter: "rivulet", Begin: beginRivulet(storeCold, 0)},
	{Name: rivuletProfile, About: "rivulet, with the profile of one start on another host", Snapshotter: "rivulet", Begin: beginRivulet(storeProfile, 0)},
	{Name: rivuletL1, About: "the same host again, all but its host cache empty", Snapshotter: "rivulet", Begin: beginRivulet(storeProfile, 0), Follows: rivuletProfile},
	{Name: rivuletPack, About: "rivulet, with profile and start pack, without a host cache", Snapshotter: "rivulet", Begin: beginRivulet(storePack, withoutCache)},
	{Name: rivuletL2, About: "another host, nothing on it, the zone's cache has the image", Snapshotter: "rivulet", Begin: beginRivulet(storeProfile, withZone), Host: host2, Tools: []string{"redis-server"}},
}

// needed are the tools that all need.
var needed = []string{"containerd", "containerd-shim-runc-v2", "runc", "registry", "rivulet", "containerd-rivulet", "ip", "tc", "nsenter"}

// chosenContenders returns those with these names, or all, in their order, without those that lack a
// tool, of which it says so.
func chosenContenders(names []string, say func(string, ...any)) ([]contender, error) {
	for _, tool := range needed {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is needed: %w", tool, err)
		}
	}
	asked := make(map[string]bool)
	for _, name := range names {
		asked[name] = true
	}
	var chosen []contender
	for _, c := range contenders {
		if c.Host == "" {
			c.Host = host1
		}
		if c.Repository == "" {
			c.Repository = asPushed
		}
		if len(names) > 0 && !asked[c.Name] {
			continue
		}
		delete(asked, c.Name)
		if lacks := lacking(c.Tools); lacks != "" {
			say("%s is left out: %s is not on PATH", c.Name, lacks)
			continue
		}
		if c.Name == erofs && !makesErofsOfTar() {
			say("%s is left out: mkfs.erofs is older than 1.8", c.Name)
			continue
		}
		chosen = append(chosen, c)
	}
	for name := range asked {
		return nil, fmt.Errorf("there is no contender %q", name)
	}
	return chosen, nil
}

func lacking(tools []string) string {
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return tool
		}
	}
	return ""
}

// makesErofsOfTar says whether containerd's EROFS differ can be used: it wants an mkfs.erofs that reads tar
// files, and a containerd whose differs begin with one that it has not loaded unpacks nothing at all.
func makesErofsOfTar() bool {
	help, _ := exec.Command("mkfs.erofs", "--help").CombinedOutput() // some versions exit with 1
	return bytes.Contains(help, []byte("--tar"))
}

// reference is where an image is in the form that a contender wants; image may have a tag.
func (c *contender) reference(image string) string {
	if !strings.Contains(image, ":") {
		image += ":1"
	}
	return fmt.Sprintf("%s:%d/%s/%s", serverAddress, registryPort, c.Repository, image)
}

// A host is what one machine has on it: folders and processes.
type host struct {
	role string // namespace
	dir  string
	logs string
	// running are its processes, in the order in which they were started.
	running []*process
}

func (h *host) path(part string) string { return filepath.Join(h.dir, part) }
