package etcdstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/baize-net/baize/topology/fault"
)

// certificates are the TLS settings of a client. The files are read again for
// every connection, so that certificates can be rotated while the process
// runs: etcd's connections are few and long. A file that cannot be used, such
// as one that is half written, leaves what was read before in force, and is
// reported (Store.Faults). It implements credentials.TransportCredentials.
type certificates struct {
	files Config
	mu    sync.Mutex
	last  *tls.Config
	// servers are the certificates that members showed last, by address.
	servers map[string]*x509.Certificate
}

// loadCertificates reads the files; nil when none are named.
func loadCertificates(c Config) (*certificates, error) {
	conf, err := c.tlsConfig()
	if err != nil || conf == nil {
		return nil, err
	}
	return &certificates{files: c, last: conf}, nil
}

// config returns the settings for a connection that begins now.
func (c *certificates) config() *tls.Config {
	conf, _ := c.read()
	return conf
}

// read returns the settings, and why they are not those of the files.
func (c *certificates) read() (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conf, err := c.files.tlsConfig()
	if err == nil && conf != nil {
		c.last = conf
	}
	return c.last.Clone(), err
}

// Faults returns what is wrong although etcd answers: a certificate that cannot
// be used, where the one read before still is.
func (s *Store) Faults() []fault.Fault {
	n, ok := s.backend.(*network)
	if !ok {
		return nil
	}
	out := exposed(n.cfg.KeyFile, n.cfg.PasswordFile)
	if n.certs == nil {
		return out
	}
	conf, err := n.certs.read()
	out = append(out, n.certs.expiring(conf, time.Now())...)
	if err == nil {
		return out
	}
	f := fault.Of(err)
	f.Code, f.Severity = fault.CertificateUnusable, fault.Warning
	f.What += ": the one that was read before stays in use"
	return append(out, f)
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *certificates) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := credentials.NewTLS(c.config()).ClientHandshake(ctx, authority, conn)
	if t, ok := info.(credentials.TLSInfo); ok && err == nil {
		c.saw(authority, t.State.PeerCertificates)
	}
	return secure, info, err
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *certificates) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are a client's credentials")
}

// Info implements credentials.TransportCredentials.
func (c *certificates) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}).Info()
}

// Clone implements credentials.TransportCredentials.
func (c *certificates) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (c *certificates) OverrideServerName(string) error {
	return errors.New("the server's name is that of its endpoint")
}

// tlsConfig reads the certificate files; nil when none are named.
func (c Config) tlsConfig() (*tls.Config, error) {
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		return nil, invalid("etcd client certificate "+c.CertFile, "give its private key too", "no key")
	case c.CertFile == "" && c.KeyFile != "":
		return nil, invalid("etcd client key "+c.KeyFile, "give its certificate too", "no certificate")
	case c.CertFile == "" && c.CAFile == "":
		return nil, nil
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := readFile("etcd CA certificate", c.CAFile)
		if err != nil {
			return nil, err
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, invalid("etcd CA certificate "+c.CAFile,
				"give a PEM file with BEGIN CERTIFICATE", "no certificate in it")
		}
	}
	if c.CertFile != "" {
		cert, err := c.keyPair()
		if err != nil {
			return nil, err
		}
		tc.Certificates = []tls.Certificate{cert}
	}
	return tc, nil
}

func (c Config) keyPair() (tls.Certificate, error) {
	certPEM, err := readFile("etcd client certificate", c.CertFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := readFile("etcd client key", c.KeyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return cert, invalid("etcd client certificate "+c.CertFile,
			"check that "+c.KeyFile+" is its key and that both are PEM", "%s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	return cert, nil
}

func readFile(kind, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, invalid(kind+" "+path, "check the path and its permissions", "cannot be read: %v", err)
	}
	return b, nil
}
