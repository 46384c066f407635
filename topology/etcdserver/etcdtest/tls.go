package etcdtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/baize-net/baize/topology/etcdserver"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Validity is how long certificates of tests are valid.
const Validity = 365 * 24 * time.Hour

// TLS is a server that wants a client certificate, a user and a password.
type TLS struct {
	*Member
	// Endpoint is https://127.0.0.1:PORT.
	Endpoint string
	// CAFile signed the server's certificate and the client's, CertFile and
	// KeyFile.
	CAFile, CertFile, KeyFile string
	// Username may read and write below the prefix given to StartTLS, and
	// nothing else.
	Username, Password string
	// OtherCertFile and OtherKeyFile are of an authority the server does not
	// know, OtherCAFile.
	OtherCAFile, OtherCertFile, OtherKeyFile string
	// RootPassword is root's.
	RootPassword string

	ca  *authority
	dir string
}

// Issue writes a client certificate with a common name.
func (s *TLS) Issue(t testing.TB, name string) (certFile, keyFile string) {
	t.Helper()
	return s.ca.issue(t, s.dir, name)
}

// StartTLS runs a server with authentication on and one user whose role is
// limited to the keys below prefix + "/".
func StartTLS(t testing.TB, prefix string) *TLS {
	t.Helper()
	dir := t.TempDir()
	ca, other := newAuthority(t, dir, "ca"), newAuthority(t, dir, "other")
	serverCert, serverKey := ca.issue(t, dir, "server")
	s := &TLS{CAFile: ca.file, OtherCAFile: other.file, Username: "baize", Password: "secret of baize"}
	s.ca, s.dir, s.RootPassword = ca, dir, "root's secret"
	s.CertFile, s.KeyFile = ca.issue(t, dir, "client")
	s.OtherCertFile, s.OtherKeyFile = other.issue(t, dir, "stranger")
	s.Member = Run(t, etcdserver.Config{
		ClientURLs: []string{"https://127.0.0.1:0"},
		CertFile:   serverCert, KeyFile: serverKey, ClientCAFile: ca.file,
	})
	s.Endpoint = s.Endpoints[0]

	info := transport.TLSInfo{CertFile: s.CertFile, KeyFile: s.KeyFile, TrustedCAFile: s.CAFile}
	conf, err := info.ClientConfig()
	must(t, err)
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints, TLS: conf, Logger: zap.NewNop()})
	must(t, err)
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	_, err = c.UserAdd(ctx, "root", s.RootPassword)
	must(t, err)
	_, err = c.UserGrantRole(ctx, "root", "root")
	must(t, err)
	_, err = c.RoleAdd(ctx, "baize")
	must(t, err)
	from := prefix + "/"
	_, err = c.RoleGrantPermission(
		ctx,
		"baize",
		from,
		clientv3.GetPrefixRangeEnd(from),
		clientv3.PermissionType(clientv3.PermReadWrite),
	)
	must(t, err)
	_, err = c.UserAdd(ctx, s.Username, s.Password)
	must(t, err)
	_, err = c.UserGrantRole(ctx, s.Username, "baize")
	must(t, err)
	_, err = c.AuthEnable(ctx)
	must(t, err)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// authority is a certificate authority of the test's own.
type authority struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, dir, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(Validity),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	a := &authority{file: filepath.Join(dir, name+".pem"), key: key}
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue writes a certificate for 127.0.0.1, good for servers and clients.
func (a *authority) issue(t testing.TB, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(Validity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certFile, keyFile = filepath.Join(dir, name+"-cert.pem"), filepath.Join(dir, name+"-key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", keyDER)
	_, err = tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	return certFile, keyFile
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
