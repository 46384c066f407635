package gather

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// cached is the topology that the agent has seen last; nil where it has kept none.
func (g *gatherer) cached() *topology.Snapshot {
	s, err := hub.NewCache(filepath.Join(g.cfg.StateDir, hub.CacheFile), topology.NewSnapshot, func(error) {}).Load()
	if err != nil {
		return nil
	}
	return s
}

// certificates reads the certificates of this host for etcd; the key is not read.
func certificates(cfg etcdstore.Config) []doctor.Certificate {
	var out []doctor.Certificate
	for _, file := range []string{cfg.CAFile, cfg.CertFile} {
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			out = append(out, doctor.Certificate{File: file, Error: err.Error()})
			continue
		}
		n := 0
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			c, err := x509.ParseCertificate(block.Bytes)
			if block.Type != "CERTIFICATE" || err != nil {
				continue
			}
			n++
			out = append(out, doctor.Certificate{File: file, Subject: c.Subject.String(), NotAfter: c.NotAfter})
		}
		if n == 0 {
			out = append(out, doctor.Certificate{File: file, Error: "has no certificate in PEM"})
		}
	}
	return out
}

// inForce makes the topology that of the agent, which keeps records in force that vanished
// from etcd under running endpoints.
func (g *gatherer) inForce() {
	st := g.facts.Agent.Status
	if st == nil || !slices.ContainsFunc(st.Problems, func(f fault.Fault) bool { return f.Code == fault.RecordVanished }) {
		return
	}
	if kept := g.cached(); kept != nil {
		g.snap = kept
	}
}
