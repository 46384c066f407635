//go:build system

package doctortest

import (
	"os"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/topology/fault"
)

// A certificate that the way to etcd needs is named from 30 days before its end on, and is
// an error when it has ended. One that replaces it mends both.
func testCertificate(p *patient) {
	file := filepath.Join(p.T.TempDir(), "ca.crt")
	require.NoError(p.T, os.Chmod(filepath.Dir(file), 0o755))
	etcd := p.EtcdByTLS()
	args := []string{"--etcd-endpoints", etcd.URL, "--etcd-cafile", file}
	const day = 24 * time.Hour
	for left, want := range map[time.Duration]fault.Severity{
		400 * day: "", 29 * day: fault.Warning, -day: fault.Error, 31 * day: "",
	} {
		text, show := etcd.NewCertificate(p.Lab, left)
		require.NoError(p.T, os.WriteFile(file, text, 0o644))
		show()
		r, saw := p.doctor("host1", args...)
		var got fault.Severity
		for _, f := range r.Findings() {
			if f.Code == fault.CertificateExpires {
				require.Equal(p.T, file, f.Item)
				got = f.Severity
			}
		}
		require.Equal(p.T, want, got, "%s left: %s", left, saw)
		if left > 0 {
			require.Len(p.T, r.Findings(), map[bool]int{true: 1}[want != ""], saw)
			require.Greater(p.T, r.Count(doctor.OK), 20, "etcd answers")
		}
	}
}
