// Package hostnet is what Baize does to this host's kernel by netlink: veth
// pairs into network namespaces, the announcements of their addresses, the
// ingress drop a userspace datapath needs, and finding the underlay. It knows
// nothing of Open vSwitch or etcd.
//
// Every function works on the network namespace of the calling thread as the
// host's own.
package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/rtnetlink"
	"github.com/baize-net/baize/topology"
)

// HostPrefix starts the name of every host end Baize makes.
const HostPrefix = "bz"

// HostIfname returns the name of the host end of an endpoint: HostPrefix and
// 11 hex digits of SHA-256 over the endpoint's key. At 13 characters it fits
// IFNAMSIZ (15), and 44 bits keep a host's few thousand names apart.
func HostIfname(endpointKey string) string {
	sum := sha256.Sum256([]byte(endpointKey))
	return HostPrefix + hex.EncodeToString(sum[:])[:11]
}

// Hostname returns the machine's own name.
func Hostname() (string, error) {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "", &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   "host name",
			What:   "this machine has none",
			Remedy: "set one with 'hostnamectl hostname NAME'",
		}
	}
	return name, nil
}

// bootIDFile is described in random(4).
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// BootID returns the identifier the kernel drew at this boot, a UUID.
func BootID() (string, error) {
	b, err := os.ReadFile(bootIDFile)
	if err != nil {
		return "", fmt.Errorf("the identity of this boot: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Veths returns the names of the veth interfaces of this host that start with
// prefix, in the kernel's order.
func Veths(prefix string) ([]string, error) {
	h, err := hostHandle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	// A dump that a concurrent change interrupted is complete enough for a
	// listing that runs again.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, failed("interfaces of this host", "listing them", err)
	}
	var out []string
	for _, l := range links {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, prefix) {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

// hostHandle opens rtnetlink in the host's namespace.
func hostHandle() (*netlink.Handle, error) {
	h, err := rtnetlink.Open()
	return h, failed("network of this host", "opening netlink", err)
}

// failed turns what a system call answered into an error for people. doing is
// what was attempted: "setting its MTU".
func failed(item, doing string, err error) error {
	var known *topology.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return &topology.Error{
			Kind:   topology.ErrUnavailable,
			Item:   item,
			What:   doing + " is not permitted",
			Remedy: "run as root, or with CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN",
		}
	case errors.Is(err, unix.EEXIST):
		return &topology.Error{
			Kind:   topology.ErrExists,
			Item:   item,
			What:   doing + ": it exists already",
			Remedy: "remove it or choose another name",
		}
	case isLinkNotFound(err), errors.Is(err, unix.ENODEV):
		return &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   item,
			What:   doing + ": there is no such interface",
			Remedy: "'ip link' shows what there is",
		}
	}
	return fmt.Errorf("%s: %s: %w", item, doing, err)
}

func isLinkNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
