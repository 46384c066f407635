package cni

import (
	"errors"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// FuzzConfig: whatever a runtime writes to standard input and puts into CNI_ARGS is a
// request or an error of the specification, and ADD never takes what DEL cannot read.
func FuzzConfig(f *testing.F) {
	f.Add(`{"cniVersion":"1.0.0","name":"net","type":"baize-cni"}`, "")
	f.Add(`{"cniVersion":"1.1.0","name":"net","type":"baize-cni","network":"blue","allow":["10.9.0.0/24","ra"]}`,
		"IP=10.1.5.9/16;MAC=02:00:00:00:00:09")
	f.Add(`{"cniVersion":"0.4.0","name":"net","type":"baize-cni","runtimeConfig":{"ips":["10.1.5.7/16","fd00::7"],`+
		`"mac":"02-00-00-00-00-07","aliases":{"net":["a"]},"bandwidth":{"ingressRate":1,"egressBurst":2}}}`,
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")
	f.Add(`{"cniVersion":"1.0.0","name":"net","type":"baize-cni","ipam":{"type":"host-local"},"dns":{"nameservers":["10.0.0.1"]},`+
		`"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.1.5.2/16","interface":0}]}}`, "")
	f.Fuzz(func(t *testing.T, stdin, env string) {
		args := &skel.CmdArgs{
			ContainerID: "c1", Netns: "/run/netns/c1", IfName: "eth0", Args: env, StdinData: []byte(stdin),
		}
		c, err := parse(args, true)
		if err == nil {
			_, err = c.request(args, nil)
			if _, lax := parse(args, false); lax != nil {
				t.Fatalf("ADD takes what DEL cannot read: %v", lax)
			}
		}
		if specified := new(types.Error); err != nil && !errors.As(err, &specified) {
			t.Fatalf("an error without a code: %v", err)
		}
	})
}
