package etcdstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
)

// network is the Backend of a real etcd.
type network struct {
	cfg       Config
	endpoints []endpoint
	certs     *certificates // nil without TLS
}

func (n *network) tlsConfig() *tls.Config {
	if n.certs == nil {
		return nil
	}
	return n.certs.config()
}

// remedy is for what Probe found.
func remedy(reasons []string) string {
	all := strings.Join(reasons, " ")
	switch {
	case strings.Contains(all, "client certificate"):
		return "give a client certificate and key signed by an authority that etcd trusts (its --trusted-ca-file)"
	case strings.Contains(all, "server's certificate"):
		return "give the CA that signed it, and use a host name that is in it"
	case strings.Contains(all, "speaks TLS"):
		return "use https://"
	case strings.Contains(all, "does not speak TLS"):
		return "use http:// and leave the certificates out, or give etcd a certificate"
	}
	return "check that etcd runs and that the address and port are right"
}

// Probe implements Backend: it connects to every endpoint by hand. An endpoint
// has as long to answer as it has for a request: with less, a busy etcd that
// elects a leader would be taken for one that is down, and not be asked again.
func (n *network) Probe(ctx context.Context) (reasons []string, usable int) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Timeout)
	defer cancel()
	out := make([]string, len(n.endpoints))
	var wg sync.WaitGroup
	for i, e := range n.endpoints {
		wg.Go(func() { out[i] = n.probeOne(ctx, e) })
	}
	wg.Wait()
	for i, r := range out {
		if r == "" {
			usable++
			continue
		}
		reasons = append(reasons, n.endpoints[i].raw+": "+r)
	}
	return reasons, usable
}

// http2Preface opens an HTTP/2 connection with empty settings (RFC 9113
// section 3.4); a gRPC server answers with its own settings, frame type 4.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// closes is the reason when the other side hangs up without a word, as etcd
// does with a client that speaks TLS to it, or does not, against its wish.
const closes = "it closes the connection"

// probeOne returns why an endpoint cannot be used, "" when it can.
func (n *network) probeOne(ctx context.Context, e endpoint) string {
	reason := n.shake(ctx, e, n.tlsConfig())
	if reason != closes || e.network == "unix" {
		return reason
	}
	// Would the other way have been right?
	e.tls = !e.tls
	other := n.shake(ctx, e, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nothing is sent: is TLS spoken?
	switch {
	case e.tls && other != closes && other != plain:
		return "it speaks TLS"
	case !e.tls && other == "":
		return plain
	}
	return reason
}

const plain = "it does not speak TLS"

// shake opens a connection as the client would.
func (n *network) shake(ctx context.Context, e endpoint, conf *tls.Config) string {
	conn, err := new(net.Dialer).DialContext(ctx, e.network, e.addr)
	if err != nil {
		return dialReason(err)
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if e.tls {
		tc := conf.Clone()
		tc.NextProtos = []string{"h2"}
		if tc.ServerName == "" {
			tc.ServerName, _, _ = net.SplitHostPort(e.addr)
		}
		t := tls.Client(conn, tc)
		if err := t.HandshakeContext(ctx); err != nil {
			return n.tlsReason(err)
		}
		// In TLS 1.3 the server judges the client's certificate after the
		// handshake has ended on this side: the first read tells.
		conn = t
	}
	if _, err := io.WriteString(conn, http2Preface); err != nil {
		return n.tlsReason(err)
	}
	var head [9]byte
	got, err := io.ReadFull(conn, head[:])
	switch {
	case got == len(head) && head[3] == 4:
		return ""
	case err != nil:
		return n.tlsReason(err)
	}
	return "something other than etcd answers there"
}

func dialReason(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		return "the host name " + dns.Name + " is not known"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer"
	case errors.Is(err, syscall.ENOENT):
		return "no such socket"
	case errors.As(err, &op):
		return strings.TrimPrefix(op.Err.Error(), "connect: ")
	}
	return err.Error()
}

func (n *network) tlsReason(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var inval x509.CertificateInvalidError
	var rec tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &inval):
		return "the server's certificate is not accepted: " +
			strings.TrimPrefix(err.Error(), "tls: failed to verify certificate: ")
	case errors.As(err, &rec):
		return plain
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "it accepts the connection but says nothing"
	}
	// An alert of the peer: only its text tells which.
	msg := err.Error()
	reason := ""
	if i := strings.Index(msg, "remote error"); i >= 0 {
		reason = msg[i:]
	}
	switch {
	case n.cfg.CertFile == "" &&
		(strings.Contains(msg, "certificate required") || strings.Contains(msg, "bad certificate")):
		return "it requires a client certificate, and none was given"
	case strings.Contains(msg, "certificate required"):
		// Go does not even show a certificate of an authority the server
		// did not name.
		return fmt.Sprintf("it refuses the client certificate %s: not signed by an authority it trusts", n.cfg.CertFile)
	case reason != "" && (strings.Contains(msg, "certificate") || strings.Contains(msg, "unknown")):
		return fmt.Sprintf("it refuses the client certificate %s: %s",
			n.cfg.CertFile, strings.TrimPrefix(reason, "remote error: tls: "))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return closes
	}
	return strings.TrimPrefix(msg, "tls: ")
}
