package etcdstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
	"go.uber.org/zap"
)

// Defaults of Config.
const (
	DefaultEndpoint      = "http://127.0.0.1:2379"
	DefaultTimeout       = 3 * time.Second
	DefaultProbeInterval = 5 * time.Second
	DefaultAuditInterval = 10 * time.Minute
)

// Config says how to reach etcd. The zero value means an etcd on this machine
// without TLS.
type Config struct {
	// Endpoints are the members: http://HOST:PORT, https://HOST:PORT,
	// unix:///PATH, or HOST:PORT, which speaks TLS when a CA or certificate
	// is given. [DefaultEndpoint] when empty. One that uses TLS makes all use
	// it, so they must not be mixed.
	Endpoints []string
	// Prefix is where the cluster's keys live, without a slash at its end;
	// topology.DefaultPrefix when empty.
	Prefix string
	// Raw: below the prefix is another program's layout. Snapshots have its
	// keys undecoded.
	Raw bool
	// CAFile signed the servers' certificates; the system's authorities when
	// empty. CertFile and KeyFile are the client's own certificate. All PEM.
	CAFile, CertFile, KeyFile string
	// Username and Password are for etcd's own authentication.
	Username, Password string
	// Timeout bounds every single request; [DefaultTimeout] when zero.
	Timeout time.Duration
	// ProbeInterval is how often a silent watch is asked for a sign of life;
	// [DefaultProbeInterval] when zero.
	ProbeInterval time.Duration
	// AuditInterval is how often a watch that never broke lists everything
	// anew all the same, so that an etcd restored from a backup under a
	// running connection is noticed; [DefaultAuditInterval] when zero.
	AuditInterval time.Duration
	// Logger receives the etcd client's own log. Nothing is logged when nil.
	Logger *zap.Logger
}

// endpoint is a parsed member address.
type endpoint struct {
	raw     string // as the user wrote it, for messages
	url     string // as the etcd client wants it
	network string // "tcp" or "unix"
	addr    string // for net.Dial
	tls     bool
}

func invalid(item, remedy, what string, args ...any) error {
	return &topology.Error{Kind: topology.ErrInvalid, Item: item, What: fmt.Sprintf(what, args...), Remedy: remedy}
}

// resolve checks the configuration, fills in the defaults and reads the
// certificates. Errors are of kind ErrInvalid and name the item.
func (c Config) resolve() (Config, []endpoint, *tls.Config, error) {
	fail := func(err error) (Config, []endpoint, *tls.Config, error) { return c, nil, nil, err }
	if len(c.Endpoints) == 0 {
		c.Endpoints = []string{DefaultEndpoint}
	}
	if c.Prefix == "" {
		c.Prefix = topology.DefaultPrefix
	}
	c.Prefix = strings.TrimRight(c.Prefix, "/")
	if c.Prefix == "" || strings.ContainsFunc(c.Prefix, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fail(invalid(fmt.Sprintf("etcd prefix %q", c.Prefix), "use something like "+topology.DefaultPrefix, "not a key prefix"))
	}
	if c.Timeout < 0 || c.ProbeInterval < 0 || c.AuditInterval < 0 {
		return fail(invalid("etcd timeout", "use a positive duration such as 3s", "negative"))
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.ProbeInterval == 0 {
		c.ProbeInterval = DefaultProbeInterval
	}
	if c.AuditInterval == 0 {
		c.AuditInterval = DefaultAuditInterval
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	switch {
	case c.Username != "" && c.Password == "":
		return fail(invalid("etcd user "+c.Username, "give the password too", "no password"))
	case c.Username == "" && c.Password != "":
		return fail(invalid("etcd password", "give the user name too", "a password without a user"))
	}
	tc, err := c.tlsConfig()
	if err != nil {
		return fail(err)
	}
	var eps []endpoint
	for _, raw := range c.Endpoints {
		e, err := parseEndpoint(raw, tc != nil)
		if err != nil {
			return fail(err)
		}
		eps = append(eps, e)
	}
	for _, e := range eps {
		if e.tls != eps[0].tls {
			return fail(invalid("etcd endpoints", "use https:// for all of them or for none", "%s and %s: TLS cannot be mixed with plain connections", eps[0].raw, e.raw))
		}
	}
	if eps[0].tls && tc == nil {
		tc = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if !eps[0].tls && tc != nil {
		return fail(invalid("etcd endpoint "+eps[0].raw, "use https://, or leave the certificates out", "certificates are given but the endpoint does not use TLS"))
	}
	return c, eps, tc, nil
}

// tlsConfig reads the certificate files; nil when there are none.
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
			return nil, invalid("etcd CA certificate "+c.CAFile, "give a PEM file with BEGIN CERTIFICATE", "no certificate in it")
		}
	}
	if c.CertFile != "" {
		certPEM, err := readFile("etcd client certificate", c.CertFile)
		if err != nil {
			return nil, err
		}
		keyPEM, err := readFile("etcd client key", c.KeyFile)
		if err != nil {
			return nil, err
		}
		cert, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			return nil, invalid("etcd client certificate "+c.CertFile, "check that "+c.KeyFile+" is its key and that both are PEM", "%s", strings.TrimPrefix(err.Error(), "tls: "))
		}
		tc.Certificates = []tls.Certificate{cert}
	}
	return tc, nil
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

func parseEndpoint(raw string, wantTLS bool) (endpoint, error) {
	bad := func(what string) (endpoint, error) {
		return endpoint{}, invalid(fmt.Sprintf("etcd endpoint %q", raw), "write http://HOST:PORT, https://HOST:PORT or unix:///PATH", "%s", what)
	}
	s := strings.TrimSpace(raw)
	if !strings.Contains(s, "://") {
		scheme := "http://"
		if wantTLS {
			scheme = "https://"
		}
		s = scheme + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("not an address")
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return bad("the path of a socket must be absolute")
		}
		return endpoint{raw: raw, url: "unix://" + u.Path, network: "unix", addr: u.Path}, nil
	case "http", "https":
	default:
		return bad(fmt.Sprintf("unknown scheme %q", u.Scheme))
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || host == "" {
		return bad("no host and port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad(fmt.Sprintf("%q is not a port", port))
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return bad("only a host and a port are meant here")
	}
	return endpoint{raw: raw, url: u.Scheme + "://" + u.Host, network: "tcp", addr: u.Host, tls: u.Scheme == "https"}, nil
}
