package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
)

// awaitInit waits until a member's pid 1 has made its file system and looks
// after its services.
func (l *Lab) awaitInit(ctx context.Context, m member) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	err := poll(ctx, func() (bool, error) {
		if ended(m.pid) {
			return false, errors.New("it ended at once")
		}
		_, err := os.Stat(m.inside(servicesFile))
		return err == nil, nil
	})
	return l.withLog(m, "init", err)
}

// awaitService waits until a service is ready.
func (l *Lab) awaitService(ctx context.Context, m member, service string, timeout time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := poll(limited, func() (bool, error) {
		if ended(m.pid) {
			return false, fmt.Errorf("%s ended", m.name)
		}
		return ready(m, service), nil
	})
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%s is not ready after %v", service, timeout)
	}
	return l.withLog(m, service, err)
}

// withLog adds to an error what the logs say last.
func (l *Lab) withLog(m member, service string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	for _, f := range logFiles(m.dir, service) {
		if t := tail(f, logLinesInError); t != "" {
			err = fmt.Errorf("%w\n--- the end of %s:\n%s", err, f, t)
		}
	}
	return err
}

func serviceState(m member, service string) string {
	all, err := readServices(m.inside(servicesFile))
	if err != nil {
		return ""
	}
	for _, s := range all {
		if s.Name == service {
			return s.State
		}
	}
	return ""
}

func ready(m member, service string) bool   { return serviceState(m, service) == StateReady }
func stopped(m member, service string) bool { return serviceState(m, service) == StateStopped }

// tool is a command that a lab runs, and Debian's package of it.
type tool struct{ command, pkg string }

var tools = []tool{
	{"ovs-vswitchd", "openvswitch-switch"}, {"ovsdb-server", "openvswitch-switch"}, {"ovsdb-tool", "openvswitch-common"},
	{"ovs-vsctl", "openvswitch-switch"}, {"ip", "iproute2"}, {"nsenter", "util-linux"},
}

func checkTools(tools []tool) error {
	var missing, pkgs []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.command); err == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join("/usr/sbin", t.command)); err == nil {
			continue
		}
		missing = append(missing, t.command)
		if !slices.Contains(pkgs, t.pkg) {
			pkgs = append(pkgs, t.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &topology.Error{Kind: topology.ErrNotFound, Item: strings.Join(missing, ", "), What: "not installed", Remedy: "apt-get install --no-install-recommends " + strings.Join(pkgs, " ")}
}
