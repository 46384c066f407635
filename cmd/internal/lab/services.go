package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Services of a host, and of the fabric.
const (
	ServiceOVSDB    = "ovsdb-server"
	ServiceVswitchd = "ovs-vswitchd"
	ServiceAgent    = "agent"
	ServiceEtcd     = "etcd"
)

const (
	ovsRun   = "/run/openvswitch"
	ovsLog   = "/var/log/openvswitch"
	ovsdbSoc = ovsRun + "/db.sock"
	confDB   = "/etc/openvswitch/conf.db"
	// earliestVswitchd: started earlier after boot, Open vSwitch 3.1 loses
	// every packet that its kernel datapath asks it about.
	earliestVswitchd = 10500 * time.Millisecond
)

// runner runs a command to its end and returns what it printed.
type runner func(ctx context.Context, argv ...string) (string, error)

// hostServices are those of a host in the order of their start.
func hostServices(c initConfig, run runner) []*service {
	var prepareAgent func(context.Context) error
	if c.Segments > 1 {
		prepareAgent = func(context.Context) error {
			return os.WriteFile(filepath.Join(c.Dir, bgpPasswordName), []byte(bgpPassword+"\n"), 0o600)
		}
	}
	common := func(name string) []string {
		return []string{"--no-chdir", "--pidfile=" + ovsRun + "/" + name + ".pid", "--log-file=" + ovsLog + "/" + name + ".daemon.log", "-vconsole:warn", "-vsyslog:off"}
	}
	all := []*service{
		{
			name: ServiceOVSDB,
			argv: append([]string{"ovsdb-server", confDB, "--remote=punix:" + ovsdbSoc, "--remote=db:Open_vSwitch,Open_vSwitch,manager_options"}, common(ServiceOVSDB)...),
			env:  c.Env,
			prepare: func(ctx context.Context) error {
				removeAll(ovsdbSoc, ovsRun+"/"+ServiceOVSDB+".pid")
				if _, err := os.Stat(confDB); err == nil {
					return nil
				}
				schema, err := schemaFile()
				if err != nil {
					return err
				}
				_, err = run(ctx, "ovsdb-tool", "create", confDB, schema)
				return err
			},
			ready: func(ctx context.Context) error { return configureOVS(ctx, c, run) },
		},
		{
			name:  ServiceVswitchd,
			argv:  append([]string{"ovs-vswitchd", "unix:" + ovsdbSoc}, common(ServiceVswitchd)...),
			env:   c.Env,
			needs: []string{ServiceOVSDB},
			prepare: func(ctx context.Context) error {
				removeAll(ovsRun + "/" + ServiceVswitchd + ".pid")
				return awaitUptime(ctx, c)
			},
			ready: func(ctx context.Context) error {
				if err := poll(ctx, func() (bool, error) { return ensureUnderlay(c) }); err != nil {
					return fmt.Errorf("the underlay on %s: %w", c.underlayDevice(), err)
				}
				return nil
			},
		},
		{
			name: ServiceAgent, argv: append([]string{insideDir + "/bin/baize"}, c.Args...),
			env:   append([]string{"NOTIFY_SOCKET=" + notifySocket}, c.Env...),
			needs: []string{ServiceVswitchd}, notifies: true, prepare: prepareAgent,
		},
	}
	if c.FRR != "" {
		// The switch takes over the underlay's addresses, and a zebra that starts
		// meanwhile (8.4) may never see them.
		all = append(all, frrServices(c, run, ServiceVswitchd)...)
	}
	if c.Flanneld != "" {
		all[len(all)-1] = flannelService(c, run)
	}
	if c.Docker {
		all = append(all, dockerServices(c, run)...)
	}
	return all
}

// configureOVS writes what the machine's start scripts write, and the bridge
// that the userspace datapath needs under its tunnels.
func configureOVS(ctx context.Context, c initConfig, run runner) error {
	if err := poll(ctx, func() (bool, error) {
		_, err := os.Stat(ovsdbSoc)
		return err == nil, nil
	}); err != nil {
		return fmt.Errorf("%s: %w", ovsdbSoc, err)
	}
	args := []string{"ovs-vsctl", "--no-wait", "--timeout=10", "init", "--", "set", "Open_vSwitch", ".",
		"external_ids:system-id=" + c.Member, "external_ids:hostname=" + c.Member}
	if v, err := run(ctx, "ovs-vswitchd", "--version"); err == nil {
		if _, version, ok := strings.Cut(strings.SplitN(v, "\n", 2)[0], ") "); ok {
			args = append(args, "ovs_version="+version)
		}
	}
	if !c.Kernel {
		args = append(args, "--", "--may-exist", "add-br", physicalBridge,
			"--", "set", "bridge", physicalBridge, "datapath_type=netdev", "fail_mode=standalone", `other_config:hwaddr="`+c.MAC+`"`,
			"--", "--may-exist", "add-port", physicalBridge, uplink)
	}
	_, err := run(ctx, args...)
	return err
}

// awaitUptime see earliestVswitchd.
func awaitUptime(ctx context.Context, c initConfig) error {
	if !c.Kernel {
		return nil
	}
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseFloat(strings.Fields(string(b) + " 0")[0], 64)
	if up := time.Duration(seconds * float64(time.Second)); err == nil && up < earliestVswitchd {
		return pause(ctx, earliestVswitchd-up)
	}
	return nil
}

func removeAll(files ...string) {
	for _, f := range files {
		_ = os.Remove(f)
	}
}

// fabricServices is the cluster's etcd.
func fabricServices(c initConfig) []*service {
	return []*service{{
		name: ServiceEtcd, argv: append([]string{insideDir + "/bin/baize"}, c.Args...), env: c.Env,
		ready: func(ctx context.Context) error {
			return etcdHealthy(ctx, netip.AddrPortFrom(c.Addrs[0].Addr(), etcdPort))
		},
	}}
}

// routerServices are FRR's. Its devices come after its pid 1, and have their
// addresses when zebra has started: see hostServices.
func routerServices(c initConfig, run runner) []*service {
	all := frrServices(c, run)
	ready := all[0].ready
	all[0].ready = func(ctx context.Context) error {
		if err := ready(ctx); err != nil {
			return err
		}
		if err := poll(ctx, func() (bool, error) { return makeRouter(c) }); err != nil {
			return fmt.Errorf("the router's devices: %w", err)
		}
		return nil
	}
	return all
}

// etcdHealthy waits until etcd answers requests.
func etcdHealthy(ctx context.Context, at netip.AddrPort) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	err := poll(ctx, func() (bool, error) {
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

// logFiles are the logs that may tell why a service does not work.
func logFiles(dir, service string) []string {
	return []string{
		filepath.Join(dir, "log", service+".log"),
		filepath.Join(dir, "log", service+".daemon.log"),
		filepath.Join(dir, "log", "init.log"),
	}
}
