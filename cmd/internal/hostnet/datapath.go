package hostnet

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

const (
	// datapathFamily is the generic netlink family of the kernel's datapath
	// (linux/openvswitch.h, OVS_DATAPATH_FAMILY).
	datapathFamily  = "ovs_datapath"
	modprobeTimeout = 10 * time.Second
)

// Datapath reports whether this kernel has Open vSwitch's datapath. Root loads
// its module first where that is needed. Where there is none, err says why: it
// is a reason to show, not a failure.
//
// The kernel is asked and not OVS: datapath_types lists "system" either way.
func Datapath() (kernel bool, err error) {
	return datapath(haveFamily, modprobe)
}

func datapath(have func() bool, load func() error) (bool, error) {
	if have() {
		return true, nil
	}
	if err := load(); err != nil {
		return false, err
	}
	if !have() {
		return false, noDatapath("the module is loaded but offers no " + datapathFamily)
	}
	return true, nil
}

func haveFamily() bool {
	req := nl.NewNetlinkRequest(nl.GENL_ID_CTRL, 0)
	req.AddData(genlHeader{nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION})
	req.AddData(nl.NewRtAttr(nl.GENL_CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated(datapathFamily)))
	_, err := req.Execute(unix.NETLINK_GENERIC, 0)
	return err == nil
}

// genlHeader is struct genlmsghdr: command, version, two reserved bytes. That of
// the netlink package ends before the reserved ones and sends whatever lies
// behind it in memory, which the race detector finds.
type genlHeader [nl.SizeofGenlmsg]byte

func (genlHeader) Len() int            { return nl.SizeofGenlmsg }
func (h genlHeader) Serialize() []byte { return h[:] }

func noDatapath(what string) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "kernel datapath", What: what,
		Remedy: "install a kernel with the openvswitch module; until then the slower userspace datapath is used",
	}
}

func modprobe() error {
	if os.Geteuid() != 0 {
		return noDatapath("the openvswitch module is not loaded, and only root can load it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), modprobeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "modprobe", "openvswitch")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return noDatapath("the openvswitch module is not loaded, and there is no modprobe")
	case len(bytes.TrimSpace(out)) > 0:
		return noDatapath(string(bytes.TrimSpace(out)))
	}
	return noDatapath("modprobe openvswitch: " + err.Error())
}
