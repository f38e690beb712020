// Package guest is what a host and the init of its guest tell one another.
//
// The host writes a Config into the initrd (/config.json). The init, program
// rivulet-init, mounts the disk, starts the process, and reports over a channel of
// lines, one JSON Message each. Beside it are a channel each for the process's
// standard input, output and errors. What carries them is a virtio-serial port or a
// vsock port each, see Channel.
//
// The guest is hostile: a host reads from it only by Messages, which bounds what it
// keeps. Nothing the guest says can do more than end its own run.
package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Where the host puts things in the initrd.
const (
	ConfigPath = "/config.json"
	InitPath   = "/init"
	ModuleDir  = "/modules"
)

// A Channel is one of the streams between host and guest. As a virtio-serial port it
// is called "rivulet." and its name, as a vsock port it has its number; the guest
// connects to the host.
type Channel struct {
	Name string
	Port uint32
}

// The channels. In a terminal, Output has the errors too.
var (
	Control = Channel{"control", 10240} // Messages, both ways
	Input   = Channel{"input", 10241}   // to the guest
	Output  = Channel{"output", 10242}  // from the guest
	Errors  = Channel{"errors", 10243}  // from the guest
)

// Channels lists them.
func Channels() []Channel { return []Channel{Control, Input, Output, Errors} }

// SerialName returns the name of the channel's virtio-serial port.
func (c Channel) SerialName() string { return "rivulet." + c.Name }

// Transports of the channels.
const (
	Serial = "serial" // virtio-serial ports
	Vsock  = "vsock"  // connections to the host, CID 2
)

// How the guest ends its machine, as its VMM understands it.
const (
	Reboot   = "reboot"
	PowerOff = "poweroff"
)

// A Config says what a guest is to do.
type Config struct {
	Modules   []string `json:"modules"`   // files in ModuleDir, in the order to load them
	Device    string   `json:"device"`    // of the root: a block device with ext4
	Writable  bool     `json:"writable"`  // the device takes writes; else they go to memory, and are lost
	Transport string   `json:"transport"` // Serial or Vsock
	End       string   `json:"end"`       // Reboot or PowerOff
	Hostname  string   `json:"hostname"`
	Process   Process  `json:"process"`
}

// A Process is what runs in the guest.
type Process struct {
	Args []string `json:"args"`          // at least one; the first is looked up in PATH
	Env  []string `json:"env,omitempty"` // NAME=VALUE; the last of one name counts
	Dir  string   `json:"dir,omitempty"` // made if it is not there; "": /
	// User is USER, UID, USER:GROUP, UID:GID or a mix, names being those of the
	// image's /etc/passwd and /etc/group; "": root.
	User     string    `json:"user,omitempty"`
	Terminal *Terminal `json:"terminal,omitempty"` // nil: pipes
}

// A Terminal is the size of one, in characters.
type Terminal struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Bounds of a Config.
const (
	maxConfig = 8 << 20 // bytes, as JSON
	maxList   = 1 << 16 // arguments, variables
)

// Encode returns the Config as a file, or says what is wrong with it.
func (c *Config) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("guest configuration: %w", err)
	}
	b, err := json.Marshal(c)
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("guest configuration: %d bytes: at most %d are allowed", len(b), maxConfig)
	}
	return b, err
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*Config, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("guest configuration: %d bytes: at most %d are allowed", len(b), maxConfig)
	}
	c := new(Config)
	err := json.Unmarshal(b, c)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("guest configuration: %w", err)
	}
	return c, nil
}

func (c *Config) check() error {
	p := &c.Process
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("no command")
	case len(p.Args) > maxList || len(p.Env) > maxList:
		return fmt.Errorf("more than %d arguments or variables", maxList)
	case !strings.HasPrefix(c.Device, "/dev/"):
		return fmt.Errorf("device %q: want one in /dev", c.Device)
	case c.Transport != Serial && c.Transport != Vsock:
		return fmt.Errorf("transport %q: want %s or %s", c.Transport, Serial, Vsock)
	case c.End != Reboot && c.End != PowerOff:
		return fmt.Errorf("end %q: want %s or %s", c.End, Reboot, PowerOff)
	case p.Dir != "" && p.Dir[0] != '/':
		return fmt.Errorf("working directory %q: want an absolute one", p.Dir)
	}
	for _, s := range append(append([]string{p.Dir, p.User, c.Hostname}, p.Args...), p.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("%q has a NUL", s)
		}
	}
	for _, e := range p.Env {
		if i := strings.IndexByte(e, '='); i < 1 {
			return fmt.Errorf("environment variable %q: want NAME=VALUE", e)
		}
	}
	return nil
}
