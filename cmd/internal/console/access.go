package console

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/net/netutil"

	"github.com/baize-net/baize/topology"
)

// DefaultListen is where a console listens unless told otherwise.
const DefaultListen = "127.0.0.1:7474"

// maxConnections bounds what clients can make a console hold open.
const maxConnections = 256

// minToken is the shortest token that is taken, in bytes.
const minToken = 16

// Access is who may reach a console, and how.
type Access struct {
	// Listen is ADDRESS:PORT. One that is no loopback address needs all of the rest.
	Listen string
	// CertFile and KeyFile are PEM. They are read again when a browser connects, so
	// that they can be replaced.
	CertFile, KeyFile string
	// TokenFile has what browsers have to know.
	TokenFile string
}

// Door is an Access that was found good.
type Door struct {
	access Access
	// Token is that of Access.TokenFile; empty: none is asked for.
	Token string
}

// Check refuses what would show the cluster to others than it is meant for. It opens
// nothing. Errors are of kind topology.ErrInvalid.
func (a Access) Check() (Door, error) {
	invalid := func(item, what, remedy string) (Door, error) {
		return Door{}, &topology.Error{Kind: topology.ErrInvalid, Item: item, What: what, Remedy: remedy}
	}
	host, _, err := net.SplitHostPort(a.Listen)
	if err != nil {
		return invalid("console at "+a.Listen, "that is no ADDRESS:PORT", "write it like "+DefaultListen)
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		return invalid("TLS of the console", "a certificate needs its key, and a key its certificate",
			"give both --tls-cert and --tls-key")
	}
	if !isLoopback(host) && (a.CertFile == "" || a.TokenFile == "") {
		return invalid("console at "+a.Listen,
			"others can reach this address, and would read the whole topology",
			"listen on "+DefaultListen+" and reach it through ssh -L, or give --tls-cert, --tls-key and --token-file")
	}
	door := Door{access: a}
	if a.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile); err != nil {
			return invalid("TLS of the console", err.Error(), "give PEM files that belong together")
		}
	}
	if a.TokenFile == "" {
		return door, nil
	}
	b, err := os.ReadFile(a.TokenFile)
	if err != nil {
		return invalid("token of the console", err.Error(), "")
	}
	door.Token = strings.TrimSpace(string(b))
	if len(door.Token) < minToken || strings.ContainsFunc(door.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return invalid("token in "+a.TokenFile,
			fmt.Sprintf("it has fewer than %d characters, or some that no header can have", minToken),
			"make one: openssl rand -hex 24 > "+a.TokenFile)
	}
	return door, nil
}

// Open listens. The URL is that of the page, without the token.
func (d Door) Open(ctx context.Context) (l net.Listener, url string, err error) {
	l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", d.access.Listen)
	if err != nil {
		return nil, "", &topology.Error{
			Kind: topology.ErrConflict, Item: "console at " + d.access.Listen, What: err.Error(),
			Remedy: "is there a console already? name another address or port",
		}
	}
	host, _, _ := net.SplitHostPort(d.access.Listen) // it was split before
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if host == "" || host == "0.0.0.0" || host == "::" {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	l = netutil.LimitListener(l, maxConnections)
	url = "http://" + net.JoinHostPort(host, port) + "/"
	if d.access.CertFile != "" {
		c := &certificate{cert: d.access.CertFile, key: d.access.KeyFile}
		l = tls.NewListener(l, &tls.Config{
			GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		})
		url = "https" + strings.TrimPrefix(url, "http")
	}
	return l, url, nil
}

// certificate is read at each handshake; one that cannot be used is passed over for
// the one before.
type certificate struct {
	cert, key string
	mu        sync.Mutex
	last      *tls.Certificate
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err == nil {
		c.last = &now
	}
	if c.last == nil {
		return nil, err
	}
	return c.last, nil
}
