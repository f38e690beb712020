package kernelnbd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// retryAfter is how long the block layer waits before it asks the kernel's client about a request; see
// the package comment. It says so in the kernel's log each time.
const retryAfter = 2 * time.Second

// sysBlock is where the kernel shows block devices.
const sysBlock = "/sys/block"

// A Device is one of the kernel's.
type Device struct {
	// Number is N of /dev/nbdN.
	Number int
	// Identity is what it was connected with.
	Identity string
}

// Path is the device's.
func (d *Device) Path() string { return "/dev/nbd" + strconv.Itoa(d.Number) }

// Supported returns nil if there is a client, else ErrUnsupported or why nobody knows.
func Supported() error {
	c, err := dial()
	if err != nil {
		return err
	}
	return c.close()
}

// Connect makes a device that nobody uses read from fd, a connected stream socket without a
// handshake, which stays the caller's.
func Connect(fd int, o Options) (*Device, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("connect an NBD device: %w", err)
	}
	c, err := dial()
	if err != nil {
		return nil, fmt.Errorf("connect an NBD device: %w", err)
	}
	defer func() { _ = c.close() }()
	number, err := c.connect(fd, &o)
	if err != nil {
		if d, findErr := Find(o.Identity); findErr == nil { // made, though we could not read which
			err = errors.Join(err, d.Disconnect()) // by another client: this one's answer is still to come
		}
		return nil, fmt.Errorf("connect an NBD device: %w", err)
	}
	d := &Device{Number: number, Identity: o.Identity}
	if err := d.setUp(&o); err != nil {
		return nil, errors.Join(fmt.Errorf("connect %s: %w", d.Path(), err), c.disconnect(number))
	}
	return d, nil
}

// setUp sees that the device can be found again, and sets what netlink cannot say.
func (d *Device) setUp(o *Options) error {
	if !d.Connected() {
		return errors.New("needs Linux 5.14: the kernel keeps no identities of devices")
	}
	queue := map[string]int64{"read_ahead_kb": int64(o.ReadAhead >> 10)}
	if o.Patience > 0 {
		queue["io_timeout"] = retryAfter.Milliseconds()
	}
	for name, value := range queue {
		path := filepath.Join(sysBlock, d.name(), "queue", name)
		if err := os.WriteFile(path, []byte(strconv.FormatInt(value, 10)), 0); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) name() string { return "nbd" + strconv.Itoa(d.Number) }

// At returns the device that a path, /dev/nbdN, leads to, or ErrNotFound if it has no identity.
func At(path string) (*Device, error) {
	number, ok := deviceNumber(strings.TrimPrefix(path, "/dev/"))
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	d := &Device{Number: number}
	var err error
	if d.Identity, err = d.identity(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	return d, nil
}

// deviceNumber splits nbdN.
func deviceNumber(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "nbd")
	n, err := strconv.ParseUint(digits, 10, 20) // minor numbers have 20 bits
	return int(n), ok && err == nil
}

// Find finds the device with an identity, whichever process connected it.
func Find(identity string) (*Device, error) {
	if err := checkIdentity(identity); err != nil {
		return nil, err
	}
	all, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, fmt.Errorf("find NBD device %s: %w", identity, err)
	}
	for _, e := range all {
		number, ok := deviceNumber(e.Name())
		if d := (&Device{Number: number, Identity: identity}); ok && d.Connected() {
			return d, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", identity, ErrNotFound)
}

// Connected reports whether the device is there and still this one, with a server or without.
func (d *Device) Connected() bool {
	is, err := d.identity()
	return err == nil && is == d.Identity
}

// identity is what the kernel says.
func (d *Device) identity() (string, error) {
	b, err := os.ReadFile(filepath.Join(sysBlock, d.name(), "backend"))
	return strings.TrimSuffix(string(b), "\n"), err
}

// Reconnect gives a device whose server has died another one, at the other end of fd. Requests that the
// dead one has not answered are sent again.
func (d *Device) Reconnect(fd int) error {
	return d.tell("reconnect", func(c *client) error { return c.reconfigure(d, fd, false) })
}

// DisconnectOnClose has the device go when it is closed by its last user.
func (d *Device) DisconnectOnClose() error {
	return d.tell("set up", func(c *client) error { return c.reconfigure(d, noSocket, true) })
}

// Disconnect takes the device from whoever uses it: they get I/O errors. One that is gone is
// no error.
func (d *Device) Disconnect() error {
	if !d.Connected() {
		return nil
	}
	return d.tell("disconnect", func(c *client) error { return c.disconnect(d.Number) })
}

func (d *Device) tell(what string, say func(*client) error) error {
	c, err := dial()
	if err == nil {
		err = errors.Join(say(c), c.close())
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, d.Path(), err)
	}
	return nil
}
