package nbdclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

const (
	maxReplies = 10_000   // answers to one option
	maxReply   = 16 << 10 // bytes of one answer
)

// An OptionError is a server's refusal of what the client asked for in the
// handshake.
type OptionError struct {
	Option  uint32 // NBD_OPT_*
	Type    uint32 // NBD_REP_ERR_*
	Message string // the server's, quoted where it is printed
}

// Error describes the refusal.
func (e *OptionError) Error() string {
	return fmt.Sprintf("server refuses option %d with error %d: %q", e.Option, e.Type&^(1<<31), e.Message)
}

// A handshake is a connection before it has an export. One goroutine uses it.
type handshake struct {
	nc net.Conn
}

// open connects to a and agrees on the newstyle handshake, with TLS if a wants
// it.
func (d *Dialer) open(ctx context.Context, a Address) (*handshake, error) {
	var nd net.Dialer
	nc, err := nd.DialContext(ctx, a.Network, a.Addr)
	if err != nil {
		return nil, err
	}
	h := &handshake{nc}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	err = h.greet()
	if err == nil && a.TLS {
		err = h.startTLS(ctx, d.TLS, a)
	}
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return h, nil
}

func (h *handshake) greet() error {
	var b [wire.GreetingSize]byte
	if _, err := io.ReadFull(h.nc, b[:]); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	flags, err := wire.ParseGreeting(b[:])
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	const want = wire.FlagFixedNewstyle | wire.FlagNoZeroes
	if flags&want != want {
		return fmt.Errorf("server with handshake flags %#x is too old", flags)
	}
	_, err = h.nc.Write([]byte{0, 0, 0, byte(want)})
	return err
}

func (h *handshake) startTLS(ctx context.Context, cfg *tls.Config, a Address) error {
	if err := h.simple(wire.OptStartTLS); err != nil {
		return err
	}
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if cfg.ServerName == "" && a.Network == "tcp" {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(a.Addr)
	}
	tc := tls.Client(h.nc, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("start TLS: %w", err)
	}
	h.nc = tc
	return nil
}

// ask sends an option and passes each answer but the last to fn.
func (h *handshake) ask(o wire.Option, data []byte, fn func(wire.ReplyType, []byte) error) error {
	if _, err := h.nc.Write(wire.AppendOption(nil, o, data)); err != nil {
		return fmt.Errorf("send option %d: %w", o, err)
	}
	for range maxReplies {
		var b [wire.OptionReplyHeaderSize]byte
		if _, err := io.ReadFull(h.nc, b[:]); err != nil {
			return fmt.Errorf("read answer to option %d: %w", o, err)
		}
		r, err := wire.ParseReplyHeader(b[:])
		switch {
		case err != nil:
			return fmt.Errorf("read answer to option %d: %w", o, err)
		case r.Option != o:
			return fmt.Errorf("server answers option %d, asked was %d", r.Option, o)
		case r.Length > maxReply:
			return fmt.Errorf("server answers option %d with %d bytes", o, r.Length)
		}
		data := make([]byte, r.Length)
		if _, err := io.ReadFull(h.nc, data); err != nil {
			return fmt.Errorf("read answer to option %d: %w", o, err)
		}
		switch {
		case r.Type == wire.RepAck:
			return nil
		case r.Type.IsError():
			return &OptionError{uint32(o), uint32(r.Type), string(bytes.ToValidUTF8(data, nil))}
		}
		if err := fn(r.Type, data); err != nil {
			return fmt.Errorf("read answer to option %d: %w", o, err)
		}
	}
	return fmt.Errorf("server answers option %d more than %d times", o, maxReplies)
}

// simple asks for an option that has no data and no answer but yes or no.
func (h *handshake) simple(o wire.Option) error {
	return h.ask(o, nil, func(t wire.ReplyType, _ []byte) error {
		return fmt.Errorf("unexpected answer %d", t)
	})
}

// contexts asks for metadata contexts of the export and returns the IDs of
// those that the server has.
func (h *handshake) contexts(export string, names ...string) (map[uint32]string, error) {
	ids := map[uint32]string{}
	data := wire.MetaRequest{Name: export, Queries: names}.Append(nil)
	err := h.ask(wire.OptSetMeta, data, func(t wire.ReplyType, data []byte) error {
		if t != wire.RepMetaContext {
			return fmt.Errorf("unexpected answer %d", t)
		}
		id, name, err := wire.ParseMetaContext(data)
		if err == nil && len(ids) < len(names) {
			ids[id] = name
		}
		return err
	})
	var refused *OptionError
	if errors.As(err, &refused) {
		return nil, nil
	}
	return ids, err
}

// choose takes the export and ends the handshake.
func (h *handshake) choose(name string) (wire.ExportInfo, wire.BlockSize, error) {
	var info wire.ExportInfo
	size := wire.BlockSize{Minimum: 1, Preferred: 4096, Maximum: wire.MaxBlock}
	known := false
	data := wire.InfoRequest{Name: name, Info: []wire.InfoType{wire.InfoBlockSize}}.Append(nil)
	err := h.ask(wire.OptGo, data, func(t wire.ReplyType, data []byte) error {
		if t != wire.RepInfo || len(data) < 2 {
			return fmt.Errorf("unexpected answer %d", t)
		}
		var err error
		switch wire.InfoType(data[0])<<8 | wire.InfoType(data[1]) {
		case wire.InfoExport:
			info, err = wire.ParseInfoExport(data)
			known = true
		case wire.InfoBlockSize:
			size, err = wire.ParseInfoBlockSize(data)
		}
		return err
	})
	switch {
	case err != nil:
	case !known:
		err = errors.New("server does not tell the export's size")
	case info.Size > 1<<63-1:
		err = fmt.Errorf("export has %d bytes", info.Size)
	case size.Minimum != 1 || size.Maximum < wire.MinDF:
		err = fmt.Errorf("export takes requests of %d to %d bytes only", size.Minimum, size.Maximum)
	}
	return info, size, err
}
