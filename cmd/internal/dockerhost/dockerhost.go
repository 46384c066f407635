// Package dockerhost converts a host with systemd to docker0 as a part of a
// Baize network, and back: it says which files would change.
package dockerhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/scripts"
	"github.com/baize-net/baize/topology"
)

// The files, below Root.
const (
	daemonJSON    = "/etc/docker/daemon.json"
	dropInDir     = "/etc/systemd/system/docker.service.d"
	dropIn        = dropInDir + "/baize.conf"
	agentDropIn   = "/etc/systemd/system/baize.service.d/docker.conf"
	packaged      = "/usr/lib/baize/mk-docker-opts.sh"
	local         = "/usr/local/lib/baize/mk-docker-opts.sh"
	optionsOfUnit = "$BAIZE_DOCKER_OPTS"
)

// unitFiles is where systemd looks for docker.service, first wins
// (systemd.unit(5)).
var unitFiles = []string{
	"/etc/systemd/system/docker.service", "/run/systemd/system/docker.service",
	"/usr/local/lib/systemd/system/docker.service",
	"/usr/lib/systemd/system/docker.service", "/lib/systemd/system/docker.service",
}

// Host is the host to convert.
type Host struct {
	// Root is put before every path; "" but for tests.
	Root string
	// Network is the one that docker0 becomes a part of; empty: the only one.
	Network string
	// Flannel keeps docker0 behind the host, as with flannel, and lets the agent
	// take part in flannel's network.
	Flannel bool
}

// Plan returns the changes after which Docker starts with the options that the
// agent writes. Errors are *topology.Error: ErrConflict where Docker's settings
// contradict them, ErrNotFound where there is no docker.service.
func (h Host) Plan() ([]hostfile.Change, error) {
	if err := h.checkDaemonJSON(); err != nil {
		return nil, err
	}
	start, err := h.execStart()
	if err != nil {
		return nil, err
	}
	script := packaged
	var all []hostfile.Change
	if _, err := os.Stat(h.Root + packaged); err != nil {
		script = local
		all = append(all, hostfile.Change{Path: local, Text: scripts.MkDockerOpts, Mode: 0o755})
	}
	text := strings.ReplaceAll(string(scripts.DockerDropIn), packaged, script)
	i := strings.LastIndex(text, "ExecStart=")
	text = text[:i] + "ExecStart=" + start + "\n"
	agent := "# Written by 'baize docker configure'.\n[Service]\nEnvironment=BAIZE_DOCKER_BRIDGE=docker0\n"
	if h.Flannel {
		text = strings.ReplaceAll(text, subnetenv.BaizeFile, subnetenv.FlannelFile)
		agent = string(scripts.FlannelDropIn)
	} else if h.Network != "" {
		agent += "Environment=BAIZE_DOCKER_NETWORK=" + h.Network + "\n"
	}
	all = append(all, hostfile.Change{Path: dropIn, Text: []byte(text), Mode: 0o644},
		hostfile.Change{Path: agentDropIn, Text: []byte(agent), Mode: 0o644})
	return hostfile.Missing(h.Root, all)
}

// Undo returns the changes that take everything back.
func (h Host) Undo() ([]hostfile.Change, error) {
	return hostfile.Missing(h.Root, []hostfile.Change{{Path: dropIn}, {Path: agentDropIn}, {Path: local}})
}

// contradictions are the names in daemon.json of options that the agent sets:
// dockerd refuses to start with one in both places.
var contradictions = []string{"bip", "bridge", "fixed-cidr", "fixed-cidr-v6", "ip-masq", "ipv6", "mtu"}

func (h Host) checkDaemonJSON() error {
	b, err := os.ReadFile(h.Root + daemonJSON)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(strings.TrimSpace(string(b))) == 0) {
		return nil
	}
	if err != nil {
		return err
	}
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(b, &settings); err != nil {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: daemonJSON, What: err.Error(),
			Remedy: "correct it: Docker does not start with it either",
		}
	}
	var found []string
	for _, name := range contradictions {
		if v, ok := settings[name]; ok {
			found = append(found, fmt.Sprintf("%q: %s", name, v))
		}
	}
	if len(found) > 0 {
		return &topology.Error{
			Kind: topology.ErrConflict, Item: daemonJSON, What: "it sets what the agent decides: " + strings.Join(found, ", "),
			Remedy: "remove these lines; dockerd does not start with an option in two places",
		}
	}
	return nil
}

// execStart returns the command of docker.service as it is without Baize, with
// the variable of the options in it.
func (h Host) execStart() (string, error) {
	unit, err := h.unitFile()
	if err != nil {
		return "", err
	}
	command, err := h.startCommand(unit)
	if err != nil {
		return "", err
	}
	if err := checkStartCommand(command); err != nil {
		return "", err
	}
	if !slices.Contains(strings.Fields(command), optionsOfUnit) {
		command += " " + optionsOfUnit
	}
	return command, nil
}

// unitFile returns the path of the docker.service that systemd uses.
func (h Host) unitFile() (string, error) {
	for _, file := range unitFiles {
		if _, err := os.Stat(h.Root + file); err == nil {
			return file, nil
		}
	}
	return "", &topology.Error{
		Kind: topology.ErrNotFound, Item: "docker.service", What: "no such unit on this host",
		Remedy: "install Docker from packages, or start dockerd yourself with the options that mk-docker-opts.sh writes " +
			"(docs/docker.md)",
	}
}

// startCommand returns the last ExecStart of the unit and its drop-in files, ours
// left out. A drop-in file that systemd reads after ours would override it: the
// error is of kind ErrConflict.
func (h Host) startCommand(unit string) (string, error) {
	drops, err := filepath.Glob(h.Root + dropInDir + "/*.conf")
	if err != nil {
		return "", err
	}
	slices.Sort(drops)
	command := ""
	for _, file := range append([]string{h.Root + unit}, drops...) {
		if file == h.Root+dropIn {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		value, ok := lastExecStart(string(b))
		if !ok {
			continue
		}
		command = value
		if file != h.Root+unit && filepath.Base(file) > filepath.Base(dropIn) {
			return "", &topology.Error{
				Kind: topology.ErrConflict, Item: strings.TrimPrefix(file, h.Root),
				What:   "it sets ExecStart, and is read after " + dropIn,
				Remedy: "rename it so that it comes before baize.conf",
			}
		}
	}
	if command == "" {
		return "", &topology.Error{
			Kind: topology.ErrInvalid, Item: unit, What: "it has no ExecStart", Remedy: "see 'systemctl cat docker'",
		}
	}
	return command, nil
}

// lastExecStart reads one unit file (systemd.syntax(7)).
func lastExecStart(unit string) (command string, found bool) {
	for line := range strings.Lines(strings.ReplaceAll(unit, "\\\n", " ")) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			command, found = strings.TrimSpace(value), true
		}
	}
	return command, found
}

// checkStartCommand refuses options that the agent decides.
func checkStartCommand(command string) error {
	for _, word := range strings.Fields(command) {
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if strings.HasPrefix(word, "-") && slices.Contains(append(contradictions, "b"), name) {
			return &topology.Error{
				Kind: topology.ErrConflict, Item: "docker.service",
				What:   "it starts dockerd with " + word + ", which the agent decides",
				Remedy: "take the option out of ExecStart ('systemctl edit --full docker')",
			}
		}
	}
	return nil
}
