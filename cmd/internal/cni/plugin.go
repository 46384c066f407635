// Package cni is Baize's CNI plugin: the verbs of the specification as requests to the
// agent of this host (api.Attachments). It has no state of its own.
//
// The specification is SPEC.md of github.com/containernetworking/cni, the meaning of
// capabilities and arguments CONVENTIONS.md there.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/plugin"
	"github.com/baize-net/baize/topology"
)

// Versions are those of the specification that the plugin speaks.
var Versions = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

// undoLimit bounds the undoing of an ADD that failed.
const undoLimit = 20 * time.Second

// Main runs the plugin as CNI's environment says, and returns the exit code. about is
// what somebody sees who starts it by hand.
func Main(about string) int {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		return printVersion(os.Stdin, os.Stdout)
	}
	if err := checkVariables(); err != nil {
		return printError(err, os.Stdout)
	}
	funcs := skel.CNIFuncs{Add: verb(add), Del: verb(del), Check: verb(check), GC: verb(gc), Status: verb(status)}
	if err := skel.PluginMainFuncsWithError(funcs, Versions, about); err != nil {
		return printError(err, os.Stdout)
	}
	return 0
}

// checkVariables is for errors that name the variable (section 5, error 4), which those
// of the library do not. What is missing is the library's business.
func checkVariables() *types.Error {
	switch verb := os.Getenv("CNI_COMMAND"); verb {
	case "ADD", "DEL", "CHECK":
	case "", "GC", "STATUS":
		return nil
	default:
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_COMMAND: "+verb+" is not known", "")
	}
	for name, check := range map[string]func(string) *types.Error{
		"CNI_CONTAINERID": utils.ValidateContainerID, "CNI_IFNAME": utils.ValidateInterfaceName,
	} {
		value := os.Getenv(name)
		if err := check(value); value != "" && err != nil {
			return types.NewError(types.ErrInvalidEnvironmentVariables, name+": "+err.Msg, err.Details)
		}
	}
	return nil
}

// verb gives a function of CNI errors of CNI.
func verb(f func(ctx context.Context, args *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error { return errorOf(f(context.Background(), args)) }
}

// printVersion answers VERSION with the version that was asked with (section 5,
// "VERSION Success"), and with the newest where none was.
func printVersion(in io.Reader, out io.Writer) int {
	asked := struct {
		Version string `json:"cniVersion"`
	}{version.Current()}
	if b, err := io.ReadAll(in); err == nil && len(b) > 0 {
		if err := json.Unmarshal(b, &asked); err != nil {
			return printError(types.NewError(types.ErrDecodingFailure, "the request cannot be read", err.Error()), out)
		}
	}
	b, err := json.Marshal(map[string]any{"cniVersion": asked.Version, "supportedVersions": Versions.SupportedVersions()})
	if err == nil {
		_, err = out.Write(append(b, '\n'))
	}
	if err != nil {
		return 1
	}
	return 0
}

// printError prints an error as section 5 has it, and returns the exit code.
func printError(e *types.Error, out io.Writer) int {
	b, err := json.MarshalIndent(struct {
		Version string `json:"cniVersion"`
		*types.Error
	}{version.Current(), e}, "", "    ")
	if err == nil {
		_, err = out.Write(append(b, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, e)
	}
	return 1
}

func add(ctx context.Context, args *skel.CmdArgs) (err error) {
	c, err := parse(args, true)
	if err != nil {
		return err
	}
	var before *current.Result
	if c.PrevResult != nil {
		if before, err = current.NewResultFromResult(c.PrevResult); err != nil {
			return types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
		}
	}
	if err := hostnet.CheckNetns(args.Netns); err != nil {
		return netnsError(err)
	}
	if c.SubnetFile != "" {
		return c.addRouted(ctx, args, before)
	}
	assigned, err := delegateAdd(ctx, c, args)
	if err != nil {
		return err
	}
	undo := []func(context.Context) error{func(ctx context.Context) error { return delegateDel(ctx, c, args) }}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, undoLimit)
		defer cancel()
		for i := len(undo) - 1; i >= 0; i-- {
			if e := undo[i](ctx); e != nil {
				fmt.Fprintln(os.Stderr, "baize-cni: undoing ADD:", e)
			}
		}
	}()
	req, err := c.request(args, assigned.addrs)
	if err != nil {
		return err
	}
	e, err := plugin.Add(ctx, c.Socket, req)
	if err != nil {
		return err
	}
	undo = append(undo, func(ctx context.Context) error {
		return plugin.Remove(ctx, c.Socket, *req.Attachment, c.Network)
	})
	result, err := c.finish(args, e.Port, assigned, before)
	if err != nil {
		return err
	}
	return types.PrintResult(result, c.CNIVersion)
}

// finish does what is the plugin's own after the container was attached, and describes
// what stands there. port is the host's end.
func (c *config) finish(
	args *skel.CmdArgs, port string, assigned assignment, before *current.Result,
) (*current.Result, error) {
	if err := hostnet.AddRoutes(args.Netns, args.IfName, assigned.routes); err != nil {
		return nil, err
	}
	if receives, sends := c.Runtime.Bandwidth.rates(); receives.Bits != 0 || sends.Bits != 0 {
		if err := hostnet.Limit(port, args.Netns, args.IfName, receives, sends); err != nil {
			return nil, err
		}
	}
	in, err := hostnet.Inspect(args.Netns, args.IfName)
	if err != nil {
		return nil, err
	}
	hostMAC, err := hostnet.HostMAC(port)
	if err != nil {
		return nil, err
	}
	out := resultOf(before, in, port, hostMAC, args.Netns)
	if d := c.dns(); !d.IsEmpty() {
		out.DNS = d
	} else if out.DNS.IsEmpty() {
		out.DNS = assigned.dns
	}
	return out, nil
}

// del removes whatever there is, and fails only where something is left that another
// DEL may remove.
func del(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parse(args, false)
	if err != nil {
		return err
	}
	if c.SubnetFile != "" {
		return c.delRouted(ctx, args)
	}
	ipam := delegateDel(ctx, c, args)
	return errors.Join(errorOf(plugin.Remove(ctx, c.Socket, c.attachment(args), c.Network)), ipam)
}

func check(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parse(args, true)
	if err != nil {
		return err
	}
	if c.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "prevResult is missing",
			"CHECK compares with it; the runtime passes the result of ADD")
	}
	result, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "prevResult cannot be read", err.Error())
	}
	if err := hostnet.CheckNetns(args.Netns); err != nil {
		return netnsError(err)
	}
	port, err := c.checkHost(ctx, args, result)
	if err != nil {
		return err
	}
	in, err := hostnet.Inspect(args.Netns, args.IfName)
	if errors.Is(err, topology.ErrNotFound) {
		return broken("interface %s is gone from %s", args.IfName, args.Netns)
	} else if err != nil {
		return err
	}
	routes, err := hostnet.Routes(args.Netns)
	if err != nil {
		return err
	}
	if err := checkInside(result, in, routes, args.Netns); err != nil {
		return err
	}
	return checkLimits(c, args, port)
}

// checkHost compares what stands on this host, and returns the host's end.
func (c *config) checkHost(ctx context.Context, args *skel.CmdArgs, result *current.Result) (port string, err error) {
	if c.SubnetFile != "" {
		return c.routedIfname(args), c.checkRouted(ctx, args, result)
	}
	if c.IPAM.Type != "" {
		if err := invoke.DelegateCheck(ctx, c.IPAM.Type, args.StdinData, nil); err != nil {
			return "", err
		}
	}
	e, err := api.NewClient(c.Socket).CheckAttachment(ctx, c.attachment(args))
	if errors.Is(err, topology.ErrNotFound) {
		err = broken("%v", err)
	}
	return e.Port, err
}

func checkLimits(c *config, args *skel.CmdArgs, port string) error {
	receives, sends := c.Runtime.Bandwidth.rates()
	if receives.Bits == 0 && sends.Bits == 0 {
		return nil // a later plugin may have its own
	}
	ok, err := hostnet.Limited(port, args.Netns, args.IfName, receives, sends)
	if err == nil && !ok {
		err = broken("the limits of traffic of %s are gone", args.IfName)
	}
	return err
}

// gc removes what the runtime does not know any more.
func gc(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parse(args, true)
	if err != nil {
		return err
	}
	if c.SubnetFile != "" {
		return c.gcRouted(ctx, args)
	}
	var ipam error
	if c.IPAM.Type != "" {
		ipam = invoke.DelegateGC(ctx, c.IPAM.Type, args.StdinData, nil)
	}
	r := api.Retention{Engine: api.EngineCNI, Network: c.Name, Attachments: []api.Attachment{}}
	for _, v := range c.ValidAttachments {
		r.Attachments = append(r.Attachments, api.Attachment{
			Engine: api.EngineCNI, Network: c.Name, Container: v.ContainerID, Ifname: v.IfName,
		})
	}
	return errors.Join(errorOf(api.NewClient(c.Socket).Retain(ctx, r)), ipam)
}

// status answers whether ADD would work (section 2, "STATUS").
func status(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parse(args, true)
	if err != nil {
		return err
	}
	if c.SubnetFile != "" {
		return c.statusRouted(ctx, args)
	}
	a, err := api.NewClient(c.Socket).Availability(ctx, c.Network)
	switch {
	case err != nil: // forwarding does not depend on the agent
		return types.NewError(types.ErrPluginNotAvailable, "the agent does not answer", err.Error())
	case !a.Forward:
		return types.NewError(types.ErrLimitedConnectivity, "this node does not forward as it has to", a.Why)
	case !a.Attach:
		return types.NewError(types.ErrPluginNotAvailable, "nothing can be attached to network "+c.Network, a.Why)
	}
	if c.IPAM.Type == "" {
		return nil
	}
	return invoke.DelegateStatus(ctx, c.IPAM.Type, args.StdinData, nil)
}

// assignment is what an ipam plugin has assigned.
type assignment struct {
	addrs  []netip.Addr
	routes []hostnet.InsideRoute
	dns    types.DNS
}

// delegateAdd has the ipam plugin assign addresses, where one is configured (section 4).
func delegateAdd(ctx context.Context, c *config, args *skel.CmdArgs) (out assignment, err error) {
	if c.IPAM.Type == "" {
		return out, nil
	}
	return assign(ctx, c.IPAM.Type, args.StdinData)
}

// assign has an ipam plugin assign addresses.
func assign(ctx context.Context, plugin string, conf []byte) (out assignment, err error) {
	var result *current.Result
	r, err := invoke.DelegateAdd(ctx, plugin, conf, nil)
	if err == nil {
		result, err = current.NewResultFromResult(r)
	}
	if err == nil && len(result.IPs) == 0 {
		err = types.NewError(types.ErrInternal, "ipam plugin "+plugin+" assigned no address", "")
	}
	if err != nil {
		return out, errors.Join(err, invoke.DelegateDel(ctx, plugin, conf, nil))
	}
	out.dns = result.DNS
	out.addrs, out.routes = assignedBy(result)
	return out, nil
}

// delegateDel has the ipam plugin take addresses back.
func delegateDel(ctx context.Context, c *config, args *skel.CmdArgs) error {
	if c.IPAM.Type == "" {
		return nil
	}
	return invoke.DelegateDel(ctx, c.IPAM.Type, args.StdinData, nil)
}
