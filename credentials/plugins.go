package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

const (
	// pluginTime bounds a run of a plugin; the kubelet gives it as long.
	pluginTime = time.Minute
	// maxAnswer bounds what a plugin says, in bytes.
	maxAnswer = 1 << 20
	// maxRemembered bounds the answers that are remembered of one plugin.
	maxRemembered = 1024
	// An answer is asked for anew when a tenth of its time is left, or renewTime: what
	// is handed out is good for a while.
	renewTime = 5 * time.Minute
)

// Plugins are the kubelet's credential-provider plugins. Any number of goroutines may
// use them; nil are none.
type Plugins struct {
	dir  string
	log  *slog.Logger
	list []*plugin
	now  func() time.Time
}

// A plugin is a program that says how to log in.
type plugin struct {
	name, version string
	images        []pattern
	args, env     []string
	usual         time.Duration // that its answers are good for
	needsToken    bool          // of a service account, which a kubelet alone can ask for

	mu      sync.Mutex // held while it runs: those who want the same wait for it
	answers map[string]rememberedAnswer
}

type rememberedAnswer struct {
	logins []matchingLogin
	until  time.Time
}

// A matchingLogin is good for the repositories of a pattern.
type matchingLogin struct {
	images pattern
	login  authn.AuthConfig
}

// OpenPlugins reads the configuration that the kubelet's --image-credential-provider-config
// names; the programs lie in dir. Those that need tokens of service accounts are left
// out, with a line in the log; nil is nobody's log.
func OpenPlugins(config, dir string, log *slog.Logger) (*Plugins, error) {
	list, err := readConfig(config)
	if err != nil {
		return nil, fmt.Errorf("credential providers of %s: %w", config, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	list = slices.DeleteFunc(list, func(p *plugin) bool {
		if p.needsToken {
			log.Warn("a credential provider needs tokens of service accounts, which the kubelet alone can give it", "provider", p.name)
		}
		return p.needsToken
	})
	for _, p := range list {
		if _, err := exec.LookPath(filepath.Join(dir, p.name)); err != nil {
			return nil, fmt.Errorf("credential provider %s: %w", p.name, err)
		}
	}
	return &Plugins{dir: dir, log: log, list: list, now: time.Now}, nil
}

// find returns the login for a repository, nil if no plugin has one.
func (s *Plugins) find(ctx context.Context, repository string) *authn.AuthConfig {
	if s == nil {
		return nil
	}
	if path, is := strings.CutPrefix(repository, name.DefaultRegistry+"/"); is {
		repository = "docker.io/" + path // which is what the kubelet calls it
	}
	for _, p := range s.list {
		if !slices.ContainsFunc(p.images, func(m pattern) bool { return m.matches(repository) }) {
			continue
		}
		login, err := s.ask(ctx, p, repository)
		if err != nil {
			s.log.Warn("a credential provider has no login", "provider", p.name, "repository", repository, "err", err)
		}
		if login != nil {
			return login
		}
	}
	return nil
}

// ask asks a plugin, unless it has said so already.
func (s *Plugins) ask(ctx context.Context, p *plugin, repository string) (*authn.AuthConfig, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	host, _, _ := strings.Cut(repository, "/")
	keys := map[string]string{keyImage: repository, keyRegistry: host, keyGlobal: ""}
	for kind, of := range keys {
		a, ok := p.answers[kind+" "+of]
		if ok && s.now().Before(a.until) {
			return pick(a.logins, repository), nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTime)
	defer cancel()
	begun := s.now()
	out, err := p.run(ctx, filepath.Join(s.dir, p.name), repository)
	if err != nil {
		return nil, err
	}
	a, err := parseAnswer(out, p.version)
	if err != nil {
		return nil, err
	}
	good := p.usual
	if a.duration != nil {
		good = *a.duration
	}
	if good > 0 {
		if p.answers == nil || len(p.answers) >= maxRemembered {
			p.answers = make(map[string]rememberedAnswer)
		}
		p.answers[a.key+" "+keys[a.key]] = rememberedAnswer{a.logins, begun.Add(good - min(good/10, renewTime))}
	}
	return pick(a.logins, repository), nil
}

// pick returns the login of the most particular pattern.
func pick(logins []matchingLogin, repository string) *authn.AuthConfig {
	for _, l := range logins {
		if l.images.matches(repository) {
			return &l.login
		}
	}
	return nil
}

// A request is what a plugin is told.
type request struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Image      string `json:"image"`
}

func (p *plugin) run(ctx context.Context, program, repository string) ([]byte, error) {
	in, err := json.Marshal(request{"CredentialProviderRequest", p.version, repository})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdin = bytes.NewReader(in)
	cmd.WaitDelay = time.Second // for children that keep its output open
	out, said := &bounded{most: maxAnswer}, &bounded{most: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %q", err, strings.TrimSpace(said.kept.String()))
	}
	if out.over {
		return nil, fmt.Errorf("it says more than %d bytes", maxAnswer)
	}
	return out.kept.Bytes(), nil
}

// bounded keeps the first bytes that are written to it. The buffer is not embedded: it
// has a ReadFrom without a bound.
type bounded struct {
	kept bytes.Buffer
	most int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.most - b.kept.Len()
	if len(p) > room {
		b.over = true
	}
	_, _ = b.kept.Write(p[:min(len(p), room)])
	return len(p), nil
}
