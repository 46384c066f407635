package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

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
	return err != nil && (errors.Is(err, want) || rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(want) ||
		strings.HasSuffix(err.Error(), want.Error()))
}

func unavailable(item, what, remedy string) *topology.Error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: item, What: what, Remedy: remedy,
	}
}

// explain turns an error of the client into one for people. When etcd did not
// answer, the backend probes it: the client hides the reason (a refused
// certificate shows as a deadline). The caller's own cancellation comes back
// as it is.
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
	if refused := s.refused(err); refused != nil {
		return refused
	}
	desc := rpctypes.ErrorDesc(err)
	if what, answered := strings.CutPrefix(desc, "etcdserver: "); answered {
		return busy{unavailable(s.item(), what, "see 'etcdctl endpoint status' and the log of etcd")}
	}
	// The probe has a time of its own: the caller's may be used up.
	reasons, usable := s.backend.Probe(context.WithoutCancel(ctx))
	if usable == 0 {
		return unavailable("etcd"+s.cfg.origin(), strings.Join(reasons, "; "), remedy(reasons))
	}
	if c := code(err); c == codes.DeadlineExceeded || c == codes.Canceled {
		desc = fmt.Sprintf("no answer within %v", s.cfg.Timeout)
	}
	return busy{unavailable(s.item(), strings.Join(append([]string{desc}, reasons...), "; "),
		"it accepts connections: the cluster may have no leader, see 'etcdctl endpoint status' and the log of etcd")}
}

func (s *Store) item() string { return "etcd " + strings.Join(s.cfg.Endpoints, ", ") + s.cfg.origin() }

// refused explains an answer that another attempt would get as well; nil when
// another may be answered.
func (s *Store) refused(err error) error {
	user := s.user()
	coded := func(c fault.Code, e *topology.Error) error {
		e.Code = c
		return e
	}
	switch {
	case is(err, rpctypes.ErrPermissionDenied):
		return s.denied("etcd prefix "+s.cfg.Prefix+s.cfg.origin(), "use it")
	case is(err, rpctypes.ErrAuthFailed):
		return coded(fault.StoreDenied,
			unavailable(s.item(), "authentication failed for "+user, "check the user name and password"))
	case is(err, rpctypes.ErrUserEmpty):
		return coded(fault.StoreDenied, unavailable(s.item(), "etcd wants a user, and none was given",
			"give a user name and password, or a client certificate whose common name is a user"))
	case is(err, rpctypes.ErrNoSpace):
		return coded(fault.StoreFull, unavailable(s.item(), "the database is full, it refuses writes",
			"compact and defragment it, then 'etcdctl alarm disarm'"))
	case is(err, rpctypes.ErrTooManyOps), is(err, rpctypes.ErrRequestTooLarge):
		return unavailable(s.item(), rpctypes.ErrorDesc(err),
			"raise --max-txn-ops or --max-request-bytes of etcd to its defaults")
	case !transient(err):
		return unavailable(s.item(), rpctypes.ErrorDesc(err), "see the log of etcd")
	}
	return nil
}

// user is who the store is to etcd.
func (s *Store) user() string {
	switch {
	case s.cfg.Username != "":
		return "user " + s.cfg.Username
	case s.cfg.CertFile != "":
		return "the user of certificate " + s.cfg.CertFile
	}
	return "a client without a user"
}
