package cni

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/baize-net/baize/topology"
)

// Codes of errors beside those of the specification, section 5.
const (
	CodeConflict uint = 100 // an address or a link address is somebody else's
	CodeExists   uint = 101 // the interface is there already
	CodeFull     uint = 102 // the network has no free address
	CodeInUse    uint = 103 // something else is in the way
)

// errorOf turns an error into one of CNI. Errors that are one already stay as they are.
func errorOf(err error) error {
	var done *types.Error
	if err == nil || errors.As(err, &done) {
		return err
	}
	msg, details := err.Error(), ""
	var e *topology.Error
	if errors.As(err, &e) && e.What != "" {
		msg, details = e.Item+": "+e.What, e.Remedy
	}
	return types.NewError(codeOf(err), msg, details)
}

func codeOf(err error) uint {
	for _, c := range []struct {
		kind error
		code uint
	}{
		{topology.ErrUnavailable, types.ErrTryAgainLater},
		{context.DeadlineExceeded, types.ErrTryAgainLater},
		{topology.ErrInvalid, types.ErrInvalidNetworkConfig},
		{topology.ErrNotFound, types.ErrInvalidNetworkConfig},
		{topology.ErrConflict, CodeConflict},
		{topology.ErrExists, CodeExists},
		{topology.ErrFull, CodeFull},
		{topology.ErrInUse, CodeInUse},
	} {
		if errors.Is(err, c.kind) {
			return c.code
		}
	}
	return types.ErrInternal
}

func invalidConfig(what, why string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, what+" is not valid", why)
}

// netnsError is about CNI_NETNS, and says so.
func netnsError(err error) error {
	msg := err.Error()
	var e *topology.Error
	if errors.As(err, &e) {
		msg = e.Item + ": " + e.What
	}
	code := types.ErrInvalidEnvironmentVariables
	if errors.Is(err, topology.ErrInvalid) {
		code = types.ErrInvalidNetNS
	}
	return types.NewError(code, "CNI_NETNS: "+msg, "")
}
