package lab

import (
	"net/netip"
	"time"

	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/proof"
	"github.com/baize-net/baize/cmd/internal/probe"
)

// Whoever uses a lab needs this package alone: what it takes and returns of the
// packages below has its names here.

// Services of a host, for StopService, StartService, AwaitService and Kill.
const (
	ServiceOVSDB      = engine.ServiceOVSDB
	ServiceVswitchd   = engine.ServiceVswitchd
	ServiceAgent      = engine.ServiceAgent
	ServiceContainerd = engine.ServiceContainerd
	ServiceDockerd    = engine.ServiceDockerd
	// ServiceZebra and ServiceBGPD are the router's, and with Config.FRR a host's.
	ServiceZebra = engine.ServiceZebra
	ServiceBGPD  = engine.ServiceBGPD
	// ServiceEtcd is the fabric's.
	ServiceEtcd = engine.ServiceEtcd
)

// DockerImage is the one image that the engines of a lab have.
const DockerImage = engine.DockerImage

// Limits of Config.
const (
	MaxHosts    = member.MaxHosts
	MaxSegments = fabric.MaxSegments
)

// What Prove returns.
type (
	// Proof is what Prove found.
	Proof = proof.Proof
	// Path is what was measured from one endpoint to an address of another.
	Path = proof.Path
	// EndpointStatus is an endpoint that the lab attached.
	EndpointStatus = proof.Endpoint
)

// StartPings sends echo requests from a network namespace, given by its path.
func StartPings(namespace string, to netip.Addr, interval time.Duration) (*probe.Pings, error) {
	return proof.StartPings(namespace, to, interval)
}
