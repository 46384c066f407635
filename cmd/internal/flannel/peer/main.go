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
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw" // by its name in the configuration
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"  // by its name in the configuration
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet/etcd"
	clientv3 "go.etcd.io/etcd/client/v3"
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
	config := flag.String("put-config", "", "only write this configuration into etcd")
	remove := flag.String("delete", "", "only delete the key with this name below the prefix")
	flag.Parse()
	if *config != "" || *remove != "" {
		return change(ctx, *endpoint, *prefix, *config, *remove)
	}
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
	network, err := sm.GetNetworkConfig(ctx)
	if err != nil {
		return err
	}
	ext := &backend.ExternalInterface{Iface: dev, IfaceName: dev.Name, IfaceAddr: addrs[0], ExtAddr: addrs[0]}
	be, err := backend.NewManager(ctx, sm, ext).GetBackend(network.BackendType)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	bn, err := be.RegisterNetwork(ctx, &wg, network)
	if err != nil {
		return err
	}
	l := bn.Lease()
	if err := sm.HandleSubnetFile(*file, network, false, l.Subnet, l.IPv6Subnet, bn.MTU()); err != nil {
		return err
	}
	fmt.Printf("%s %d\n", l.Subnet, bn.MTU())
	wg.Add(1)
	go func() { defer wg.Done(); bn.Run(ctx) }()
	err = sm.CompleteLease(ctx, bn.Lease(), &wg)
	wg.Wait()
	return err
}

// change does what a person does with etcdctl.
func change(ctx context.Context, endpoint, prefix, config, remove string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 2 * time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	if config != "" {
		_, err = c.Put(ctx, prefix+"/config", config)
		return err
	}
	_, err = c.Delete(ctx, prefix+"/"+remove)
	return err
}
