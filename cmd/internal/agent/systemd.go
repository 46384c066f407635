package agent

import (
	"context"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/baize-net/baize/cmd/internal/agent/part"
)

// What the agent tells systemd (sd_notify(3)): when what is ordered after it may
// start, and that it still works.

// readyEvery is how often it is looked whether the node is ready, until it is.
const readyEvery = 50 * time.Millisecond

// awaitReady tells systemd, once, that the node forwards: every part that the
// node must wait for is ready, and Open vSwitch is as they ask for. After ReadyAfter it
// says so of a node that is not ready as well, because etcd does not answer, for
// example: whatever is wrong, containers that need no network of Baize need not wait
// for it. Where Docker needs the environment file that the agent writes, it waits.
func (a *Agent) awaitReady(ctx context.Context) {
	told := false
	for begin := time.Now(); !a.allReady(); {
		patience := a.cfg.ReadyAfter
		if !told && patience > 0 && !a.dockerNeedsFile() && time.Since(begin) > patience {
			told = true
			a.log.Warnf("not ready after %s: see 'baize status'; what waits for the agent is started", patience)
			a.notify(daemon.SdNotifyReady, "STATUS=not ready yet: see 'baize status'")
		}
		if !part.Sleep(ctx, readyEvery) {
			return
		}
	}
	a.mu.Lock()
	a.ready = true
	a.mu.Unlock()
	o := a.rooms.sw.Outcome().Get()
	a.log.Infof("ready after %s: %d networks, %d ports, %d flows", time.Since(a.started).Round(time.Millisecond),
		len(o.View.Networks), len(o.Want.Ports), len(o.Bound))
	a.notify(daemon.SdNotifyReady, "STATUS=forwarding")
}

// dockerNeedsFile reports whether Docker is started with what the agent writes.
func (a *Agent) dockerNeedsFile() bool { return a.cfg.DockerBridge != "" || len(a.cfg.Sources) > 0 }

// serveWatchdog tells systemd that the agent works as long as no part hangs
// (WatchdogSec=): systemd starts one that does again.
func (a *Agent) serveWatchdog(ctx context.Context) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		a.log.Warnf("systemd's watchdog: %v", err)
	}
	if every <= 0 {
		return
	}
	for reported := ""; part.Sleep(ctx, every/4); {
		hanging := strings.Join(a.pulse.Hanging(), ", ")
		if hanging == "" {
			a.notify(daemon.SdNotifyWatchdog)
		} else if hanging != reported {
			a.log.Errorf("part %s hangs: systemd is told no more that the agent works, and starts it again", hanging)
		}
		reported = hanging
	}
}

func (a *Agent) notify(states ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(states, "\n")); err != nil {
		a.log.Warnf("tell systemd %v: %v", states, err)
	}
}
