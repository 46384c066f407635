package lab

import (
	"context"
	"os"

	"github.com/baize-net/baize/cmd/internal/lab/machine"
)

// lock keeps other ups and downs of the lab away. The lock goes with the
// process. unlock removes what keeps it where remove says so.
func lock(ctx context.Context, c Config) (unlock func(remove bool), err error) {
	unlockFile, err := machine.Lock(ctx, "lab "+c.Name, c.lockFile())
	if err != nil {
		return nil, err
	}
	return func(remove bool) {
		unlockFile(remove)
		if remove {
			_ = os.Remove(c.BaseDir) // where it is empty
		}
	}, nil
}
