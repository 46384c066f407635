//go:build system

package doctortest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology/fault"
)

// etcdHost is where the lab's hosts reach etcd.
const etcdHost = "192.168.77.1"

// endsIn makes a certificate of the fabric's address that is its own authority, writes it
// into a file, and returns it with its key.
func (p *patient) endsIn(file string, left time.Duration) *tls.Certificate {
	p.T.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(p.T, err)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd of the lab"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-365 * 24 * time.Hour), NotAfter: time.Now().Add(left),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.ParseIP(etcdHost)},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	require.NoError(p.T, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(p.T, os.WriteFile(file, text, 0o644))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// withTLS serves the lab's etcd by TLS as well, and returns where.
func (p *patient) withTLS(certificate *atomic.Pointer[tls.Certificate]) string {
	p.T.Helper()
	config := &tls.Config{
		NextProtos:     []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate.Load(), nil },
	}
	fabric := p.Netns("fabric")
	var listener net.Listener
	require.NoError(p.T, hostnet.InNetns(fabric, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(p.T.Context(), "tcp", net.JoinHostPort(etcdHost, "0"))
		return err
	}))
	p.T.Cleanup(func() { _ = listener.Close() })
	serve := func(client net.Conn) {
		defer client.Close()
		var server net.Conn
		if hostnet.InNetns(fabric, func() (err error) { server, err = net.Dial("tcp", etcdHost+":2379"); return err }) != nil {
			return
		}
		go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
		_, _ = io.Copy(client, server)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(tls.Server(conn, config))
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return "https://" + net.JoinHostPort(etcdHost, port)
}

// A certificate that the way to etcd needs is named from 30 days before its end on, and is
// an error when it has ended. One that replaces it mends both.
func testCertificate(p *patient) {
	file := filepath.Join(p.T.TempDir(), "ca.crt")
	require.NoError(p.T, os.Chmod(filepath.Dir(file), 0o755))
	var shown atomic.Pointer[tls.Certificate]
	args := []string{"--etcd-endpoints", p.withTLS(&shown), "--etcd-cafile", file}
	const day = 24 * time.Hour
	for left, want := range map[time.Duration]fault.Severity{
		400 * day: "", 29 * day: fault.Warning, -day: fault.Error, 31 * day: "",
	} {
		shown.Store(p.endsIn(file, left))
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
