// Package scripts makes of the scripts what the executable itself needs: a host
// that has only the executable can have them, too.
package scripts

import _ "embed"

// MkDockerOpts is mk-docker-opts.sh.
//
//go:embed mk-docker-opts.sh
var MkDockerOpts []byte

// DockerDropIn is the drop-in of docker.service that starts Docker with docker0
// as a part of a network.
//
//go:embed systemd/docker-baize.conf
var DockerDropIn []byte

// FlannelDropIn is the drop-in of baize.service that makes the agent take part in
// flannel's network.
//
//go:embed systemd/baize-flannel.conf
var FlannelDropIn []byte
