package openflow

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os/exec"
	"slices"
)

// A bundle takes ovs-ofctl five milliseconds, and its start twenty: whoever waits for flows
// waits for the start as well. So a client that is to change flows again and again has the
// next ovs-ofctl started already (Config.Spare). It reads all of its input before it
// connects, so it does not matter how long it waits, or what becomes of ovs-vswitchd
// meanwhile. One whose client ends without Close reads nothing, and changes nothing.

// spare is a command that waits for its input.
type spare struct {
	argv        []string
	cmd         *exec.Cmd
	stdin       io.WriteCloser
	out, errOut bytes.Buffer
}

// pipe runs a command with an input, in the spare one where there is one like it.
func (c *Client) pipe(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	if !c.cfg.Spare {
		return c.run(ctx, stdin, name, args...)
	}
	input, err := io.ReadAll(stdin)
	if err != nil {
		return "", err
	}
	argv := append([]string{name}, args...)
	defer func() { go c.prepare(argv) }() // whoever waits for the flows does not wait for it
	if s := c.takeSpare(argv); s != nil {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
		defer cancel()
		err := s.use(ctx, input)
		var exit *exec.ExitError
		if err == nil || ctx.Err() != nil || errors.As(err, &exit) && exit.Exited() {
			if err != nil {
				err = c.explain(ctx, name, err, s.errOut.String())
			}
			return s.out.String(), err
		}
		// Somebody has ended it. A bundle that is sent twice is the same bundle.
	}
	return c.run(ctx, bytes.NewReader(input), name, args...)
}

// prepare starts a spare command, unless there is one.
func (c *Client) prepare(argv []string) {
	s := &spare{argv: argv, cmd: c.command(context.Background(), argv[0], argv[1:]...)}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.errOut
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spare != nil || c.closed {
		return
	}
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil || s.cmd.Start() != nil {
		return // the next command is started when it is needed, and says what is wrong
	}
	c.spare = s
}

func (c *Client) takeSpare(argv []string) *spare {
	c.mu.Lock()
	s := c.spare
	c.spare = nil
	c.mu.Unlock()
	if s != nil && !slices.Equal(s.argv, argv) {
		s.end()
		return nil
	}
	return s
}

// use gives the command its input and waits for its end.
func (s *spare) use(ctx context.Context, input []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = s.cmd.Process.Kill() })
	defer stop()
	_, werr := s.stdin.Write(input)
	err := errors.Join(werr, s.stdin.Close())
	return cmp.Or(s.cmd.Wait(), err) // how it ended, or else why it did not read
}

// end ends a command that nobody needs.
func (s *spare) end() {
	_ = s.cmd.Process.Kill()
	_ = s.stdin.Close()
	_ = s.cmd.Wait() // it was killed
}

// Close ends what waits for the next change. Methods may be called all the same.
func (c *Client) Close() {
	c.mu.Lock()
	s := c.spare
	c.spare, c.closed = nil, true
	c.mu.Unlock()
	if s != nil {
		s.end()
	}
}
