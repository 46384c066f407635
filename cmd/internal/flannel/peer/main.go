// Command peer is a flannel host for tests, made of flannel's own packages: it
// leases a subnet in etcd and programs the kernel for its peers, as flanneld
// does. It tells on standard output what flanneld writes into subnet.env.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw" // by its name in the configuration
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"  // by its name in the configuration
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet/etcd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	endpoint := flag.String("etcd-endpoints", "http://127.0.0.1:2379", "where etcd is")
	prefix := flag.String("etcd-prefix", "/coreos.com/network", "where flannel's keys are")
	iface := flag.String("iface", "eth0", "the underlay's interface")
	file := flag.String("subnet-file", "/run/flannel/subnet.env", "where to write the subnet")
	flag.Parse()
	dev, err := net.InterfaceByName(*iface)
	if err != nil {
		return err
	}
	addrs, err := ip.GetInterfaceIP4Addrs(dev)
	if err != nil || len(addrs) == 0 {
		return fmt.Errorf("%s has no IPv4 address: %w", *iface, err)
	}
	sm, err := etcd.NewLocalManager(ctx, &etcd.EtcdConfig{Endpoints: []string{*endpoint}, Prefix: *prefix}, ip.IP4Net{}, ip.IP6Net{}, 60)
	if err != nil {
		return err
	}
	config, err := sm.GetNetworkConfig(ctx)
	if err != nil {
		return err
	}
	ext := &backend.ExternalInterface{Iface: dev, IfaceName: dev.Name, IfaceAddr: addrs[0], ExtAddr: addrs[0]}
	be, err := backend.NewManager(ctx, sm, ext).GetBackend(config.BackendType)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	bn, err := be.RegisterNetwork(ctx, &wg, config)
	if err != nil {
		return err
	}
	l := bn.Lease()
	if err := sm.HandleSubnetFile(*file, config, false, l.Subnet, l.IPv6Subnet, bn.MTU()); err != nil {
		return err
	}
	fmt.Printf("%s %d\n", l.Subnet, bn.MTU())
	wg.Add(1)
	go func() { defer wg.Done(); bn.Run(ctx) }()
	err = sm.CompleteLease(ctx, bn.Lease(), &wg)
	wg.Wait()
	return err
}
