package labkit

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
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/hostnet"
)

// etcdHost is where a lab's hosts reach etcd.
const etcdHost = "192.168.77.1"

// EtcdTLS is a lab's etcd, served by TLS as well.
type EtcdTLS struct {
	// URL is where, for the lab's hosts.
	URL   string
	shown atomic.Pointer[tls.Certificate]

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// EtcdByTLS serves the lab's etcd by TLS until the end of the test. Before it is dialled it
// has to have a certificate to show.
func (l *Lab) EtcdByTLS() *EtcdTLS {
	l.T.Helper()
	e := &EtcdTLS{conns: map[net.Conn]bool{}}
	config := &tls.Config{
		NextProtos:     []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.shown.Load(), nil },
	}
	fabric := l.Netns("fabric")
	var listener net.Listener
	require.NoError(l.T, hostnet.InNetns(fabric, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(l.T.Context(), "tcp", net.JoinHostPort(etcdHost, "0"))
		return err
	}))
	l.T.Cleanup(func() { _ = listener.Close(); e.Cut() })
	dial := func() (server net.Conn, err error) {
		err = hostnet.InNetns(fabric, func() (err error) {
			server, err = net.Dial("tcp", etcdHost+":2379")
			return err
		})
		return server, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go e.serve(tls.Server(conn, config), dial)
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	e.URL = "https://" + net.JoinHostPort(etcdHost, port)
	return e
}

func (e *EtcdTLS) serve(client net.Conn, dial func() (net.Conn, error)) {
	defer client.Close()
	server, err := dial()
	if err != nil {
		return
	}
	e.mu.Lock()
	e.conns[client] = true
	e.mu.Unlock()
	go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
	_, _ = io.Copy(client, server)
	e.mu.Lock()
	delete(e.conns, client)
	e.mu.Unlock()
}

// Cut ends all connections: clients come again, and see the certificate that is shown now.
func (e *EtcdTLS) Cut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		_ = c.Close()
	}
}

// NewCertificate makes a certificate for etcd that is its own authority, and returns it in
// PEM. From show on it is shown.
func (e *EtcdTLS) NewCertificate(l *Lab, left time.Duration) (text []byte, show func()) {
	l.T.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(l.T, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(l.T, err)
	form := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "etcd of the lab, " + serial.String()}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-365 * 24 * time.Hour), NotAfter: time.Now().Add(left),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.ParseIP(etcdHost)},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	require.NoError(l.T, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), func() {
		e.shown.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	}
}
