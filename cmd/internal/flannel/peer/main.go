// Command peer is a flannel host for tests, made of flannel's own packages: it
// leases a subnet in etcd, or has that of its Kubernetes node, and programs the kernel
// for its peers, as flanneld does. It tells on standard output what flanneld writes into subnet.env.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw" // by its name in the configuration
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"  // by its name in the configuration
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/etcd"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
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
	iface := flag.String("iface", "eth0", "the underlay's interface, or its address")
	file := flag.String("subnet-file", "/run/flannel/subnet.env", "where to write the subnet")
	config := flag.String("put-config", "", "only write this configuration into etcd")
	remove := flag.String("delete", "", "only delete the key with this name below the prefix")
	var k kubernetes
	flag.StringVar(&k.url, "kube-api-url", "", "the Kubernetes API, instead of etcd")
	flag.StringVar(&k.config, "kubeconfig-file", "", "how the Kubernetes API is reached, instead of etcd")
	node := flag.String("node", "", "the node's name there (flannel's NODE_NAME)")
	flag.StringVar(&k.netConf, "net-config-path", "", "flannel's configuration, in Kubernetes")
	flag.Parse()
	if *config != "" || *remove != "" {
		return change(ctx, *endpoint, *prefix, *config, *remove)
	}
	if err := os.Setenv("NODE_NAME", *node); err != nil {
		return err
	}
	sm, err := manager(ctx, *endpoint, *prefix, *file, k)
	if err != nil {
		return err
	}
	network, err := sm.GetNetworkConfig(ctx)
	if err != nil {
		return err
	}
	ext, err := underlay(*iface, network.EnableIPv6)
	if err != nil {
		return err
	}
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

// kubernetes is where the API is.
type kubernetes struct{ url, config, netConf string }

// manager is where flannel finds its peers.
func manager(ctx context.Context, endpoint, prefix, file string, k kubernetes) (subnet.Manager, error) {
	if k.url != "" || k.config != "" {
		return kube.NewSubnetManager(ctx, k.url, k.config, "flannel.alpha.coreos.com", k.netConf, true)
	}
	prev4, prev6 := previous(file)
	return etcd.NewLocalManager(ctx, &etcd.EtcdConfig{Endpoints: []string{endpoint}, Prefix: prefix}, prev4, prev6, 60)
}

// underlay is the interface of that name or address.
func underlay(name string, v6 bool) (*backend.ExternalInterface, error) {
	dev, err := net.InterfaceByName(name)
	addr := net.ParseIP(name)
	if addr != nil {
		dev, err = ip.GetInterfaceByIP(addr)
	}
	if err != nil {
		return nil, err
	}
	if addr == nil {
		addrs, err := ip.GetInterfaceIP4Addrs(dev)
		if err != nil || len(addrs) == 0 {
			return nil, fmt.Errorf("%s has no IPv4 address: %w", name, err)
		}
		addr = addrs[0]
	}
	ext := &backend.ExternalInterface{Iface: dev, IfaceName: dev.Name, IfaceAddr: addr, ExtAddr: addr}
	if v6 {
		addrs, err := ip.GetInterfaceIP6Addrs(dev)
		if err != nil || len(addrs) == 0 {
			return nil, fmt.Errorf("%s has no IPv6 address: %w", name, err)
		}
		ext.IfaceV6Addr, ext.ExtV6Addr = addrs[0], addrs[0]
	}
	return ext, nil
}

// previous reads the subnet that the host had, as flanneld does.
func previous(file string) (v4 ip.IP4Net, v6 ip.IP6Net) {
	b, err := os.ReadFile(file)
	if err != nil {
		return v4, v6
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		p, err := netip.ParsePrefix(value)
		if err != nil {
			continue
		}
		addr := p.Masked().Addr().AsSlice()
		switch name {
		case "FLANNEL_SUBNET":
			v4 = ip.IP4Net{IP: ip.FromIP(addr), PrefixLen: uint(p.Bits())}
		case "FLANNEL_IPV6_SUBNET":
			v6 = ip.IP6Net{IP: ip.FromIP6(addr), PrefixLen: uint(p.Bits())}
		}
	}
	return v4, v6
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
