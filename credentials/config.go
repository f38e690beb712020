package credentials

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxConfig bounds a configuration of plugins, in bytes.
const maxConfig = 1 << 20

// A pluginConfig is a plugin as the kubelet's CredentialProviderConfig has it.
type pluginConfig struct {
	Name            string         `yaml:"name"`
	MatchImages     []string       `yaml:"matchImages"`
	DefaultDuration *string        `yaml:"defaultCacheDuration"`
	APIVersion      string         `yaml:"apiVersion"`
	Args            []string       `yaml:"args"`
	Env             []envConfig    `yaml:"env"`
	TokenAttributes map[string]any `yaml:"tokenAttributes"`
}

type envConfig struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

type configFile struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Providers  []pluginConfig `yaml:"providers"`
}

// The versions that a configuration and what plugins are told may have: they differ in what
// is promised, not in what they say.
const (
	configGroup = "kubelet.config.k8s.io/"
	pluginGroup = "credentialprovider.kubelet.k8s.io/"
)

var versions = []string{"v1", "v1beta1", "v1alpha1"}

func isOf(apiVersion, group string) bool {
	for _, v := range versions {
		if apiVersion == group+v {
			return true
		}
	}
	return false
}

// readConfig reads what the kubelet's --image-credential-provider-config names.
func readConfig(path string) ([]*plugin, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return parseConfig(b)
}

func parseConfig(b []byte) ([]*plugin, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("more than %d bytes", maxConfig)
	}
	var c configFile
	d := yaml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	if c.Kind != "CredentialProviderConfig" || !isOf(c.APIVersion, configGroup) {
		return nil, fmt.Errorf("kind %.80q of %.80q: want CredentialProviderConfig of %sv1", c.Kind, c.APIVersion, configGroup)
	}
	var list []*plugin
	for _, p := range c.Providers {
		made, err := p.plugin()
		if err != nil {
			return nil, fmt.Errorf("provider %.80q: %w", p.Name, err)
		}
		list = append(list, made)
	}
	return list, nil
}

func (c *pluginConfig) plugin() (*plugin, error) {
	if c.Name == "" || c.Name == "." || c.Name == ".." || strings.ContainsAny(c.Name, "/\\ ") {
		return nil, errors.New("its name is not that of a program")
	}
	if !isOf(c.APIVersion, pluginGroup) {
		return nil, fmt.Errorf("apiVersion %.80q: want %sv1", c.APIVersion, pluginGroup)
	}
	if len(c.MatchImages) == 0 {
		return nil, errors.New("matchImages is missing")
	}
	p := &plugin{name: c.Name, version: c.APIVersion, args: c.Args, needsToken: len(c.TokenAttributes) > 0}
	for _, text := range c.MatchImages {
		m, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		p.images = append(p.images, m)
	}
	for _, e := range c.Env {
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") || strings.Contains(e.Value, "\x00") {
			return nil, fmt.Errorf("env %.80q: cannot be set", e.Name)
		}
		p.env = append(p.env, e.Name+"="+e.Value)
	}
	if c.DefaultDuration == nil {
		return nil, errors.New("defaultCacheDuration is missing")
	}
	var err error
	if p.usual, err = time.ParseDuration(*c.DefaultDuration); err != nil || p.usual < 0 {
		return nil, fmt.Errorf("defaultCacheDuration %.80q: want a time such as 12h", *c.DefaultDuration)
	}
	return p, nil
}
