package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Change is what one Apply is to do, in this order: first what makes, then what
// breaks.
type Change struct{ Steps []Step }

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Steps) == 0 }

// Size returns how many steps there are.
func (c Change) Size() int { return len(c.Steps) }

// String writes the change as shell commands, one step a line or a few.
func (c Change) String() string {
	var b strings.Builder
	for _, s := range c.Steps {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}

// Step changes one element. It is one of the types below.
type Step interface {
	// String writes the command that does the same.
	String() string
	// item names the element in messages.
	item() string
}

// Verb says what a step does with its element.
type Verb string

// The verbs, as ip(8) has them.
const (
	Add     Verb = "add"
	Replace Verb = "replace"
	Delete  Verb = "del"
)

// The steps.
type (
	// SetSysctl gives a setting its value.
	SetSysctl struct{ Sysctl }
	// SetLink changes those settings of a device that are not zero.
	SetLink struct{ Link }
	// ChangeAddress adds, replaces or deletes an address.
	ChangeAddress struct {
		Verb
		Address
	}
	// SetNeighbour adds a permanent neighbour, or replaces one.
	SetNeighbour struct{ Neighbour }
	// ChangeRoute adds, replaces or deletes a route of protocol 173.
	ChangeRoute struct {
		Verb
		route.Route
	}
	// ChangeRule adds or deletes a rule of protocol 173.
	ChangeRule struct {
		Verb
		Rule
	}
	// SetNAT replaces the table inet baize in one step; no rules remove it.
	SetNAT struct{ Rules []NATRule }
	// SetTunnels replaces the table inet baize-tunnels in one step; no ports remove it.
	SetTunnels struct{ Ports []TunnelPort }
	// ChangeDrop adds or deletes the ingress drop of a device.
	ChangeDrop struct {
		Verb
		Dev string
	}
	// Restore gives iptables-restore an input.
	Restore struct {
		Tool  string
		Chain Chain
		Input string
	}
)

func (s SetSysctl) String() string { return "sysctl -w " + s.Sysctl.String() }
func (s SetSysctl) item() string {
	return "sysctl " + strings.TrimSuffix(s.Sysctl.String(), "="+s.Value)
}

func (s SetLink) String() string {
	out := "ip link set " + s.Name
	if s.MAC != "" {
		out += " address " + s.MAC
	}
	if s.MTU != 0 {
		out += fmt.Sprintf(" mtu %d", s.MTU)
	}
	if s.Up {
		out += " up"
	}
	return out
}
func (s SetLink) item() string { return "device " + s.Name }

func (s ChangeAddress) String() string {
	out := fmt.Sprintf("ip address %s %s", s.Verb, s.Address)
	if s.Verb != Delete && s.Prefix.Addr().Is6() {
		out += " nodad" // the address is leased
	}
	return out
}
func (s ChangeAddress) item() string { return "address " + s.Address.String() }

func (s SetNeighbour) String() string { return "ip neighbour replace " + s.Neighbour.String() }
func (s SetNeighbour) item() string {
	return fmt.Sprintf("neighbour %s of device %s", s.Addr, s.Dev)
}

func (s ChangeRoute) String() string {
	return fmt.Sprintf("ip route %s %s proto %d", s.Verb, s.Route, route.Protocol)
}
func (s ChangeRoute) item() string { return "route " + s.Prefix.String() }

func (s ChangeRule) String() string {
	flag := ""
	if s.Family == topology.IPv6 {
		flag = "-6 "
	}
	return fmt.Sprintf("ip %srule %s %s proto %d", flag, s.Verb, s.Rule, route.Protocol)
}
func (s ChangeRule) item() string { return "rule " + s.Rule.String() }

func (s SetNAT) String() string {
	if len(s.Rules) == 0 {
		return "nft delete table inet " + Table
	}
	// "add" first, so that there is something to delete.
	return fmt.Sprintf(
		"nft -f - <<'.'\nadd table inet %s\ndelete table inet %s\n%s.",
		Table,
		Table,
		NATTable(natTexts(s.Rules)),
	)
}
func (s SetNAT) item() string { return "nftables table inet " + Table }

func (s SetTunnels) String() string {
	if len(s.Ports) == 0 {
		return "nft delete table inet " + TunnelTable
	}
	return fmt.Sprintf("nft -f - <<'.'\nadd table inet %s\ndelete table inet %s\n%s.",
		TunnelTable, TunnelTable, TunnelTableText(tunnelTexts(s.Ports)))
}
func (s SetTunnels) item() string { return "nftables table inet " + TunnelTable }

func (s ChangeDrop) String() string {
	if s.Verb == Delete {
		return fmt.Sprintf("nft delete chain netdev %s %s", Table, s.Dev)
	}
	return fmt.Sprintf(
		"nft 'add table netdev %s; add chain netdev %s %s { type filter hook ingress device %q priority %d; policy drop; }'",
		Table,
		Table,
		s.Dev,
		s.Dev,
		DropPriority,
	)
}
func (s ChangeDrop) item() string { return "nftables chain netdev " + Table + " " + s.Dev }

func (s Restore) String() string {
	return fmt.Sprintf("%s-restore --noflush <<'.'\n%s.", s.Tool, s.Input)
}
func (s Restore) item() string { return s.Tool + " chain " + s.Chain.Name }

// Do does the steps one by one, each by do, which returns what the system call
// or command answered. What is gone already is no error of a step that deletes.
// Do ends early only with ctx.
func (c Change) Do(ctx context.Context, do func(context.Context, Step) error) error {
	var errs []error
	for _, s := range c.Steps {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := do(ctx, s); err != nil && !(deletes(s) && gone(err)) {
			errs = append(errs, refused(s, err))
		}
	}
	return errors.Join(errs...)
}

func deletes(s Step) bool {
	switch s := s.(type) {
	case ChangeAddress:
		return s.Verb == Delete
	case ChangeRoute:
		return s.Verb == Delete
	case ChangeRule:
		return s.Verb == Delete
	case ChangeDrop:
		return s.Verb == Delete
	case SetNAT:
		return len(s.Rules) == 0
	case SetTunnels:
		return len(s.Ports) == 0
	}
	return false
}

func gone(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ESRCH, syscall.ENODEV, syscall.ENOENT, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// refused makes an error for people of what the kernel answered to a step.
func refused(s Step, err error) error {
	out := &topology.Error{
		Kind: topology.ErrUnavailable,
		Code: fault.KernelRefused,
		Item: s.item(),
		What: fmt.Sprintf("'%s': %v", command(s), err),
	}
	_, isRoute := s.(ChangeRoute)
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		out.Remedy = "run as root, or with CAP_NET_ADMIN"
	case errors.Is(err, syscall.EEXIST) && isRoute:
		out.Kind, out.Code = topology.ErrConflict, fault.RouteForeign
		out.What, out.Remedy = "another route occupies its place", "see 'ip route show "+s.(ChangeRoute).Prefix.String()+"'"
	case errors.Is(err, syscall.ENODEV):
		out.Kind, out.Remedy = topology.ErrNotFound, "'ip link' shows what devices there are"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		out.Remedy = "its next hop is on no link of this host: 'ip route get' with the address after 'via' says why"
	case errors.Is(err, syscall.EROFS):
		out.Remedy = "set it on the host, or let the agent write to /proc/sys"
	default:
		out.Remedy = "try the command by hand; the agent tries again"
	}
	return &Refusal{Step: s, Err: err, told: out}
}

// Refusal is the error of one step. It is a fault.Coded.
type Refusal struct {
	Step Step
	// Err is what the kernel or the tool answered.
	Err error
	// told is the same for people.
	told *topology.Error
}

// Error implements error.
func (e *Refusal) Error() string { return e.told.Error() }

// Unwrap returns the cause.
func (e *Refusal) Unwrap() error { return e.Err }

// Is reports whether target is the kind of the refusal.
func (e *Refusal) Is(target error) bool { return target == e.told.Kind }

// Fault implements fault.Coded.
func (e *Refusal) Fault() fault.Fault { return e.told.Fault() }

// command is the step's first line.
func command(s Step) string {
	first, _, _ := strings.Cut(s.String(), "\n")
	return strings.TrimSuffix(first, " <<'.'")
}
