package command

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"
	"unicode"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
)

// The checks of flags' values: they run before the command does, also on values
// of the environment.

// notNegative is the check of every duration that has none of its own: timers
// panic with a negative one.
func notNegative(flag string) func(*ucli.Context, time.Duration) error {
	return func(c *ucli.Context, d time.Duration) error {
		if d < 0 {
			return usagef(c.Command.HelpName, "--%s %s is negative", flag, d)
		}
		return nil
	}
}

// notNegativeInt is the check of every number that has none of its own.
func notNegativeInt(flag string) func(*ucli.Context, int) error {
	return func(c *ucli.Context, n int) error {
		if n < 0 {
			return usagef(c.Command.HelpName, "--%s %d is negative", flag, n)
		}
		return nil
	}
}

// atLeast is the check of a duration that must not be shorter.
func atLeast(flag string, least time.Duration) func(*ucli.Context, time.Duration) error {
	return func(c *ucli.Context, d time.Duration) error {
		if err := notNegative(flag)(c, d); err != nil {
			return err
		}
		if d < least {
			return usagef(c.Command.HelpName, "--%s %s is too short: use %s or more", flag, d, least)
		}
		return nil
	}
}

// between is the check of a number; what it counts is said where it is wrong.
func between(flag string, least, most int) func(*ucli.Context, int) error {
	return func(c *ucli.Context, n int) error {
		if n < least || n > most {
			return usagef(c.Command.HelpName, "--%s %d is out of range: use %d to %d", flag, n, least, most)
		}
		return nil
	}
}

// isPort is the check of a flag that names a UDP port.
func isPort(flag string) func(*ucli.Context, int) error {
	return func(c *ucli.Context, port int) error {
		if port < 1 || port > math.MaxUint16 {
			return usagef(c.Command.HelpName, "--%s %d is no port: use 1 to %d", flag, port, math.MaxUint16)
		}
		return nil
	}
}

// isDevice is the check of a flag that names a network device.
func isDevice(flag string) func(*ucli.Context, string) error {
	return func(c *ucli.Context, name string) error {
		if err := checkDevice(name); err != nil {
			return usagef(c.Command.HelpName, "--%s %q %v", flag, name, err)
		}
		return nil
	}
}

// checkDevice says why the kernel would refuse a device's name (dev_valid_name in
// net/core/dev.c); IFNAMSIZ includes a zero.
func checkDevice(name string) error {
	bad := func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || unicode.IsControl(r) }
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("is no name of a device: use 1 to 15 bytes without '/', ':' and blanks")
	}
	return nil
}

// isVTEP is the check of an address or a device.
func isVTEP(flag string) func(*ucli.Context, string) error {
	return func(c *ucli.Context, s string) error {
		if _, err := netip.ParseAddr(s); err == nil || s == "" {
			return nil
		}
		if checkDevice(s) != nil {
			return usagef(c.Command.HelpName, "--%s %q is neither an address nor an interface", flag, s)
		}
		return nil
	}
}

// isName is the check of a flag with the name of a network or a node; it may be
// empty.
func isName(flag, kind string) func(*ucli.Context, string) error {
	return func(c *ucli.Context, s string) error {
		if s == "" {
			return nil
		}
		if err := topology.CheckName(kind, s); err != nil {
			return usagef(c.Command.HelpName, "--%s: %v", flag, err)
		}
		return nil
	}
}

// areNames is isName of a flag that may be repeated.
func areNames(flag, kind string) func(*ucli.Context, []string) error {
	return func(c *ucli.Context, list []string) error {
		for _, s := range list {
			if err := isName(flag, kind)(c, s); err != nil {
				return err
			}
		}
		return nil
	}
}
