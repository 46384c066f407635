//go:build kubernetes

package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pki is what the members of a cluster know each other by, in files of a directory.
type pki struct {
	t   *testing.T
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
	// server is the API server's URL.
	server string
	tokens string
}

// newPKI makes a CA, the API server's certificates, and the key of service accounts.
func newPKI(t *testing.T, dir string, api netip.Addr) *pki {
	t.Helper()
	p := &pki{t: t, dir: dir, server: "https://" + netip.AddrPortFrom(api, apiPort).String()}
	var err error
	p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p.ca = p.issue("ca", p.key, &x509.Certificate{
		Subject: pkix.Name{CommonName: "cluster"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
	p.certificate("apiserver", &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		},
		IPAddresses: []net.IP{api.AsSlice(), net.ParseIP(serviceIP), net.IPv4(127, 0, 0, 1)},
	})
	p.certificate("kubelet-client", &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kubelet-client", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p.writeKey("accounts", accounts)
	return p
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) write(name, kind string, der []byte) {
	p.t.Helper()
	require.NoError(p.t, os.WriteFile(p.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func (p *pki) writeKey(name string, key *ecdsa.PrivateKey) {
	p.t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(p.t, err)
	p.write(name+".key", "EC PRIVATE KEY", der)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(p.t, err)
	p.write(name+".pub", "PUBLIC KEY", public)
}

// certificate makes a key and a certificate for it.
func (p *pki) certificate(name string, c *x509.Certificate) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(p.t, err)
	p.writeKey(name, key)
	p.issue(name, key, c)
}

func (p *pki) issue(name string, key *ecdsa.PrivateKey, c *x509.Certificate) *x509.Certificate {
	p.t.Helper()
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	issuer := p.ca
	if issuer == nil {
		issuer = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, p.key)
	require.NoError(p.t, err)
	p.write(name+".crt", "CERTIFICATE", der)
	made, err := x509.ParseCertificate(der)
	require.NoError(p.t, err)
	return made
}

// user makes a user with a token, and returns the kubeconfig.
func (p *pki) user(name, group string) string {
	p.t.Helper()
	token := rand.Text()
	p.tokens += fmt.Sprintf("%s,%s,%s,%q\n", token, name, name, group)
	require.NoError(p.t, os.WriteFile(p.file("tokens.csv"), []byte(p.tokens), 0o600))
	file := p.file(filepath.Base(name) + ".conf")
	require.NoError(p.t, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: x
clusters: [{name: x, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: x, user: {token: %q}}]
contexts: [{name: x, context: {cluster: x, user: x}}]
`, p.server, p.file("ca.crt"), token), 0o600))
	return file
}
