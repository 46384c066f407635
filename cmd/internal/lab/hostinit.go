package lab

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
	"github.com/baize-net/baize/topology"
)

// HostInit is 'baize lab host-init', pid 1 of a host or of the fabric; args
// are what follows host-init. Only Up starts it. It returns when SIGTERM has
// ended all services; log output goes to out.
func HostInit(args []string, out io.Writer) error {
	f := flag.NewFlagSet("baize lab host-init", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	lab, name, dir := f.String("lab", "", ""), f.String("member", "", ""), f.String("dir", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if os.Getpid() != 1 || *dir == "" {
		return &topology.Error{Kind: topology.ErrInvalid, Item: "baize lab host-init", What: "only 'baize lab up' starts this", Remedy: "run 'baize lab up'"}
	}
	// Registered first: pid 1 ignores signals that it does not handle.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	c, err := readInitConfig(*dir)
	if err != nil {
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

func initMember(c initConfig, log *logrus.Logger, signals <-chan os.Signal) error {
	start := time.Now()
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(c.Member)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := mounts(c); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}

	kids := newChildren()
	s := newSupervisor(c, log, kids)
	run := func(ctx context.Context, argv ...string) (string, error) { return kids.run(ctx, c.Env, argv...) }
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var tasks sync.WaitGroup
	if c.isFabric() {
		if err := makeFabric(c); err != nil {
			return err
		}
		s.services = fabricServices(c)
	} else if c.isRouter() {
		s.services = routerServices(c, run)
	} else {
		s.services = hostServices(c, run)
		tasks.Go(func() {
			watchUnderlay(ctx, c, hostnet.WatchLinks, func(err error) { log.Warnf("underlay: %v", err) })
		})
	}
	tasks.Go(func() { s.run(ctx) })
	ended := make(chan struct{})
	go func() {
		tasks.Wait()
		close(ended)
	}()
	log.Infof("%s of lab %s is up after %v", c.Member, c.Lab, time.Since(start).Round(time.Millisecond))
	kids.reap() // what ended before the first signal
	for {
		select {
		case <-ended:
			log.Info("all services are stopped")
			return nil
		case sig := <-signals:
			if sig == unix.SIGCHLD {
				kids.reap()
				continue
			}
			log.Infof("%v: stopping", sig)
			cancel()
		}
	}
}
