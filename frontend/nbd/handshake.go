package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// Limits of the handshake. A client that goes past one is cut off.
const (
	maxOptions = 64      // options
	maxSkip    = 1 << 20 // bytes of one option's data that are skipped
	maxQueries = 64      // metadata contexts in one option
)

// errEnd is the orderly end of a handshake without an export.
var errEnd = errors.New("client left")

// A handshake is the first phase of a connection, up to the choice of an
// export. One goroutine runs it.
type handshake struct {
	srv    *Server
	nc     net.Conn                  // becomes a TLS connection by STARTTLS
	attach func(name string) *export // takes the export, once

	fixed      bool // the client knows answers to options
	noZeroes   bool
	secure     bool
	structured bool
	export     *export
	contexts   []metaContext
	ctxExport  *export // that contexts were chosen for
	out        []byte
}

// run answers options until the client has chosen an export or leaves.
func (h *handshake) run(ctx context.Context) error {
	greeting := wire.AppendGreeting(nil, wire.FlagFixedNewstyle|wire.FlagNoZeroes)
	if _, err := h.nc.Write(greeting); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	var b [4]byte
	if _, err := io.ReadFull(h.nc, b[:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^uint32(wire.FlagFixedNewstyle|wire.FlagNoZeroes) != 0 {
		return fmt.Errorf("client flags %#x not supported", flags)
	}
	h.fixed = flags&uint32(wire.FlagFixedNewstyle) != 0
	h.noZeroes = flags&uint32(wire.FlagNoZeroes) != 0
	for range maxOptions {
		if err := h.option(ctx); err != nil || h.export != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d options", maxOptions)
}

// option reads one option and answers it.
func (h *handshake) option(ctx context.Context) error {
	var b [wire.OptionHeaderSize]byte
	if _, err := io.ReadFull(h.nc, b[:]); err != nil {
		return err
	}
	o, err := wire.ParseOptionHeader(b[:])
	if err != nil {
		return fmt.Errorf("read option: %w", err)
	}
	if !h.fixed && o.Option != wire.OptExportName {
		return fmt.Errorf("client without fixed newstyle sends option %d", o.Option)
	}
	if o.Length > wire.MaxInfo {
		return h.skip(o)
	}
	data := make([]byte, o.Length)
	if _, err := io.ReadFull(h.nc, data); err != nil {
		return fmt.Errorf("read option %d: %w", o.Option, err)
	}
	h.out = h.out[:0]
	err = h.answer(ctx, o.Option, data)
	if len(h.out) > 0 {
		if _, werr := h.nc.Write(h.out); werr != nil && err == nil {
			err = fmt.Errorf("answer option %d: %w", o.Option, werr)
		}
	}
	return err
}

// skip refuses an option whose data is too long.
func (h *handshake) skip(o wire.OptionHeader) error {
	if o.Length > maxSkip || o.Option == wire.OptExportName {
		return fmt.Errorf("option %d with %d bytes of data", o.Option, o.Length)
	}
	if _, err := io.CopyN(io.Discard, h.nc, int64(o.Length)); err != nil {
		return fmt.Errorf("skip option %d: %w", o.Option, err)
	}
	_, err := h.nc.Write(wire.AppendReply(nil, o.Option, wire.RepErrTooBig, nil))
	return err
}

func (h *handshake) reply(o wire.Option, t wire.ReplyType, data []byte) {
	h.out = wire.AppendReply(h.out, o, t, data)
}

func (h *handshake) refuse(o wire.Option, t wire.ReplyType, why string) {
	h.reply(o, t, []byte(why))
}

// answer appends the answer to one option to h.out.
func (h *handshake) answer(ctx context.Context, o wire.Option, data []byte) error {
	if h.srv.RequireTLS && !h.secure {
		switch o {
		case wire.OptStartTLS, wire.OptAbort:
		case wire.OptExportName:
			return errors.New("client wants an export without TLS")
		default:
			h.refuse(o, wire.RepErrTLSReqd, "this server requires TLS")
			return nil
		}
	}
	switch o {
	case wire.OptExportName:
		return h.exportName(data)
	case wire.OptAbort:
		h.reply(o, wire.RepAck, nil)
		return errEnd
	case wire.OptList:
		h.list(o, data)
	case wire.OptStartTLS:
		return h.startTLS(ctx, o, data)
	case wire.OptInfo, wire.OptGo:
		h.info(o, data)
	case wire.OptStructuredReply:
		if h.empty(o, data) {
			h.structured = true
			h.reply(o, wire.RepAck, nil)
		}
	case wire.OptListMeta, wire.OptSetMeta:
		h.meta(o, data)
	default:
		h.refuse(o, wire.RepErrUnsup, "unknown option")
	}
	return nil
}

// empty refuses an option that has data but should not.
func (h *handshake) empty(o wire.Option, data []byte) bool {
	if len(data) == 0 {
		return true
	}
	h.refuse(o, wire.RepErrInvalid, "option takes no data")
	return false
}

// exportName ends the handshake in the old way, which knows no errors.
func (h *handshake) exportName(data []byte) error {
	name := string(data)
	if err := wire.CheckName(name); err != nil {
		return fmt.Errorf("choose export: %w", err)
	}
	e := h.attach(name)
	if e == nil {
		return fmt.Errorf("choose export %q: %w", name, ErrUnknownExport)
	}
	h.choose(e)
	info := e.info()
	h.out = binary.BigEndian.AppendUint64(h.out, info.Size)
	h.out = binary.BigEndian.AppendUint16(h.out, h.flags(info))
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, wire.ExportNameZeroes)...)
	}
	return nil
}

// choose ends the handshake with e.
func (h *handshake) choose(e *export) {
	if h.ctxExport != e {
		h.contexts = nil
	}
	h.export = e
}

// flags returns an export's flags for this client.
func (h *handshake) flags(info wire.ExportInfo) uint16 {
	if h.structured {
		return info.Flags | wire.FlagSendDF
	}
	return info.Flags
}

func (h *handshake) list(o wire.Option, data []byte) {
	if !h.empty(o, data) {
		return
	}
	for _, e := range h.srv.list() {
		h.reply(o, wire.RepServer, wire.AppendServer(nil, e.Name, e.Description))
	}
	h.reply(o, wire.RepAck, nil)
}

// info answers INFO and GO.
func (h *handshake) info(o wire.Option, data []byte) {
	r, err := wire.ParseInfoRequest(data)
	if err != nil {
		h.refuse(o, wire.RepErrInvalid, err.Error())
		return
	}
	var e *export
	if o == wire.OptGo {
		e = h.attach(r.Name)
	} else {
		e = h.srv.find(r.Name)
	}
	if e == nil {
		h.refuse(o, wire.RepErrUnknown, "no such export")
		return
	}
	info := e.info()
	info.Flags = h.flags(info)
	h.reply(o, wire.RepInfo, wire.AppendInfoExport(nil, info))
	seen := map[wire.InfoType]bool{}
	for _, t := range append(r.Info, wire.InfoBlockSize) {
		if seen[t] {
			continue
		}
		seen[t] = true
		switch t {
		case wire.InfoName:
			h.reply(o, wire.RepInfo, wire.AppendInfoString(nil, t, e.Name))
		case wire.InfoDescription:
			if e.Description != "" {
				h.reply(o, wire.RepInfo, wire.AppendInfoString(nil, t, e.Description))
			}
		case wire.InfoBlockSize:
			h.reply(o, wire.RepInfo, wire.AppendInfoBlockSize(nil, wire.BlockSize{
				Minimum: 1, Preferred: uint32(e.PreferredBlock), Maximum: wire.MaxBlock}))
		}
	}
	h.reply(o, wire.RepAck, nil)
	if o == wire.OptGo {
		h.choose(e)
	}
}

// meta answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) meta(o wire.Option, data []byte) {
	set := o == wire.OptSetMeta
	if set {
		h.contexts, h.ctxExport = nil, nil
	}
	r, err := wire.ParseMetaRequest(data)
	switch {
	case err != nil:
		h.refuse(o, wire.RepErrInvalid, err.Error())
		return
	case len(r.Queries) > maxQueries:
		h.refuse(o, wire.RepErrTooBig, "too many queries")
		return
	case !h.structured:
		h.refuse(o, wire.RepErrInvalid, "structured replies first")
		return
	}
	e := h.srv.find(r.Name)
	if e == nil {
		h.refuse(o, wire.RepErrUnknown, "no such export")
		return
	}
	for _, m := range metaContexts {
		if !matches(m.name, r.Queries, set) {
			continue
		}
		id := uint32(0) // has no meaning in a list
		if set {
			id = m.id
			h.contexts = append(h.contexts, m)
		}
		h.reply(o, wire.RepMetaContext, wire.AppendMetaContext(nil, id, m.name))
	}
	if set {
		h.ctxExport = e
	}
	h.reply(o, wire.RepAck, nil)
}

// matches reports whether one of the queries asks for the context name. In a
// list no query asks for all, and a namespace for all in it.
func matches(name string, queries []string, set bool) bool {
	if !set && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		if q == name || !set && strings.HasSuffix(q, ":") && strings.HasPrefix(name, q) {
			return true
		}
	}
	return false
}

// startTLS goes on over TLS, and forgets what was agreed on in the clear.
func (h *handshake) startTLS(ctx context.Context, o wire.Option, data []byte) error {
	switch {
	case h.srv.TLS == nil:
		h.refuse(o, wire.RepErrUnsup, "this server has no TLS")
		return nil
	case h.secure:
		h.refuse(o, wire.RepErrInvalid, "TLS is on already")
		return nil
	case !h.empty(o, data):
		return nil
	}
	if _, err := h.nc.Write(wire.AppendReply(nil, o, wire.RepAck, nil)); err != nil {
		return fmt.Errorf("answer option %d: %w", o, err)
	}
	tc := tls.Server(h.nc, h.srv.TLS)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("start TLS: %w", err)
	}
	h.nc, h.secure = tc, true
	h.structured, h.contexts, h.ctxExport = false, nil, nil
	return nil
}
