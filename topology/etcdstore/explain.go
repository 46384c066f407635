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
	"time"

	"github.com/baize-net/baize/topology"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// probeTimeout bounds the connection made by hand to find out why etcd does
// not answer.
const probeTimeout = time.Second

// busy is an error whose cause may pass: another member, the next leader. It
// wraps the error for people.
type busy struct{ err *topology.Error }

func (b busy) Error() string { return b.err.Error() }
func (b busy) Unwrap() error { return b.err }

// mayRecover reports whether asking again at once may help.
func mayRecover(err error) bool { return errors.As(err, new(busy)) }

// code returns the gRPC code of an error of the client.
func code(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return codes.DeadlineExceeded
	}
	if errors.Is(err, context.Canceled) {
		return codes.Canceled
	}
	return status.Code(err)
}

// transient reports whether the request failed for a reason that is not in
// the request.
func transient(err error) bool {
	var te *topology.Error
	if errors.As(err, &te) {
		return mayRecover(err)
	}
	switch code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unauthenticated, codes.Canceled:
		return true
	case codes.ResourceExhausted:
		return is(err, rpctypes.ErrTooManyRequests)
	case codes.FailedPrecondition:
		return is(err, rpctypes.ErrNotLeader) || is(err, rpctypes.ErrNotCapable)
	case codes.InvalidArgument:
		return is(err, rpctypes.ErrAuthOldRevision)
	}
	return false
}

// is compares by etcd's own message: the client gives some errors as
// rpctypes values and some as plain gRPC status.
func is(err, want error) bool {
	return err != nil && (errors.Is(err, want) || rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(want) || strings.HasSuffix(err.Error(), want.Error()))
}

func unavailable(item, what, remedy string) *topology.Error {
	return &topology.Error{Kind: topology.ErrUnavailable, Item: item, What: what, Remedy: remedy}
}

// explain turns an error of the client into one for people. When etcd did not
// answer, it connects to every endpoint by hand: the client hides the reason
// (a refused certificate shows as a deadline). The caller's own cancellation
// comes back as it is.
func (s *Store) explain(ctx context.Context, err error) error {
	var te *topology.Error
	if err == nil || errors.As(err, &te) {
		return err
	}
	if is(err, rpctypes.ErrCompacted) {
		return err // never seen outside this package
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("etcd: %w", ctx.Err())
	}
	user := "the client"
	if s.cfg.Username != "" {
		user = "user " + s.cfg.Username
	}
	item := "etcd " + strings.Join(s.cfg.Endpoints, ", ")
	switch {
	case is(err, rpctypes.ErrPermissionDenied):
		return unavailable("etcd prefix "+s.cfg.Prefix, "permission denied for "+user,
			fmt.Sprintf("grant a role of that user: etcdctl role grant-permission ROLE readwrite --prefix %s/", s.cfg.Prefix))
	case is(err, rpctypes.ErrAuthFailed):
		return unavailable(item, "authentication failed for "+user, "check the user name and password")
	case is(err, rpctypes.ErrUserEmpty):
		return unavailable(item, "etcd wants a user, and none was given", "give a user name and password, or a client certificate whose common name is a user")
	case is(err, rpctypes.ErrNoSpace):
		return unavailable(item, "the database is full", "compact and defragment it, then 'etcdctl alarm disarm'")
	case is(err, rpctypes.ErrTooManyOps), is(err, rpctypes.ErrRequestTooLarge):
		return unavailable(item, rpctypes.ErrorDesc(err), "raise --max-txn-ops or --max-request-bytes of etcd to its defaults")
	}
	if !transient(err) {
		return unavailable(item, rpctypes.ErrorDesc(err), "see the log of etcd")
	}

	if strings.HasPrefix(rpctypes.ErrorDesc(err), "etcdserver: ") {
		// It did answer.
		return busy{unavailable(item, strings.TrimPrefix(rpctypes.ErrorDesc(err), "etcdserver: "), "see 'etcdctl endpoint status' and the log of etcd")}
	}
	// The probe has a time of its own: the caller's may be used up.
	reasons, up := s.probe(context.WithoutCancel(ctx))
	if up == 0 {
		return unavailable("etcd", strings.Join(reasons, "; "), s.remedy(reasons))
	}
	what := rpctypes.ErrorDesc(err)
	if c := code(err); c == codes.DeadlineExceeded || c == codes.Canceled {
		what = fmt.Sprintf("no answer within %v", s.cfg.Timeout)
	}
	if len(reasons) > 0 {
		what += "; " + strings.Join(reasons, "; ")
	}
	return busy{unavailable(item, what, "it accepts connections: the cluster may have no leader, see 'etcdctl endpoint status' and the log of etcd")}
}

func (s *Store) remedy(reasons []string) string {
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

// probe connects to every endpoint and returns why it cannot be used, and how
// many can.
func (s *Store) probe(ctx context.Context) (reasons []string, up int) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out := make([]string, len(s.endpoints))
	var wg sync.WaitGroup
	for i, e := range s.endpoints {
		wg.Go(func() { out[i] = s.probeOne(ctx, e) })
	}
	wg.Wait()
	for i, r := range out {
		if r == "" {
			up++
			continue
		}
		reasons = append(reasons, s.endpoints[i].raw+": "+r)
	}
	return reasons, up
}

// http2Preface opens an HTTP/2 connection with empty settings (RFC 9113
// section 3.4); a gRPC server answers with its own settings, frame type 4.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// closes is the reason when the other side hangs up without a word, as etcd
// does with a client that speaks TLS to it, or does not, against its wish.
const closes = "it closes the connection"

// probeOne returns why an endpoint cannot be used, "" when it can.
func (s *Store) probeOne(ctx context.Context, e endpoint) string {
	reason := s.shake(ctx, e, s.tls)
	if reason != closes || e.network == "unix" {
		return reason
	}
	// Would the other way have been right?
	e.tls = !e.tls
	other := s.shake(ctx, e, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nothing is sent; it only asks whether TLS is spoken
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
func (s *Store) shake(ctx context.Context, e endpoint, conf *tls.Config) string {
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
			return s.tlsReason(err)
		}
		// In TLS 1.3 the server judges the client's certificate after the
		// handshake has ended on this side: the first read tells.
		conn = t
	}
	if _, err := io.WriteString(conn, http2Preface); err != nil {
		return s.tlsReason(err)
	}
	var head [9]byte
	n, err := io.ReadFull(conn, head[:])
	switch {
	case n == len(head) && head[3] == 4:
		return ""
	case err != nil:
		return s.tlsReason(err)
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

func (s *Store) tlsReason(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var inval x509.CertificateInvalidError
	var rec tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &inval):
		return fmt.Sprintf("the server's certificate is not accepted: %s", strings.TrimPrefix(err.Error(), "tls: failed to verify certificate: "))
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
	case s.cfg.CertFile == "" && (strings.Contains(msg, "certificate required") || strings.Contains(msg, "bad certificate")):
		return "it requires a client certificate, and none was given"
	case strings.Contains(msg, "certificate required"):
		// Go does not even show a certificate of an authority the server
		// did not name.
		return fmt.Sprintf("it refuses the client certificate %s: not signed by an authority it trusts", s.cfg.CertFile)
	case reason != "" && (strings.Contains(msg, "certificate") || strings.Contains(msg, "unknown")):
		return fmt.Sprintf("it refuses the client certificate %s: %s", s.cfg.CertFile, strings.TrimPrefix(reason, "remote error: tls: "))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return closes
	}
	return strings.TrimPrefix(msg, "tls: ")
}
