package testkit

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Shells are those that the program has completion for: how each is started
// without anybody's settings, and what is typed first to have that completion.
var Shells = map[string]struct {
	Argv  []string
	Setup string
}{
	"bash": {[]string{"bash", "--norc", "--noprofile", "-i"}, "source <(baize completion bash)"},
	"zsh": {
		[]string{"zsh", "-f", "-i"},
		"autoload -Uz compinit && compinit -u -D && source <(baize completion zsh)",
	},
	"fish": {[]string{"fish", "--no-config", "--interactive"}, "baize completion fish | source"},
}

// Shell is an interactive shell on a terminal of its own.
type Shell struct {
	t     testing.TB
	tty   *os.File
	out   *Output
	typed int
}

// said prints the arguments of the command that it is put before, with a number.
const said = `#!/bin/sh
n=$1
shift 2
printf 'said %s:' "$n"
[ $# -eq 0 ] || printf '<%s>' "$@"
echo .
`

// StartShell runs a shell with an environment and types setup into it. It is in
// dir, which is in its PATH and gets a program that Complete needs, and ends with the
// test.
func StartShell(t testing.TB, argv, env []string, dir, setup string) *Shell {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	require.NoError(t, err, "scripts/install-deps.sh test installs it")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "said"), []byte(said), 0o755))
	cmd := exec.CommandContext(t.Context(), path, argv[1:]...)
	cmd.Dir = dir
	// No colours, no questions to the terminal, nothing of the user's.
	own := []string{"TERM=dumb", "PS1=$ ", "HISTFILE=", "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8"}
	cmd.Env = slices.Concat(env, own)
	s := &Shell{t: t, out: new(Output)}
	s.tty, err = pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 250})
	require.NoError(t, err)
	// Close is to end a read, whoever has the terminal still; pty has made it one that blocks.
	raw, err := s.tty.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), true) }))
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(s.out, s.tty) // until nobody has the terminal any more
	}()
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // a terminal of its own is a session of its own
		_ = s.tty.Close()
		_ = cmd.Wait()
		<-ended
	})
	s.write(setup + "\n")
	s.write("said 0 shell ready\n")
	s.await("said 0:<ready>.")
	return s
}

func (s *Shell) write(keys string) {
	s.t.Helper()
	_, err := io.WriteString(s.tty, keys)
	require.NoError(s.t, err)
}

func (s *Shell) await(text string) {
	s.t.Helper()
	Await(s.t, text, func() (bool, string) { return strings.Contains(s.out.String(), text), s.out.String() })
}

// Complete types a command line and a tab, and returns the arguments that the
// command would get then, each in angle brackets.
func (s *Shell) Complete(line string) string {
	s.t.Helper()
	s.typed++
	// Home; then it is the arguments of another command.
	s.write(fmt.Sprintf("%s\t\x01said %d \n", line, s.typed))
	answer := regexp.MustCompile(fmt.Sprintf(`(?m)^said %d:(.*)\.\r?$`, s.typed))
	var found []string
	Await(s.t, line, func() (bool, string) {
		found = answer.FindStringSubmatch(s.out.String())
		return found != nil, s.out.String()
	})
	return found[1]
}
