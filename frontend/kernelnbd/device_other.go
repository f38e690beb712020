//go:build !linux

package kernelnbd

// A Device needs Linux.
type Device struct {
	Number   int
	Identity string
}

// Path needs Linux.
func (*Device) Path() string { return "" }

// Supported needs Linux.
func Supported() error { return ErrUnsupported }

// Connect needs Linux.
func Connect(int, Options) (*Device, error) { return nil, ErrUnsupported }

// At needs Linux.
func At(string) (*Device, error) { return nil, ErrUnsupported }

// Find needs Linux.
func Find(string) (*Device, error) { return nil, ErrUnsupported }

// Connected needs Linux.
func (*Device) Connected() bool { return false }

// Reconnect needs Linux.
func (*Device) Reconnect(int) error { return ErrUnsupported }

// DisconnectOnClose needs Linux.
func (*Device) DisconnectOnClose() error { return ErrUnsupported }

// Disconnect needs Linux.
func (*Device) Disconnect() error { return ErrUnsupported }
