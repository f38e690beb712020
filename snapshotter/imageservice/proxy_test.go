package imageservice

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// containerd is an image service that tells what it was asked.
type containerd struct {
	runtimeapi.UnimplementedImageServiceServer
	learned *learned

	mu     sync.Mutex // guards what follows
	pulled []string   // image, user and what was learned when it came
	trace  string
}

func (c *containerd) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled = append(c.pulled, fmt.Sprint(q.Image.Image, " ", q.Auth.GetUsername(), " ", c.learned.get(q.Image.Image)))
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md.Get("trace")) == 1 {
		c.trace = md.Get("trace")[0]
	}
	if q.Auth.GetUsername() == "wrong" {
		return nil, status.Error(codes.Unauthenticated, "who is that")
	}
	return &runtimeapi.PullImageResponse{ImageRef: "pulled " + q.Image.Image}, nil
}

func (c *containerd) StreamImages(_ *runtimeapi.StreamImagesRequest, s grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	for i := range 3 {
		if err := s.Send(&runtimeapi.StreamImagesResponse{Images: []*runtimeapi.Image{{Id: fmt.Sprint(i)}}}); err != nil {
			return err
		}
	}
	return nil
}

// learned is what a proxy has learned, by image.
type learned struct {
	mu     sync.Mutex // guards what follows
	logins map[string]string
	err    error
}

func (l *learned) Learn(image string, login authn.AuthConfig) (func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	before := l.logins[image]
	l.logins[image] = login.Username + login.Auth + login.RegistryToken + login.IdentityToken
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.logins[image] = before
	}, nil
}

func (l *learned) get(image string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.logins[image]
}

// serve has a server answer on a socket until the test ends.
func serve(t *testing.T, s *grpc.Server, socket string) {
	t.Helper()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestProxy pulls through a proxy whose containerd comes later, with logins of every kind.
func TestProxy(t *testing.T) {
	dir := t.TempDir()
	know := &learned{logins: map[string]string{}}
	p, err := New(filepath.Join(dir, "containerd.sock"), know, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	serve(t, p.Server(), filepath.Join(dir, "proxy.sock"))
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "proxy.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	kubelet := runtimeapi.NewImageServiceClient(conn)
	first := make(chan error, 1)
	pull := func(image string, auth *runtimeapi.AuthConfig) (string, error) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "trace", "abc")
		r, err := kubelet.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}, Auth: auth})
		return r.GetImageRef(), err
	}
	go func() {
		_, err := pull("early", nil)
		first <- err
	}()
	c := &containerd{learned: know}
	s := grpc.NewServer()
	runtimeapi.RegisterImageServiceServer(s, c)
	serve(t, s, filepath.Join(dir, "containerd.sock"))
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		auth *runtimeapi.AuthConfig
		want string // that is learned
	}{
		{&runtimeapi.AuthConfig{Username: "someone", Password: "secret"}, "someone"},
		{&runtimeapi.AuthConfig{Auth: "c29tZW9uZTpzZWNyZXQ="}, "c29tZW9uZTpzZWNyZXQ="},
		{&runtimeapi.AuthConfig{RegistryToken: "token"}, "token"},
		{&runtimeapi.AuthConfig{IdentityToken: "identity"}, "identity"},
		{nil, ""},
	} {
		ref, err := pull("a", q.auth)
		if err != nil || ref != "pulled a" || know.get("a") != q.want {
			t.Errorf("%v: %q, %v, %q is learned", q.auth, ref, err, know.get("a"))
		}
		if last := c.pulled[len(c.pulled)-1]; last != fmt.Sprint("a ", q.auth.GetUsername(), " ", q.want) {
			t.Errorf("%v: when containerd was asked, it was %q", q.auth, last)
		}
	}
	if c.trace != "abc" {
		t.Errorf("metadata came as %q", c.trace)
	}
	if _, err := pull("a", &runtimeapi.AuthConfig{Username: "someone"}); err != nil {
		t.Fatal(err)
	}
	_, err = pull("a", &runtimeapi.AuthConfig{Username: "wrong"})
	if status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != "who is that" || know.get("a") != "someone" {
		t.Errorf("a pull that fails: %v, %q is learned", err, know.get("a"))
	}
	know.err = errors.New("no")
	if ref, err := pull("a", nil); err != nil || ref != "pulled a" {
		t.Errorf("what cannot be learned: %q, %v", ref, err)
	}
	if _, err := kubelet.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("what containerd does not know: %v", err)
	}
	images, err := kubelet.StreamImages(t.Context(), &runtimeapi.StreamImagesRequest{})
	for i := range 3 {
		if err != nil {
			break
		}
		var r *runtimeapi.StreamImagesResponse
		if r, err = images.Recv(); err == nil && r.Images[0].Id != fmt.Sprint(i) {
			t.Errorf("image %d is %v", i, r)
		}
	}
	if err != nil {
		t.Error(err)
	}
}
