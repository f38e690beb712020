package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

// certificate writes a self-signed certificate for loopback and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert", "CERTIFICATE", cert), write("key", "PRIVATE KEY", pkcs8)
}

func TestTLS(t *testing.T) {
	certFile, keyFile := certificate(t)
	cfg, err := LoadTLS(certFile, keyFile, certFile)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := Listen("tcp::0")
	if err != nil {
		t.Fatal(err)
	}
	want := blockdevtest.Pattern(1<<20, 8)
	s := &Server{TLS: cfg, RequireTLS: true, Log: slog.New(slog.DiscardHandler)}
	addr := startOn(t, s, ln, Export{Name: "d", Device: blockdevtest.NewMemory(want, nil)})

	var refused *nbdclient.OptionError
	_, err = nbdclient.Dial(t.Context(), uri(t, addr, "d"))
	if !errors.As(err, &refused) || wire.ReplyType(refused.Type) != wire.RepErrTLSReqd {
		t.Errorf("dial without TLS: %v", err)
	}
	secure, err := URI(addr, "d", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nbdclient.Dial(t.Context(), secure); err == nil {
		t.Error("client trusts an unknown authority")
	}
	client := &tls.Config{RootCAs: cfg.ClientCAs, MinVersion: tls.VersionTLS12, Certificates: cfg.Certificates}
	blockdevtest.TestDevice(t, func(t *testing.T) blockdev.Device {
		c, err := (&nbdclient.Dialer{TLS: client}).Dial(t.Context(), secure)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}, want)
}
