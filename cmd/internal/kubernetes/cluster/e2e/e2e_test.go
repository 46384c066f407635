// Package e2e is Kubernetes' own suite of end-to-end tests, those of networks alone: what
// k8s.io/kubernetes/test/e2e has in its tests, with fewer of its packages.
package e2e

import (
	"flag"
	"os"
	"testing"

	_ "github.com/onsi/ginkgo/v2" // by this import ginkgo knows a suite
	"k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/e2e/feature" // freezes the names of features
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"   // as upstream's suite
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init" // as upstream's suite
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"    // as upstream's suite
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	_ "k8s.io/kubernetes/test/e2e/network" // the tests
	manifests "k8s.io/kubernetes/test/e2e/testing-manifests"
	_ "k8s.io/kubernetes/test/utils/format" // as upstream's suite
)

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	testfiles.AddFileSource(manifests.GetE2ETestingManifestsFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

func TestE2E(t *testing.T) { e2e.RunE2ETests(t) }
