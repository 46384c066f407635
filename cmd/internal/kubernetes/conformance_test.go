//go:build kubernetes

package kubernetes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kubernetes"
)

const (
	// conformance is how many tests of networks Kubernetes 1.34 has that every cluster
	// must pass.
	conformance = 45
	// conformanceLimit is for a machine that is busy with others; alone it is two minutes.
	conformanceLimit = 20 * time.Minute
)

// TestConformance is Kubernetes' own suite: what it demands of the network of any cluster.
func TestConformance(t *testing.T) {
	t.Run("in flannel's place", func(t *testing.T) { testConformance(t, false) })
	t.Run("provider", func(t *testing.T) { testConformance(t, true) })
}

func testConformance(t *testing.T, provider bool) {
	c := up(t, 2)
	c.provider = provider
	require.NoError(t, c.k.WriteSuiteImages(t.Context()))
	c.startNodes(func(n string) { c.baize(n) })
	c.routePods()
	c.apply(names)
	c.conformance()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
	}
}

// beside is a file that was built with Kubernetes.
func beside(name string) string { return filepath.Join(filepath.Dir(program), name) }

// routePods gives the control plane, which is no node here, its way to the pods: the API
// server is a proxy to them, and on nothing else a route of the underlay's may depend.
func (c *cluster) routePods() {
	c.T.Helper()
	for _, n := range c.nodes {
		c.Must("fabric", "ip", "route", "replace", c.must("get", "node", n, "-o", "jsonpath={.spec.podCIDR}"),
			"via", c.addr(n).String())
	}
}

// conformance runs the suite, in four processes.
func (c *cluster) conformance() {
	t := c.T
	t.Helper()
	c.Await("the cluster's names", func() (bool, string) {
		out, err := c.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=1s")
		return err == nil, fmt.Sprint(out, err)
	})
	kubectl := filepath.Join(c.dir, "kubectl")
	require.NoError(t, os.Symlink(program, kubectl))
	ctx, cancel := context.WithTimeout(t.Context(), conformanceLimit)
	defer cancel()
	began := time.Now()
	out, failed := c.Host("fabric").Exec(ctx, beside("ginkgo"), "--procs=4", `--focus=\[sig-network\].*\[Conformance\]`,
		"--no-color", "--succinct", "--output-interceptor-mode=none", "--timeout="+conformanceLimit.String(),
		"--output-dir="+c.dir, "--json-report=suite.json", beside("e2e.test"), "--", "--kubeconfig="+c.k.Kubeconfig(),
		"--provider=skeleton", "--kubectl-path="+kubectl, "--disable-log-dump")
	took := time.Since(began)
	passed, broken := c.report(filepath.Join(c.dir, "suite.json"), out)
	t.Logf("%d tests passed, %d failed, in %v", passed, len(broken), took.Round(time.Second))
	for _, b := range broken {
		assert.Fail(t, "a conformance test failed", b)
	}
	assert.NoError(t, failed)
	assert.Equal(t, conformance, passed)
}

// report reads the suite's report: how many tests passed, and what of those that did not.
func (c *cluster) report(file, output string) (passed int, broken []string) {
	c.T.Helper()
	text, err := os.ReadFile(file)
	require.NoError(c.T, err, output)
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeText, State     string
			Failure                 struct{ Message string }
		}
	}
	require.NoError(c.T, json.Unmarshal(text, &suites))
	for _, s := range suites {
		for _, r := range s.SpecReports {
			name := strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " ")
			switch {
			case r.State == "skipped":
			case r.State != "passed":
				broken = append(broken, fmt.Sprintf("%s %s: %s", name, r.State, r.Failure.Message))
			case strings.Contains(name, "[Conformance]"): // not what is done before and after all of them
				passed++
			}
		}
	}
	return passed, broken
}

// names is the cluster's DNS.
const names = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
- {apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
      errors
      ready
      kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
      }
      cache 5
      loadbalance
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  replicas: 2
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      containers:
      - name: coredns
        image: ` + kubernetes.DNSImage + `
        args: [-conf, /etc/coredns/Corefile]
        volumeMounts: [{name: config, mountPath: /etc/coredns}]
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
      volumes: [{name: config, configMap: {name: coredns}}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: ` + kubernetes.NamesIP + `
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
`
