package member

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
)

// Spawn starts a member's pid 1 in new namespaces, detached from this process.
// config is what it reads from initFile: the identity and what goes with it.
func Spawn(c Identity, config any) (Member, error) {
	fail := func(err error) (Member, error) { return Member{}, fmt.Errorf("start %s: %w", c.Member, err) }
	if err := os.MkdirAll(logDir(c.Dir), 0o755); err != nil {
		return fail(err)
	}
	if err := atomicfile.WriteJSON(filepath.Join(c.Dir, initFile), config, 0o600); err != nil {
		return fail(err)
	}
	log, err := os.OpenFile(c.Log(initLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fail(err)
	}
	defer null.Close()
	argv := append([]string{c.Binary}, initArgs(c.Lab, c.Member, c.Dir)...)
	pid, err := syscall.ForkExec(c.Binary, argv, &syscall.ProcAttr{
		Dir: "/", Env: c.Env, Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		},
	})
	switch {
	case errors.Is(err, unix.EPERM):
		return Member{}, ErrNotRoot
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return Member{}, &topology.Error{
			Kind: topology.ErrNotFound, Item: c.Binary, What: "cannot be run: " + err.Error(),
			Remedy: "build it with 'make build'",
		}
	case err != nil:
		return fail(err)
	}
	return Member{PID: pid, Lab: c.Lab, Name: c.Member, Dir: c.Dir}, nil
}

// ErrNotRoot says that only root can make a lab.
var ErrNotRoot = &topology.Error{
	Kind: topology.ErrUnavailable, Item: "lab", What: "making namespaces is not permitted",
	Remedy: "run it as root: sudo baize lab …",
}
