package engine

import (
	"context"
	"fmt"

	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
)

// ServiceFlannel is flannel itself, on the last host of a lab with flannel's
// network, in place of the agent.
const ServiceFlannel = "flanneld"

// foreign is what an engine has to know where the network is another program's,
// flannel's: everything of that is in this file.
type foreign struct {
	// Flannel says that the network is flannel's, Flanneld is the program where
	// this host runs flannel itself.
	Flannel  bool   `json:"flannel,omitempty"`
	Flanneld string `json:"flanneld,omitempty"`
	// Etcd is its address.
	Etcd string `json:"etcd,omitempty"`
}

// foreignService is what runs in place of the agent; nil where the agent does.
func (f foreign) foreignService(c Config, run Runner) *supervisor.Service {
	if f.Flanneld == "" {
		return nil
	}
	return flannelService(c, run)
}

// foreignSubnetFile is where that program, and the agent beside it, write the
// host's subnet; "" where the network is Baize's own.
func (f foreign) foreignSubnetFile() string {
	if !f.Flannel {
		return ""
	}
	return subnetenv.FlannelFile
}

// flannelService runs flannel as its own documentation does.
func flannelService(c Config, run Runner) *supervisor.Service {
	return &supervisor.Service{
		Name: ServiceFlannel,
		Argv: []string{c.Flanneld, "-etcd-endpoints", c.Etcd, "-iface", c.Device()},
		Env:  c.Env, Needs: []string{ServiceVswitchd},
		Prepare: func(ctx context.Context) error {
			removeAll(subnetenv.FlannelFile)
			// As Docker does; flannel does not.
			_, err := run(ctx, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
			return err
		},
		Ready: func(ctx context.Context) error {
			err := wait.Poll(ctx, func() (bool, error) {
				_, err := subnetenv.Read(subnetenv.FlannelFile)
				return err == nil, nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", subnetenv.FlannelFile, err)
			}
			return nil
		},
	}
}
