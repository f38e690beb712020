package rivulet

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/rivuletfs/rivulet/"

// imports says which packages of this module each package may import, and
// whether anything outside the standard library. A package that is not listed
// fails the test: a new one states its place here. Do not loosen a line to make
// a build pass; ask why the arrow points up.
//
// Only commands, tests and benchmarks may import anything.
const imports = `
chunk              std
blockdev           std
ext4               std
tier               std: chunk internal/tokenbucket
origin             std: chunk
origin/place       std: chunk origin
blockmap           std: chunk origin
seal               any: blockmap chunk origin
seal/agewrap       any: internal/privatefile seal
seal/kmswrap       any: seal
seal/wraptest      std: origin seal
sign               any: blockmap internal/privatefile origin
flatten            any
flatten/source     any: flatten flatten/zipfile
flatten/zipfile    any: flatten
packages/wheel     any: flatten flatten/zipfile internal/lateregexp
packages/sandbox   any
packages/gate      any: internal/lateregexp
packages/rootfs    any: flatten flatten/source
packages/lock      any: internal/lateregexp
packages/python    any: internal/lateregexp internal/scratch packages/gate packages/lock packages/sandbox packages/wheel
packages/npm       any: flatten internal/lateregexp
packages           any: chunk flatten/source flatten/zipfile internal/scratch packages/lock packages/npm packages/python packages/rootfs packages/wheel store/cache/evict
layout             std: ext4 flatten
profile            std: blockmap chunk origin
profile/start      any: blockmap chunk disk internal/tokenbucket origin profile
pack               std: blockmap chunk
profile/plot       std: profile
profile/inherit    std: blockmap chunk ext4 profile
profile/predict    std: blockmap ext4 internal/lateregexp profile
catalog            std: blockmap chunk origin profile
generation         any: blockmap catalog chunk origin profile sign
domain             any: blockmap catalog chunk origin seal
keyring            any: blockmap catalog seal seal/agewrap sign
publish            any: blockmap catalog chunk flatten flatten/source generation layout origin pack seal sign verify
gc                 any: blockmap catalog chunk generation origin
fsck               any: blockmap catalog chunk generation origin pack profile
copy               any: blockmap catalog chunk generation origin
disk               any: blockdev blockmap chunk internal/histogram internal/loglimit seal
verify             any: blockmap chunk origin seal
store/dir          any: chunk origin origin/place
store/memory       std: chunk origin
store/s3           any: chunk origin origin/place store/internal/agree store/internal/byterange store/internal/link store/internal/retry
store/http         std: chunk origin origin/place store/internal/byterange store/internal/link store/internal/retry
store/internal/byterange std: chunk store/internal/retry
store/internal/link std: store/internal/retry
store/internal/retry std: internal/tokenbucket
store/internal/agree std
store              any: origin store/dir store/http store/registry store/s3
store/registry     any: blockmap catalog chunk origin store/internal/agree store/internal/byterange store/internal/link store/internal/retry
store/registry/registrytest any: internal/freeport
store/zone         any: chunk internal/histogram store/internal/link store/zone/internal/wire tier
store/zone/internal/wire std
store/zone/zonetest std: internal/freeport
overlay            any: blockdev
overlay/overlaytest std: overlay
frontend/nbd       any: frontend/internal/lead blockdev frontend/nbd/internal/wire internal/loglimit
frontend/nbd/nbdclient any: blockdev frontend/nbd/internal/wire
frontend/nbd/internal/wire std
frontend/internal/lead std
frontend/vhostuser any: blockdev frontend/internal/lead frontend/vhostuser/internal/transport frontend/vhostuser/internal/virtqueue frontend/vhostuser/internal/wire internal/loglimit
frontend/vhostuser/internal/wire std
frontend/vhostuser/internal/virtqueue std
frontend/vhostuser/internal/transport any: frontend/vhostuser/internal/wire
frontend/vhostuser/vhostuserclient any: blockdev frontend/vhostuser/internal/transport frontend/vhostuser/internal/virtqueue frontend/vhostuser/internal/wire
frontend/fuse      any: blockdev frontend/internal/lead internal/mountpoint
frontend/loopmount any: blockdev internal/mountpoint
frontend/kernelnbd any
host               any: blockdev blockmap catalog chunk disk generation host/keep internal/fdpass internal/histogram internal/scratch internal/tokenbucket origin overlay pack profile profile/start seal sign
host/keep          any: internal/fdpass internal/systemd
host/frontends     any: blockdev frontend/fuse frontend/kernelnbd frontend/loopmount frontend/nbd frontend/vhostuser host host/keep internal/fdpass
telemetry          any: cached cached/cachedclient chunk disk frontend/nbd generation host internal/histogram origin store/cache store/zone tier
telemetry/slowread any: chunk disk internal/loglimit
host/control       any: chunk host internal/fdpass
chunk/chunktest    std: chunk
tier/tiertest      std: chunk chunk/chunktest tier
store/s3/s3test    std: internal/freeport
blockmap/blockmaptest std: blockmap chunk chunk/chunktest origin
origin/origintest  std: chunk chunk/chunktest origin origin/place
blockdev/blockdevtest std: blockdev
store/download     std: chunk origin store/internal/byterange store/internal/link store/internal/retry
cached             any: cached/internal/wire chunk internal/histogram internal/loglimit internal/tokenbucket origin store/cache store/download tier
cached/internal/wire std: chunk
cached/cachedclient std: cached/internal/wire chunk internal/loglimit internal/runtimedir origin
cached/cachedtest  any: cached chunk chunk/chunktest origin store/cache store/download
store/cache        any: chunk store/cache/evict
store/cache/evict  std: chunk
store/cache/evict/simulate std: chunk store/cache/evict
store/cache/evict/evicttest any: chunk store/cache/evict
snapshotter        any: chunk flatten/source host host/control
snapshotter/imageservice any
credentials        any: internal/fdpass
deploy             std
deploy/node        std: deploy
deploy/image       any
vm                 any: internal/scratch vm/guest
vm/guest           std
`

// free may import anything, and nothing else imports them.
var free = []string{"", "cmd/", "internal/", "bench/"}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImports(t *testing.T) {
	type rule struct {
		std     bool
		allowed map[string]bool
	}
	rules := map[string]rule{}
	for line := range strings.Lines(strings.TrimSpace(imports)) {
		head, list, _ := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(head)
		if len(f) != 2 || (f[1] != "std" && f[1] != "any") {
			t.Fatalf("rule %q: want NAME std|any[: IMPORT...]", line)
		}
		r := rule{std: f[1] == "std", allowed: map[string]bool{}}
		for _, name := range strings.Fields(list) {
			r.allowed[name] = true
		}
		rules[f[0]] = r
	}
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath+"/", module)
		name = strings.TrimSuffix(name, "/")
		if isFree(name) {
			continue
		}
		r, ok := rules[name]
		if !ok {
			t.Errorf("package %s: has no line in the import rules", name)
			continue
		}
		for _, imp := range p.Imports {
			own, isOwn := strings.CutPrefix(imp, module)
			switch first, _, _ := strings.Cut(imp, "/"); {
			case isOwn && !r.allowed[own]:
				t.Errorf("package %s: must not import %s", name, own)
			case !isOwn && r.std && strings.Contains(first, "."):
				t.Errorf("package %s: uses the standard library alone, not %s", name, imp)
			}
		}
	}
}

// TestWhereContainerdIs keeps containerd's packages and gRPC, which make a program larger by
// half, out of the one that everybody runs.
func TestWhereContainerdIs(t *testing.T) {
	for program, want := range map[string]bool{"cmd/rivulet": false, "cmd/containerd-rivulet": true} {
		list := exec.Command("go", "list", "-deps", "./"+program)
		list.Env = append(os.Environ(), "GOOS=linux")
		out, err := list.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		var found []string
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "github.com/containerd/") || strings.HasPrefix(line, "google.golang.org/grpc") {
				found = append(found, strings.TrimSpace(line))
			}
		}
		if len(found) > 0 != want {
			t.Errorf("%s is made of %q", program, found)
		}
	}
}

func isFree(name string) bool {
	for _, f := range free {
		if name == strings.TrimSuffix(f, "/") || (f != "" && strings.HasPrefix(name, f)) {
			return true
		}
	}
	return false
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}
