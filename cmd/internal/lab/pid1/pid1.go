// Package pid1 is the first process of a member, 'baize lab host-init': it gives
// itself a file system, a name and devices, and then looks after services until
// SIGTERM ends it. It joins what fabric does inside, what engine says has to
// run, and the supervisor that runs it.
package pid1

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab/engine"
	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/topology"
)

// Main is 'baize lab host-init', pid 1 of a host or of the fabric; args
// are what follows host-init. Only Up starts it. It returns when SIGTERM has
// ended all services; log output goes to out.
func Main(args []string, out io.Writer) error {
	f := flag.NewFlagSet("baize lab host-init", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	lab, name, dir := f.String("lab", "", ""), f.String("member", "", ""), f.String("dir", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if os.Getpid() != 1 || *dir == "" {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: "baize lab host-init", What: "only 'baize lab up' starts this",
			Remedy: "run 'baize lab up'",
		}
	}
	// Registered first: pid 1 ignores signals that it does not handle.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	var c engine.Config
	if err := member.ReadConfig(*dir, &c); err != nil {
		return fmt.Errorf("%s of lab %s: %w", *name, *lab, err)
	}
	log := logrus.New()
	log.SetOutput(out)
	log.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true, TimestampFormat: time.RFC3339Nano})
	if err := initMember(c, log, signals); err != nil {
		log.Error(err)
		return fmt.Errorf("%s of lab %s: %w", *name, *lab, err)
	}
	return nil
}

// initMember makes the calling process pid 1 of a member and returns when all
// services have ended.
func initMember(c engine.Config, log *logrus.Logger, signals <-chan os.Signal) error {
	start := time.Now()
	if err := becomeMember(c); err != nil {
		return err
	}
	kids := supervisor.NewChildren()
	run := func(ctx context.Context, argv ...string) (string, error) { return kids.Run(ctx, c.Env, argv...) }
	s := supervisor.New(c.Log, log, kids, engine.Services(c, run))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var tasks sync.WaitGroup
	switch {
	case c.IsFabric():
		if err := fabric.MakeBridges(c.Place); err != nil {
			return err
		}
	case !c.IsRouter():
		tasks.Go(func() {
			fabric.WatchUnderlay(ctx, c.Place, hostnet.WatchLinks, func(err error) { log.Warnf("underlay: %v", err) })
		})
	}
	tasks.Go(func() { s.Run(ctx) })
	ended := make(chan struct{})
	go func() {
		tasks.Wait()
		close(ended)
	}()
	log.Infof("%s of lab %s is up after %v", c.Member, c.Lab, time.Since(start).Round(time.Millisecond))
	reapUntil(ended, kids, log, signals, cancel)
	return nil
}

// becomeMember gives this process, in its new namespaces, what makes it a host
// of its own: environment, name, file system, loopback.
func becomeMember(c engine.Config) error {
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(c.Member)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := makeFilesystem(c); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// reapUntil does the duties of a pid 1 until all services have ended. A signal
// to end cancels them.
func reapUntil(
	ended <-chan struct{}, kids *supervisor.Children, log *logrus.Logger, signals <-chan os.Signal, cancel func(),
) {
	kids.Reap() // what ended before the first signal
	for {
		select {
		case <-ended:
			log.Info("all services are stopped")
			return
		case sig := <-signals:
			if sig == unix.SIGCHLD {
				kids.Reap()
				continue
			}
			log.Infof("%v: stopping", sig)
			cancel()
		}
	}
}
