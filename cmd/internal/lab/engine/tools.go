package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// tool is a command that a lab runs, and Debian's package of it.
type tool struct{ command, pkg string }

// tools are what every lab needs.
var tools = []tool{
	{"ovs-vswitchd", "openvswitch-switch"}, {"ovsdb-server", "openvswitch-switch"}, {"ovsdb-tool", "openvswitch-common"},
	{"ovs-vsctl", "openvswitch-switch"}, {"ip", "iproute2"}, {"nsenter", "util-linux"},
}

// Check refuses a lab whose engines are not installed on the machine, and
// says which packages they are in.
func Check(docker, frr bool) error {
	if err := checkTools(tools); err != nil {
		return err
	}
	if frr {
		if err := checkFRR(); err != nil {
			return err
		}
	}
	if docker {
		return checkDocker()
	}
	return nil
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
	return &topology.Error{
		Kind: topology.ErrNotFound, Item: strings.Join(missing, ", "), What: "not installed",
		Remedy: "apt-get install --no-install-recommends " + strings.Join(pkgs, " "),
	}
}

var frrTools = []tool{{"vtysh", "frr"}}

func checkFRR() error {
	if err := checkTools(frrTools); err != nil {
		return err
	}
	for _, d := range []string{ServiceZebra, ServiceBGPD} {
		if _, err := os.Stat(filepath.Join(frrDir, d)); err != nil {
			return checkTools([]tool{{filepath.Join(frrDir, d), "frr"}})
		}
	}
	return nil
}

// dockerTools are what the Docker engine needs beside tools.
var dockerTools = []tool{
	{"dockerd", "docker.io"}, {"docker", "docker.io"}, {"containerd", "containerd"}, {"runc", "runc"},
	{"iptables", "iptables"}, {"busybox", "busybox-static"},
}

func checkDocker() error {
	if err := checkTools(dockerTools); err != nil {
		return err
	}
	_, err := staticBusybox()
	return err
}
