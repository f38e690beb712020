// Package imageservice stands between a kubelet and containerd's image service, to learn what images
// are pulled with: containerd does not tell snapshotters.
//
// Calls are forwarded as they come, byte by byte, whatever version of the interface they
// are of. Of PullImage alone the request is read.
package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/google/go-containerregistry/pkg/authn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage bounds a message, in bytes: the kubelet's own bound.
const maxMessage = 16 << 20

// A Learner is told what images are pulled with, before they are.
type Learner interface {
	// Learn returns what takes back what was learned, for a pull that failed.
	Learn(image string, login authn.AuthConfig) (takeBack func(), err error)
}

// A Proxy forwards what its server is asked. The zero value is of no use.
type Proxy struct {
	upstream *grpc.ClientConn
	learner  Learner
	log      *slog.Logger
}

// New returns a proxy to containerd's socket, which need not be there yet. The
// caller closes it. log is told what could not be learned; nil: nobody is.
func New(socket string, learner Learner, log *slog.Logger) (*Proxy, error) {
	conn, err := grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.WaitForReady(true)))
	if err != nil {
		return nil, fmt.Errorf("image service: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Proxy{conn, learner, log}, nil
}

// Close ends the connection to containerd.
func (p *Proxy) Close() error { return p.upstream.Close() }

// Server returns a server that forwards everything.
func (p *Proxy) Server() *grpc.Server {
	return grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return p.forward(stream) }))
}

// forward hands one call on. The calls of these interfaces have one request each.
func (p *Proxy) forward(down grpc.ServerStream) (err error) {
	method, ok := grpc.MethodFromServerStream(down)
	if !ok {
		return status.Error(codes.Internal, "the call has no method")
	}
	var request []byte
	if err := down.RecvMsg(&request); err != nil {
		return err
	}
	if method == runtimeapi.ImageService_PullImage_FullMethodName {
		takeBack := p.learn(request)
		defer func() {
			if err != nil {
				takeBack()
			}
		}()
	}
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md.Copy())
	}
	up, err := p.upstream.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := up.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) { // the reason of an EOF comes below
		return err
	}
	if err := up.CloseSend(); err != nil {
		return err
	}
	for first := true; ; first = false {
		var answer []byte
		err := up.RecvMsg(&answer)
		if first {
			if md, headerErr := up.Header(); headerErr == nil {
				_ = down.SetHeader(md)
			}
		}
		if err != nil {
			down.SetTrailer(up.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := down.SendMsg(&answer); err != nil {
			return err
		}
	}
}

// learn tells what an image is pulled with. What cannot be read is containerd's to
// refuse.
func (p *Proxy) learn(request []byte) (takeBack func()) {
	var q runtimeapi.PullImageRequest
	if err := proto.Unmarshal(request, &q); err != nil || q.GetImage().GetImage() == "" {
		return func() {}
	}
	image := q.GetImage().GetImage()
	takeBack, err := p.learner.Learn(image, loginOf(q.GetAuth()))
	if err != nil {
		p.log.Warn("the login of a pull is not remembered", "image", image, "err", err)
	}
	if takeBack == nil {
		return func() {}
	}
	return takeBack
}

func loginOf(a *runtimeapi.AuthConfig) authn.AuthConfig {
	login := authn.AuthConfig{Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()}
	if login.Username == "" && login.Password == "" {
		login.Auth = a.GetAuth()
	}
	return login
}

// A rawCodec leaves messages as they are. They are *[]byte.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("a message is a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a message is a %T", v)
	}
	*b = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }
