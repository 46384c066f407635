package etcdstore

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/topology/fault"
)

// readPassword takes the password out of its file.
func (c *Config) readPassword() error {
	if c.PasswordFile == "" {
		return nil
	}
	item := "etcd password file " + c.PasswordFile
	if c.Password != "" {
		return invalid(item, "give one of them", "a password is given as well")
	}
	b, err := readFile("etcd password file", c.PasswordFile)
	if err != nil {
		return err
	}
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	c.Password = strings.TrimSuffix(string(line), "\r")
	if c.Password == "" || len(bytes.TrimSpace(rest)) > 0 {
		return invalid(item, "write the password into its first line and nothing after it",
			"it is not one line with the password")
	}
	return nil
}

// checkPlain refuses to send a password over the network where anybody on the way can
// read it.
func (c Config) checkPlain(e endpoint) error {
	if c.Password == "" || c.PlainPassword || e.tls || e.network != "tcp" {
		return nil
	}
	host, _, _ := net.SplitHostPort(e.addr) // it was parsed before
	if a, err := netip.ParseAddr(host); (err == nil && a.IsLoopback()) || host == "localhost" {
		return nil
	}
	return invalid("etcd endpoint "+e.raw+c.origin(),
		"use https://, or accept that with --etcd-plain-password",
		"the password of user %s would be sent there in clear", c.Username)
}

// exposed reports the files that others than their owner can read.
func exposed(files ...string) []fault.Fault {
	var out []fault.Fault
	for _, f := range files {
		if f == "" {
			continue
		}
		if info, err := os.Stat(f); err == nil && info.Mode().Perm()&0o077 != 0 {
			out = append(out, fault.Fault{
				Code: fault.SecretExposed, Severity: fault.Warning, Item: f,
				What:   fmt.Sprintf("others can read it: its mode is %04o", info.Mode().Perm()),
				Remedy: "chmod 600 " + f,
			})
		}
	}
	return out
}

// expiresSoon is how long before its end a certificate is reported.
const expiresSoon = 30 * 24 * time.Hour

// saw notes what a member's certificate is.
func (c *certificates) saw(authority string, chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers == nil {
		c.servers = map[string]*x509.Certificate{}
	}
	c.servers[authority] = chain[0]
}

// expiring reports certificates that end soon or have ended: the client's own, its
// authority's, and those that etcd's members showed.
func (c *certificates) expiring(conf *tls.Config, now time.Time) []fault.Fault {
	var out []fault.Fault
	check := func(item, remedy string, end time.Time) {
		if end.Sub(now) > expiresSoon {
			return
		}
		f := fault.Fault{
			Code: fault.CertificateExpires, Severity: fault.Warning, Item: item, Remedy: remedy,
			What: "expires on " + end.UTC().Format(time.DateTime) + " UTC",
		}
		if !end.After(now) {
			f.Severity, f.What = fault.Error, "expired on "+end.UTC().Format(time.DateTime)+" UTC"
		}
		out = append(out, f)
	}
	if c.files.CertFile != "" && len(conf.Certificates) > 0 {
		if leaf, err := x509.ParseCertificate(conf.Certificates[0].Certificate[0]); err == nil {
			check("etcd client certificate "+c.files.CertFile, "replace it; the agent reads it anew", leaf.NotAfter)
		}
	}
	if b, err := os.ReadFile(c.files.CAFile); c.files.CAFile != "" && err == nil {
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
				check(fmt.Sprintf("authority %q in %s", ca.Subject.CommonName, c.files.CAFile),
					"add the one that follows it to the file, and take it out", ca.NotAfter)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, authority := range slices.Sorted(maps.Keys(c.servers)) {
		check("certificate of etcd member "+authority, "replace it there", c.servers[authority].NotAfter)
	}
	return out
}
