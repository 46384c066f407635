package etcdstore

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
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
	// Origin says in an error where Endpoints come from: "from flag
	// --etcd-endpoints". Nothing is said when empty.
	Origin string
	// Prefix is where the cluster's keys live, without a slash at its end;
	// topology.DefaultPrefix when empty.
	Prefix string
	// Raw: below the prefix is another program's layout. Snapshots have its
	// keys undecoded.
	Raw bool
	// CAFile signed the servers' certificates; the system's authorities when
	// empty. CertFile and KeyFile are the client's own certificate. All PEM, and
	// read again for every connection, so they may be replaced at any time.
	CAFile, CertFile, KeyFile string
	// Username and Password are for etcd's own authentication. PasswordFile has the
	// password in its one line, in the place of Password.
	Username, Password, PasswordFile string
	// PlainPassword sends the password over connections without TLS to other machines,
	// too, which is refused otherwise.
	PlainPassword bool
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

	// Backend, when set, is used in place of the etcd at Endpoints, and all that
	// is said above about connections does not count.
	Backend Backend
	// Jitter spreads a wait, so that a thousand agents do not come back at the
	// same moment. Random between a half and one and a half when nil.
	Jitter func(time.Duration) time.Duration `json:"-"`
	// Decode makes a snapshot of a whole listing, which is immutable: many stores
	// in one process may share one. topology.NewSnapshot when nil, or NewRawSnapshot.
	Decode func(revision int64, kvs []topology.KV) *topology.Snapshot `json:"-"`
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

func (c Config) decoder() func(int64, []topology.KV) *topology.Snapshot {
	switch {
	case c.Decode != nil:
		return c.Decode
	case c.Raw:
		return topology.NewRawSnapshot
	}
	return topology.NewSnapshot
}

// resolve checks the configuration and fills in the defaults. Errors are of
// kind ErrInvalid and name the item.
func (c Config) resolve() (Config, error) {
	if len(c.Endpoints) == 0 {
		c.Endpoints = []string{DefaultEndpoint}
	}
	c.Prefix = strings.TrimRight(cmp.Or(c.Prefix, topology.DefaultPrefix), "/")
	unusable := func(r rune) bool { return r <= ' ' || r == 0x7f }
	if c.Prefix == "" || strings.ContainsFunc(c.Prefix, unusable) {
		return c, invalid(fmt.Sprintf("etcd prefix %q", c.Prefix),
			"use something like "+topology.DefaultPrefix, "not a key prefix")
	}
	if c.Timeout < 0 || c.ProbeInterval < 0 || c.AuditInterval < 0 {
		return c, invalid("etcd timeout", "use a positive duration such as 3s", "negative")
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.ProbeInterval = cmp.Or(c.ProbeInterval, DefaultProbeInterval)
	c.AuditInterval = cmp.Or(c.AuditInterval, DefaultAuditInterval)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Jitter == nil {
		c.Jitter = func(d time.Duration) time.Duration { return d/2 + rand.N(d) }
	}
	c.Decode = c.decoder()
	if err := c.readPassword(); err != nil {
		return c, err
	}
	switch {
	case c.Username != "" && c.Password == "":
		return c, invalid("etcd user "+c.Username, "give the password too", "no password")
	case c.Username == "" && c.Password != "":
		return c, invalid("etcd password", "give the user name too", "a password without a user")
	}
	return c, nil
}

// network reads the certificates and checks that the endpoints fit them.
func (c Config) network() (*network, error) {
	certs, err := loadCertificates(c)
	if err != nil {
		return nil, err
	}
	n := &network{cfg: c, certs: certs}
	for _, raw := range c.Endpoints {
		e, err := c.parseEndpoint(raw, certs != nil)
		if err != nil {
			return nil, err
		}
		n.endpoints = append(n.endpoints, e)
	}
	first := n.endpoints[0]
	for _, e := range n.endpoints {
		if err := c.checkPlain(e); err != nil {
			return nil, err
		}
		if e.tls != first.tls {
			return nil, invalid("etcd endpoints"+c.origin(), "use https:// for all of them or for none",
				"%s and %s: TLS cannot be mixed with plain connections", first.raw, e.raw)
		}
	}
	if first.tls && certs == nil {
		n.certs = &certificates{last: &tls.Config{MinVersion: tls.VersionTLS12}}
	}
	if !first.tls && certs != nil {
		return nil, invalid("etcd endpoint "+first.raw+c.origin(), "use https://, or leave the certificates out",
			"certificates are given but the endpoint does not use TLS")
	}
	return n, nil
}

// origin is Origin as the end of an item.
func (c Config) origin() string {
	if c.Origin == "" {
		return ""
	}
	return " (" + c.Origin + ")"
}

func (c Config) parseEndpoint(raw string, wantTLS bool) (endpoint, error) {
	bad := func(what string) (endpoint, error) {
		return endpoint{}, invalid(fmt.Sprintf("etcd endpoint %q%s", raw, c.origin()),
			"write http://HOST:PORT, https://HOST:PORT or unix:///PATH", "%s", what)
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
