package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// validity is how long certificates hold: a lab lives for days at the most.
const validity = 30 * 24 * time.Hour

// pki is what the members of a cluster know each other by, in files of a directory.
type pki struct {
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
	// server is the API server's URL.
	server string
	tokens string
}

// newPKI makes a CA, the API server's certificates, and the key of service accounts.
func newPKI(dir string, api netip.Addr) (*pki, error) {
	p := &pki{dir: dir, server: "https://" + netip.AddrPortFrom(api, apiPort).String()}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	p.ca, err = p.issue("ca", p.key, &x509.Certificate{
		Subject: pkix.Name{CommonName: "cluster"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
	if err != nil {
		return nil, err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return p, errors.Join(
		p.certificate("apiserver", &x509.Certificate{
			Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames: []string{
				"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			},
			IPAddresses: []net.IP{api.AsSlice(), net.ParseIP(serviceIP), net.ParseIP(serviceIPv6), net.IPv4(127, 0, 0, 1)},
		}),
		p.certificate("kubelet-client", &x509.Certificate{
			Subject:     pkix.Name{CommonName: "kubelet-client", Organization: []string{"system:masters"}},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}),
		p.writeKey("accounts", accounts))
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) write(name, kind string, der []byte) error {
	return os.WriteFile(p.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (p *pki) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	return errors.Join(p.write(name+".key", "EC PRIVATE KEY", der), p.write(name+".pub", "PUBLIC KEY", public))
}

// certificate makes a key and a certificate for it.
func (p *pki) certificate(name string, c *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := p.writeKey(name, key); err != nil {
		return err
	}
	_, err = p.issue(name, key, c)
	return err
}

func (p *pki) issue(name string, key *ecdsa.PrivateKey, c *x509.Certificate) (*x509.Certificate, error) {
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(validity)
	issuer := p.ca
	if issuer == nil {
		issuer = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, p.key)
	if err != nil {
		return nil, err
	}
	if err := p.write(name+".crt", "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// conf is the kubeconfig of a user.
func (p *pki) conf(user string) string { return p.file(filepath.Base(user) + ".conf") }

// user makes a user with a token, and its kubeconfig.
func (p *pki) user(name, group string) error {
	token := rand.Text()
	p.tokens += fmt.Sprintf("%s,%s,%s,%q\n", token, name, name, group)
	return errors.Join(
		os.WriteFile(p.file("tokens.csv"), []byte(p.tokens), 0o600),
		os.WriteFile(p.conf(name), fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: x
clusters: [{name: x, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: x, user: {token: %q}}]
contexts: [{name: x, context: {cluster: x, user: x}}]
`, p.server, p.file("ca.crt"), token), 0o600))
}
