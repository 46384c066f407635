// Package cnihost gives a host the CNI configuration of a Baize network, for Podman or for
// the runtimes of Kubernetes, and takes it back: it says which files would change.
package cnihost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/topology"
)

// Dir is where runtimes look for configurations.
const Dir = "/etc/cni/net.d"

// pluginType is the plugin's name; a configuration that begins with it is Baize's.
const pluginType = "baize-cni"

// ImagePlugin is where the agent's image has the plugin.
const ImagePlugin = "/usr/lib/baize/baize-cni"

// Host is the host to configure.
type Host struct {
	// Root is put before every path; "" but for tests.
	Root string
	// Network is Baize's, and the configuration's name.
	Network string
	// First: the runtime knows one network alone, that of the first file (kubelet's
	// runtimes), so no other may come before.
	First bool
	// Ports: published ports are forwarded, by the plugin portmap.
	Ports bool
	// SubnetFile: containers are routed by their host, which has the subnets of that file,
	// and Network is a name only.
	SubnetFile string
	// BinDir is where the plugin is copied to from Plugin; "" leaves plugins alone.
	BinDir, Plugin string
}

// file is the path of the configuration. Runtimes order them by name.
func (h Host) file() string { return Dir + "/10-" + h.Network + ".conflist" }

// Plan returns the changes after which the runtime has the network. Errors are
// *topology.Error of kind ErrConflict where another configuration is in the way.
func (h Host) Plan() ([]hostfile.Change, error) {
	if err := topology.CheckName("network", h.Network); err != nil {
		return nil, err
	}
	if err := h.checkOthers(); err != nil {
		return nil, err
	}
	text, err := h.text()
	if err != nil {
		return nil, err
	}
	var all []hostfile.Change
	if h.BinDir != "" {
		// Before the configuration: with that, a node is ready for pods.
		program, err := os.ReadFile(h.Plugin)
		if err != nil {
			return nil, &topology.Error{
				Kind: topology.ErrNotFound, Item: h.Plugin, What: "the plugin cannot be read: " + err.Error(),
				Remedy: "leave --bin-dir out where a package has installed it; the agent's image has it",
			}
		}
		all = append(all, hostfile.Change{Path: h.plugin(), Text: program, Mode: 0o755})
	}
	return hostfile.Missing(h.Root, append(all, hostfile.Change{Path: h.file(), Text: text, Mode: 0o644}))
}

// plugin is the path that the plugin is copied to.
func (h Host) plugin() string { return filepath.Join(h.BinDir, pluginType) }

// Undo returns the changes that take it back.
func (h Host) Undo() ([]hostfile.Change, error) {
	if err := topology.CheckName("network", h.Network); err != nil {
		return nil, err
	}
	c, err := h.read(h.file())
	if err == nil && !c.ours() {
		err = foreign(h.file(), c, "remove it yourself if it is not needed")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := []hostfile.Change{{Path: h.file(), Shared: true}}
	if h.BinDir != "" {
		all = append(all, hostfile.Change{Path: h.plugin(), Shared: true})
	}
	return hostfile.Missing(h.Root, all)
}

// text is the configuration.
func (h Host) text() ([]byte, error) {
	capabilities := map[string]bool{"ips": true, "mac": true, "dns": true, "bandwidth": true}
	first := map[string]any{"type": pluginType, "capabilities": capabilities}
	if h.SubnetFile != "" {
		first["subnetFile"] = h.SubnetFile
		// By these a pod says in which networks it is beside: see docs/kubernetes.md.
		capabilities["io.kubernetes.cri.pod-annotations"] = true
	} else {
		first["network"], capabilities["aliases"] = h.Network, true
	}
	plugins := []any{first}
	if h.Ports {
		plugins = append(plugins, map[string]any{
			"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true,
		})
	}
	b, err := json.MarshalIndent(map[string]any{
		// Without 1.1.0: portmap is the distribution's, and may be older.
		"cniVersion": "1.0.0", "name": h.Network, "plugins": plugins,
	}, "", "  ")
	return append(b, '\n'), err
}

// conf is what is read of a configuration.
type conf struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Plugins []struct {
		Type string `json:"type"`
	} `json:"plugins"`
}

func (c conf) ours() bool { return len(c.Plugins) > 0 && c.Plugins[0].Type == pluginType }

// read reads a configuration. One that makes no sense is somebody else's.
func (h Host) read(path string) (c conf, err error) {
	b, err := os.ReadFile(h.Root + path)
	if err == nil {
		_ = json.NewDecoder(bytes.NewReader(b)).Decode(&c)
	}
	return c, err
}

// checkOthers looks for configurations that are in the way.
func (h Host) checkOthers() error {
	files, err := filepath.Glob(h.Root + Dir + "/*.conf*") // .conf, .conflist
	if err != nil {
		return err
	}
	for _, f := range files {
		path := strings.TrimPrefix(f, h.Root)
		c, err := h.read(path)
		switch {
		case err != nil:
			return err
		case path == h.file() && !c.ours():
			return foreign(path, c, "move it away")
		case path == h.file():
			continue
		case c.Name == h.Network:
			return foreign(path, c, "remove it, or rename its network")
		case h.First && path < h.file():
			return foreign(path, c, "runtimes of Kubernetes take the first file alone: move it away")
		}
	}
	return nil
}

func foreign(path string, c conf, remedy string) error {
	return &topology.Error{
		Kind: topology.ErrConflict, Item: path, Remedy: remedy,
		What: fmt.Sprintf("it has network %q, and was not written by Baize", c.Name),
	}
}
