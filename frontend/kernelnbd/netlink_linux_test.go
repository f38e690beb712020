package kernelnbd

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const familyID = 77

// A told is a command as the kernel would read it.
type told struct {
	command uint8
	numbers map[uint16]uint64
	name    string
	sockets []uint32
}

// read decodes a command.
func read(m genetlink.Message) (t told, err error) {
	t = told{command: m.Header.Command, numbers: map[uint16]uint64{}}
	d, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return t, err
	}
	for d.Next() {
		switch d.Type() {
		case attrIdentity:
			t.name = d.String()
		case attrIndex:
			t.numbers[attrIndex] = uint64(d.Uint32())
		case attrSockets:
			d.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(one *netlink.AttributeDecoder) error {
						for one.Next() {
							t.sockets = append(t.sockets, one.Uint32())
						}
						return nil
					})
				}
				return nil
			})
		default:
			t.numbers[d.Type()] = d.Uint64()
		}
	}
	return t, d.Err()
}

// pretend is a kernel that answers with data, and what it was told.
func pretend(t *testing.T, data []byte, fail error) (*client, *[]told) {
	t.Helper()
	var all []told
	conn := genltest.Dial(genltest.ServeFamily(genetlink.Family{ID: familyID, Name: family, Version: familyVersion},
		func(m genetlink.Message, n netlink.Message) ([]genetlink.Message, error) {
			if n.Header.Type != familyID || m.Header.Version != familyVersion || n.Header.Flags != netlink.Request|netlink.Acknowledge {
				return nil, fmt.Errorf("header %+v, %+v", m.Header, n.Header)
			}
			one, err := read(m)
			all = append(all, one)
			if err = errors.Join(err, fail); err != nil {
				return nil, err
			}
			return []genetlink.Message{{Header: m.Header, Data: data}}, nil
		}))
	t.Cleanup(func() { _ = conn.Close() })
	c, err := newClient(conn)
	if err != nil {
		t.Fatal(err)
	}
	return c, &all
}

func TestCommands(t *testing.T) {
	a := netlink.NewAttributeEncoder()
	a.Uint32(attrIndex, 5)
	index, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, all := pretend(t, index, nil)
	o := Options{Size: 1 << 30, BlockSize: 4096, Identity: "rivulet-x", Patience: 1500 * time.Millisecond}
	if number, err := c.connect(9, &o); err != nil || number != 5 {
		t.Fatalf("device %d, %v", number, err)
	}
	o.Writable, o.Patience = true, 0
	if _, err := c.connect(9, &o); err != nil {
		t.Fatal(err)
	}
	d := &Device{Number: 5, Identity: "rivulet-x"}
	if err := errors.Join(c.reconfigure(d, 11, false), c.reconfigure(d, noSocket, true), c.disconnect(5)); err != nil {
		t.Fatal(err)
	}
	want := []told{
		{1, map[uint16]uint64{attrSize: 1 << 30, attrBlockSize: 4096, attrServerFlags: 0b11, attrDeadTimeout: 2}, "rivulet-x", []uint32{9}},
		{1, map[uint16]uint64{attrSize: 1 << 30, attrBlockSize: 4096, attrServerFlags: 0b1101101, attrTimeout: 90}, "rivulet-x", []uint32{9}},
		{3, map[uint16]uint64{attrIndex: 5}, "rivulet-x", []uint32{11}},
		{3, map[uint16]uint64{attrIndex: 5, attrClientFlags: 2}, "rivulet-x", nil},
		{2, map[uint16]uint64{attrIndex: 5}, "", nil},
	}
	if !reflect.DeepEqual(*all, want) {
		t.Errorf("told\n%+v, want\n%+v", *all, want)
	}
}

// TestAnswers takes what a kernel may say: nothing of use, half an attribute, an error.
func TestAnswers(t *testing.T) {
	o := Options{Size: 4096, BlockSize: 4096, Identity: "x"}
	for _, data := range [][]byte{nil, {1, 0}, {8, 0, 9, 0, 1, 0, 0, 0}, {6, 0, 1, 0, 1, 0, 0, 0}} {
		c, _ := pretend(t, data, nil)
		if number, err := c.connect(3, &o); err == nil {
			t.Errorf("answer %v: device %d", data, number)
		}
	}
	c, _ := pretend(t, nil, genltest.Error(int(unix.EBUSY)))
	if err := c.disconnect(1); err == nil {
		t.Error("a refusal is taken for success")
	}
}

func TestUnsupported(t *testing.T) {
	conn := genltest.Dial(func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
		return nil, genltest.Error(int(unix.ENOENT))
	})
	defer func() { _ = conn.Close() }()
	if _, err := newClient(conn); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a kernel without the family: %v", err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Size: 8192, BlockSize: 4096, Identity: "a"}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Options){
		"no size":     func(o *Options) { o.Size = 0 },
		"half blocks": func(o *Options) { o.Size = 4097 },
		"block size":  func(o *Options) { o.BlockSize = 3 },
		"patience":    func(o *Options) { o.Patience = -1 },
		"readahead":   func(o *Options) { o.ReadAhead = -1 },
		"nobody":      func(o *Options) { o.Identity = "" },
		"a blank":     func(o *Options) { o.Identity = "a b" },
		"a long name": func(o *Options) { o.Identity = strings.Repeat("a", MaxIdentity+1) },
	} {
		o := good
		if change(&o); o.check() == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := Find("\n"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("find by a bad identity: %v", err)
	}
	if _, err := Find("nobody-has-this"); !errors.Is(err, ErrNotFound) {
		t.Errorf("find nobody: %v", err)
	}
	for _, path := range []string{"/dev/sda", "/dev/nbdx", "/dev/nbd", ""} {
		if _, err := At(path); !errors.Is(err, ErrNotFound) {
			t.Errorf("at %q: %v", path, err)
		}
	}
}
