package etcdfake

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// etcd's defaults.
const (
	maxTxnOps       = 128
	maxRequestBytes = 1.5 * 1024 * 1024
)

// checkTxn refuses what etcd refuses before it looks at any key.
func checkTxn(r *pb.TxnRequest) error {
	if max(len(r.Compare), len(r.Success), len(r.Failure)) > maxTxnOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if err := checkOps(ops); err != nil {
			return err
		}
	}
	return nil
}

func checkOps(ops []*pb.RequestOp) error {
	puts := map[string]bool{}
	for _, op := range ops {
		if op.GetRequestTxn() != nil {
			return status.Error(codes.Unimplemented, "etcdfake: nested transactions")
		}
		for _, key := range [][]byte{
			op.GetRequestPut().GetKey(), op.GetRequestRange().GetKey(), op.GetRequestDeleteRange().GetKey(),
		} {
			if key != nil && len(key) == 0 {
				return rpctypes.ErrGRPCEmptyKey
			}
		}
		if p := op.GetRequestPut(); p != nil {
			if puts[string(p.Key)] {
				return rpctypes.ErrGRPCDuplicateKey
			}
			puts[string(p.Key)] = true
		}
	}
	for _, op := range ops {
		if del := op.GetRequestDeleteRange(); del != nil {
			for key := range puts {
				if in(key, del.Key, del.RangeEnd) {
					return rpctypes.ErrGRPCDuplicateKey
				}
			}
		}
	}
	return nil
}

// writes reports whether a transaction may store something: a full database
// refuses it then, whichever branch would be taken.
func writes(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if op.GetRequestPut() != nil {
				return true
			}
		}
	}
	return false
}

// txn executes a transaction. All its changes have one revision.
func (d *database) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	out := &pb.TxnResponse{Succeeded: true}
	for _, c := range r.Compare {
		if !d.holds(c) {
			out.Succeeded = false
			break
		}
	}
	ops := r.Success
	if !out.Succeeded {
		ops = r.Failure
	}
	for _, op := range ops {
		var err error
		switch {
		case op.GetRequestRange() != nil:
			err = d.checkRange(op.GetRequestRange())
		case op.GetRequestPut() != nil:
			err = d.checkPut(op.GetRequestPut())
		}
		if err != nil {
			return nil, err
		}
	}
	rev := d.rev + 1
	for _, op := range ops {
		var resp *pb.ResponseOp
		switch {
		case op.GetRequestRange() != nil:
			// A change made before it in the transaction is seen.
			answer := d.read(op.GetRequestRange(), d.rev)
			resp = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: answer}}
		case op.GetRequestPut() != nil:
			answer := d.put(op.GetRequestPut(), rev)
			resp = &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: answer}}
		case op.GetRequestDeleteRange() != nil:
			answer := d.remove(op.GetRequestDeleteRange(), rev)
			resp = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: answer}}
		}
		out.Responses = append(out.Responses, resp)
	}
	out.Header = &pb.ResponseHeader{Revision: d.rev}
	return out, nil
}
