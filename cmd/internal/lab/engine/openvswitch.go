package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
)

// Services of Open vSwitch.
const (
	ServiceOVSDB    = "ovsdb-server"
	ServiceVswitchd = "ovs-vswitchd"
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

// ovsServices are a host's Open vSwitch.
func ovsServices(c Config, run Runner) []*supervisor.Service {
	return []*supervisor.Service{ovsdbService(c, run), vswitchdService(c)}
}

func ovsdbService(c Config, run Runner) *supervisor.Service {
	return &supervisor.Service{
		Name: ServiceOVSDB,
		Argv: append([]string{
			"ovsdb-server", confDB, "--remote=punix:" + ovsdbSoc, "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
		}, ovsArgs(ServiceOVSDB)...),
		Env: c.Env,
		Prepare: func(ctx context.Context) error {
			removeAll(ovsdbSoc, ovsPIDFile(ServiceOVSDB))
			return createConfDB(ctx, run)
		},
		Ready: func(ctx context.Context) error { return configureOVS(ctx, c, run) },
	}
}

func vswitchdService(c Config) *supervisor.Service {
	return &supervisor.Service{
		Name:  ServiceVswitchd,
		Argv:  append([]string{"ovs-vswitchd", "unix:" + ovsdbSoc}, ovsArgs(ServiceVswitchd)...),
		Env:   c.Env,
		Needs: []string{ServiceOVSDB},
		Prepare: func(ctx context.Context) error {
			removeAll(ovsPIDFile(ServiceVswitchd))
			return awaitUptime(ctx, c)
		},
		Ready: func(ctx context.Context) error {
			if err := wait.Poll(ctx, func() (bool, error) { return fabric.EnsureUnderlay(c.Place) }); err != nil {
				return fmt.Errorf("the underlay on %s: %w", c.Device(), err)
			}
			return nil
		},
	}
}

func ovsPIDFile(daemon string) string { return ovsRun + "/" + daemon + ".pid" }

// ovsArgs are those that both daemons have.
func ovsArgs(daemon string) []string {
	return []string{
		"--no-chdir", "--pidfile=" + ovsPIDFile(daemon), "--log-file=" + ovsLog + "/" + daemon + ".daemon.log",
		"-vconsole:warn", "-vsyslog:off",
	}
}

// createConfDB makes the database where a host is new.
func createConfDB(ctx context.Context, run Runner) error {
	if _, err := os.Stat(confDB); err == nil {
		return nil
	}
	schema, err := schemaFile()
	if err != nil {
		return err
	}
	_, err = run(ctx, "ovsdb-tool", "create", confDB, schema)
	return err
}

// schemaFile is where packages, or an installation by hand, put OVS's schema.
func schemaFile() (string, error) {
	candidates := []string{"/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema"}
	for _, f := range candidates {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		}
	}
	return "", fmt.Errorf("%s is not in %s", filepath.Base(candidates[0]), filepath.Dir(candidates[0]))
}

// configureOVS writes what the machine's start scripts write, and the bridge
// that the userspace datapath needs under its tunnels.
func configureOVS(ctx context.Context, c Config, run Runner) error {
	if err := wait.Poll(ctx, func() (bool, error) {
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
		args = append(args, "--", "--may-exist", "add-br", fabric.PhysicalBridge,
			"--", "set", "bridge", fabric.PhysicalBridge,
			"datapath_type=netdev", "fail_mode=standalone", `other_config:hwaddr="`+c.MAC+`"`,
			"--", "--may-exist", "add-port", fabric.PhysicalBridge, fabric.Uplink)
	}
	_, err := run(ctx, args...)
	return err
}

// awaitUptime waits until the machine runs long enough: see earliestVswitchd.
func awaitUptime(ctx context.Context, c Config) error {
	if !c.Kernel {
		return nil
	}
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseFloat(strings.Fields(string(b) + " 0")[0], 64)
	if up := time.Duration(seconds * float64(time.Second)); err == nil && up < earliestVswitchd {
		return wait.Pause(ctx, earliestVswitchd-up)
	}
	return nil
}
