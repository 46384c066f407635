package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// dirs has the directories of labs' clusters: hosts share it, but not the lab's own.
const dirs = "/var/cache/baize-lab"

// Dir is where the cluster of a lab has its files.
func Dir(lab string) string { return filepath.Join(dirs, lab) }

// Remove removes the files of a lab's cluster, where there is one.
func Remove(lab string) error {
	err := os.RemoveAll(Dir(lab))
	_ = os.Remove(dirs) // with the last one
	return err
}

// FindProgram returns the program with all of Kubernetes, where 'make lab-kubernetes' puts
// it; ErrNotFound where it was not built.
func FindProgram() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(cache, "baize/kubernetes/v*/kubernetes"))
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", &topology.Error{
			Kind: topology.ErrNotFound, Item: "Kubernetes", What: "it was not built for labs",
			Remedy: "'make lab-kubernetes' in a clone builds it, once, and makes such a lab",
		}
	}
	return slices.Max(found), nil
}

// FindPlugin returns baize-cni: beside the program baize, or where packages put it.
func FindPlugin(baize string) (string, error) {
	for _, file := range []string{
		filepath.Join(filepath.Dir(baize), "baize-cni"), "/opt/cni/bin/baize-cni", cnihost.ImagePlugin,
	} {
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	return "", &topology.Error{
		Kind: topology.ErrNotFound, Item: "baize-cni", What: "it is neither beside " + baize + " nor in /opt/cni/bin",
		Remedy: "'make build' builds both",
	}
}

// CheckMachine says what this machine lacks of what nodes need.
func CheckMachine() error {
	var missing []string
	for command, pkg := range map[string]string{"containerd": "containerd", "runc": "runc", "busybox": "busybox-static"} {
		if _, err := exec.LookPath(command); err != nil {
			missing = append(missing, pkg)
		}
	}
	for _, p := range plugins {
		if _, err := os.Stat(filepath.Join(referencePlugins, p)); err != nil {
			missing = append(missing, "containernetworking-plugins")
			break
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	list := strings.Join(missing, " ")
	return &topology.Error{
		Kind: topology.ErrNotFound, Item: "this machine", What: "nodes of Kubernetes need what is not here: " + list,
		Remedy: "apt-get install " + list,
	}
}

// Up makes a cluster of a lab that is up and has none: every host is a node, and pods have
// Baize's own CNI plugin. baize is the program that kubectl enters the lab with.
func Up(ctx context.Context, l *lab.Lab, o Options, baize, plugin string) (*Cluster, error) {
	o.Dir = Dir(l.Name())
	if err := os.MkdirAll(dirs, 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(o.Dir, 0o700); errors.Is(err, os.ErrExist) {
		return nil, &topology.Error{
			Kind: topology.ErrExists, Item: "lab " + l.Name(), What: "it has a cluster already: " + o.Dir,
			Remedy: "'" + lab.CommandLine(l.Name(), "down") + "' first",
		}
	} else if err != nil {
		return nil, err
	}
	o.CNIBin, o.CNIConf = filepath.Join(o.Dir, "cni"), filepath.Join(o.Dir, cnihost.Dir)
	c, err := New(l, o)
	if err != nil {
		return nil, err
	}
	if _, err := c.StartAPI(ctx); err != nil {
		return nil, err
	}
	if err := c.StartControllers(ctx); err != nil {
		return nil, err
	}
	c.Progress("writing image and plugins")
	if err := writeImage(ctx, filepath.Join(o.Dir, "image.tar")); err != nil {
		return nil, err
	}
	if err := errors.Join(c.WritePlugins(), c.WriteProvider(plugin), c.writeKubectl(baize)); err != nil {
		return nil, err
	}
	for _, n := range c.Nodes {
		if _, _, err := c.PrepareNode(ctx, n); err != nil {
			return nil, err
		}
		if _, err := c.StartBaize(ctx, n); err != nil {
			return nil, err
		}
	}
	if err := c.AwaitNodes(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// KubectlFile is a command that runs kubectl in the lab, from outside.
func (c *Cluster) KubectlFile() string { return filepath.Join(c.Dir, "kubectl") }

func (c *Cluster) writeKubectl(baize string) error {
	return os.WriteFile(c.KubectlFile(), fmt.Appendf(nil, `#!/bin/sh
# kubectl of the cluster in lab %[1]s, which only the lab reaches.
exec '%[2]s' lab exec --name '%[1]s' %[3]s -- '%[4]s' kubectl --kubeconfig '%[5]s' "$@"
`, c.lab.Name(), baize, fabric, c.Program, c.Kubeconfig()), 0o700)
}
