package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
)

// Services that are Baize itself: the agent on hosts, etcd in the fabric.
const (
	ServiceAgent = "agent"
	ServiceEtcd  = "etcd"
)

// agentService is a host's agent.
func agentService(c Config) *supervisor.Service {
	s := &supervisor.Service{
		Name: ServiceAgent, Argv: append([]string{supervisor.Executable}, c.Args...),
		Env:   append([]string{"NOTIFY_SOCKET=" + supervisor.NotifySocket}, c.Env...),
		Needs: []string{ServiceVswitchd}, Notifies: true,
	}
	if c.Segments > 1 {
		s.Prepare = func(context.Context) error { return writeBGPPassword(c.Dir) }
	}
	return s
}

// etcdService is the cluster's etcd.
func etcdService(c Config) *supervisor.Service {
	return &supervisor.Service{
		Name: ServiceEtcd, Argv: append([]string{supervisor.Executable}, c.Args...), Env: c.Env,
		Ready: func(ctx context.Context) error {
			return etcdHealthy(ctx, netip.AddrPortFrom(c.Addrs[0].Addr(), fabric.EtcdPort))
		},
	}
}

// etcdHealthy waits until etcd answers requests.
func etcdHealthy(ctx context.Context, at netip.AddrPort) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	err := wait.Poll(ctx, func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/health", http.NoBody)
		if err != nil {
			return false, err
		}
		resp, err := client.Do(req)
		if err != nil {
			last = err
			return false, nil
		}
		_ = resp.Body.Close()
		last = fmt.Errorf("/health says %s", resp.Status)
		return resp.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}
