//go:build kubernetes

package kubernetes

import (
	"context"
	"path/filepath"
)

// What tests need besides: they are in a package of their own, since labs of tests run
// commands that make clusters.
const (
	NamesIP          = namesIP
	ReferencePlugins = referencePlugins
	// DNSImage is that of CoreDNS.
	DNSImage = "baize.example/coredns:1"
)

var (
	Plugins    = plugins
	WriteImage = writeImage
)

// Conf is the kubeconfig of a user.
func (c *Cluster) Conf(user string) string { return c.pki.conf(user) }

// suiteImages are the names that the suite has for the images it takes (test/utils/image
// of Kubernetes). Here they are one.
var suiteImages = []string{
	"registry.k8s.io/e2e-test-images/agnhost:2.56", "registry.k8s.io/e2e-test-images/jessie-dnsutils:1.7",
	"registry.k8s.io/e2e-test-images/busybox:1.37.0-1",
}

// WriteSuiteImages makes the images that the suite and the cluster's names need.
func (c *Cluster) WriteSuiteImages(ctx context.Context) error {
	beside := func(name string) string { return filepath.Join(filepath.Dir(c.Program), name) }
	l := newLayer()
	// As upstream's Dockerfile (test/images/agnhost), of which the tests call these.
	for _, command := range []string{"bash", "curl", "dig", "ss", "ip", "getent"} {
		l.linked(ctx, "usr/bin/"+command, command)
		l.link("bin/"+command, "../usr/bin/"+command)
	}
	// The shell of busybox would take its own nc.
	l.linked(ctx, "bin/sh", "dash")
	l.linked(ctx, "bin/nc", "nc.openbsd")
	l.copy("agnhost", beside("agnhost"))
	l.link("agnhost-2", "agnhost")
	l.copy("localhost.crt", beside("localhost.crt"))
	l.copy("localhost.key", beside("localhost.key"))
	l.dirs(0o755, "uploads")
	l.file("etc/nsswitch.conf", []byte("hosts: files dns\n"), 0o644)
	l.file("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644)
	l.busybox(ctx)
	err := l.write(filepath.Join(c.Dir, "suite.tar"), map[string]any{
		"Entrypoint": []string{"/agnhost"}, "Cmd": []string{"pause"}, "Env": []string{"PATH=/usr/bin:/bin"},
	}, suiteImages...)
	if err != nil {
		return err
	}

	l = newLayer()
	l.copy("coredns", beside("coredns"))
	return l.write(filepath.Join(c.Dir, "coredns.tar"), map[string]any{"Entrypoint": []string{"/coredns"}}, DNSImage)
}

// WriteFlannelImages makes the images that flannel's manifest has its init containers of:
// one with flannel's CNI plugin, for which plugin stands, and busybox.
func (c *Cluster) WriteFlannelImages(ctx context.Context, plugin []byte) error {
	l := newLayer()
	l.file("flannel", plugin, 0o755)
	l.busybox(ctx)
	return l.write(filepath.Join(c.Dir, "flannel.tar"), map[string]any{"Env": []string{"PATH=/bin"}},
		"ghcr.io/flannel-io/flannel-cni-plugin:v1.7.1-flannel1", "docker.io/library/busybox:1.37")
}
