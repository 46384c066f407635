package hostnet

import (
	"fmt"
	"strings"

	"github.com/safchain/ethtool"
)

// checksumOff switches transmit checksum offload off, as ethtool -K IFNAME tx
// off does; the kernel then drops segmentation offload by itself. It works on
// the calling thread's namespace.
func checksumOff(ifname string) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	want, err := txFeatures(e, ifname)
	if err != nil || len(want) == 0 {
		return err
	}
	if err := e.Change(ifname, want); err != nil {
		return err
	}
	// The request may be granted in part: read back.
	left, err := txFeatures(e, ifname)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("the device keeps %v", left)
	}
	return nil
}

// ChecksumOffload reports whether an interface of a network namespace is to finish
// checksums that its kernel leaves open.
func ChecksumOffload(netns, ifname string) (on bool, err error) {
	err = InNetns(netns, func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		features, err := txFeatures(e, ifname)
		on = len(features) > 0
		return err
	})
	return on, err
}

// txFeatures returns the checksum features that are on and may be changed, each with the value to set.
func txFeatures(e *ethtool.Ethtool, ifname string) (map[string]bool, error) {
	features, err := e.FeaturesWithState(ifname)
	if err != nil {
		return nil, err
	}
	on := map[string]bool{}
	for name, f := range features {
		if strings.HasPrefix(name, "tx-checksum-") && f.Available && !f.NeverChanged && f.Active {
			on[name] = false
		}
	}
	return on, nil
}
