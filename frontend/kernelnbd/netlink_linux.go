package kernelnbd

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// The family, of linux/nbd-netlink.h and linux/nbd.h.
const (
	family        = "nbd"
	familyVersion = 1

	commandConnect     = 1
	commandDisconnect  = 2
	commandReconfigure = 3

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrClientFlags = 6
	attrSockets     = 7
	attrDeadTimeout = 8
	attrIdentity    = 10

	attrSocket   = 1 // in attrSockets
	attrSocketFD = 1 // in attrSocket

	flagHasFlags   = 1 << 0
	flagReadOnly   = 1 << 1
	flagFlush      = 1 << 2
	flagFUA        = 1 << 3
	flagTrim       = 1 << 5
	flagWriteZeros = 1 << 6

	clientDisconnectOnClose = 1 << 1
)

// answerWait bounds the wait for the kernel's answer.
const answerWait = 30 * time.Second

// noSocket stands for no change of the socket.
const noSocket = -1

// A client tells the kernel what to do.
type client struct {
	conn   *genetlink.Conn
	family uint16
}

// dial returns a client, or ErrUnsupported.
func dial() (*client, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("generic netlink: %w", err)
	}
	var c *client
	if err = conn.SetDeadline(time.Now().Add(answerWait)); err == nil {
		c, err = newClient(conn)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func newClient(conn *genetlink.Conn) (*client, error) {
	f, err := conn.GetFamily(family)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrUnsupported
	}
	if err != nil {
		return nil, fmt.Errorf("generic netlink: family %s: %w", family, err)
	}
	return &client{conn, f.ID}, nil
}

func (c *client) close() error { return c.conn.Close() }

// execute sends a command, and waits until the kernel has done it.
func (c *client) execute(command uint8, fill func(*netlink.AttributeEncoder)) ([]genetlink.Message, error) {
	a := netlink.NewAttributeEncoder()
	fill(a)
	data, err := a.Encode()
	if err != nil {
		return nil, err
	}
	m := genetlink.Message{Header: genetlink.Header{Command: command, Version: familyVersion}, Data: data}
	return c.conn.Execute(m, c.family, netlink.Request|netlink.Acknowledge)
}

// connect returns the number of the device that the kernel chose.
func (c *client) connect(fd int, o *Options) (int, error) {
	flags := uint64(flagHasFlags | flagReadOnly)
	if o.Writable {
		flags = flagHasFlags | flagFlush | flagFUA | flagTrim | flagWriteZeros
	}
	answer, err := c.execute(commandConnect, func(a *netlink.AttributeEncoder) {
		a.Uint64(attrSize, uint64(o.Size))
		a.Uint64(attrBlockSize, uint64(o.BlockSize))
		a.Uint64(attrServerFlags, flags)
		if o.Patience > 0 {
			a.Uint64(attrDeadTimeout, seconds(o.Patience))
		} else {
			a.Uint64(attrTimeout, seconds(deadTimeout))
		}
		addSocket(a, fd)
		a.String(attrIdentity, o.Identity)
	})
	if err != nil {
		return 0, err
	}
	for _, m := range answer {
		d, err := netlink.NewAttributeDecoder(m.Data)
		if err != nil {
			return 0, fmt.Errorf("answer of the kernel: %w", err)
		}
		for d.Next() {
			if d.Type() == attrIndex {
				number := d.Uint32()
				return int(number), d.Err()
			}
		}
		if err := d.Err(); err != nil {
			return 0, fmt.Errorf("answer of the kernel: %w", err)
		}
	}
	return 0, errors.New("the kernel did not say which device it is")
}

// seconds rounds up.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

func addSocket(a *netlink.AttributeEncoder, fd int) {
	a.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		list.Nested(attrSocket, func(one *netlink.AttributeEncoder) error {
			one.Uint32(attrSocketFD, uint32(fd))
			return nil
		})
		return nil
	})
}

// reconfigure gives a device another socket, unless fd is noSocket, and sets when it goes.
func (c *client) reconfigure(d *Device, fd int, onClose bool) error {
	_, err := c.execute(commandReconfigure, func(a *netlink.AttributeEncoder) {
		a.Uint32(attrIndex, uint32(d.Number))
		a.String(attrIdentity, d.Identity)
		if onClose {
			a.Uint64(attrClientFlags, clientDisconnectOnClose)
		}
		if fd != noSocket {
			addSocket(a, fd)
		}
	})
	return err
}

func (c *client) disconnect(number int) error {
	_, err := c.execute(commandDisconnect, func(a *netlink.AttributeEncoder) { a.Uint32(attrIndex, uint32(number)) })
	return err
}
