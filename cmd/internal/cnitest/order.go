package cnitest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var orderRules = []rule{
	{
		section: "Lifecycle", says: "containers may be added and deleted in parallel", once: true,
		needs: func(s Suite) bool { return s.Parallel > 0 },
		test: func(c *call) {
			all := make([]attachment, c.suite.Parallel)
			for i := range all {
				all[i] = c.container()
			}
			c.begun = slices.Clone(all)
			addrs := make([]string, len(all))
			c.each(all, func(i int, a attachment) {
				out, err := c.start("ADD", c.marshal(c.config(a)), c.vars(a)).wait()
				if assert.NoError(c, err) && assert.Zero(c, out.code, "%s%s", out.stdout, out.stderr) {
					addrs[i] = c.result(out).IPs[0].Address.String()
				}
			})
			slices.Sort(addrs)
			assert.Len(c, slices.Compact(addrs), len(all), "every container has an address of its own")
			c.each(all, func(_ int, a attachment) {
				out, err := c.start("DEL", c.marshal(c.config(a)), c.vars(a)).wait()
				assert.NoError(c, err)
				assert.Zero(c, out.code, "%s%s", out.stdout, out.stderr)
			})
			for _, a := range all {
				assert.Empty(c, c.links(a))
			}
		},
	},
	{
		section: "Lifecycle", says: "an ADD that was killed leaves nothing after DEL", once: true,
		test: func(c *call) {
			random := rand.New(rand.NewPCG(1, 2))
			for range 8 {
				a := c.container()
				p := c.start("ADD", c.marshal(c.config(a)), c.vars(a))
				// Wherever it is at work by then; the pause is what is tested.
				time.Sleep(time.Duration(random.IntN(120)) * time.Millisecond)
				_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
				_, _ = p.wait()
				c.succeeds(c.verb("DEL", a, nil))
				assert.Empty(c, c.links(a))
				c.add(a)
			}
		},
	},
	{
		section: "Lifecycle", says: "a DEL during ADD leaves nothing", once: true, needs: strict,
		test: func(c *call) {
			random := rand.New(rand.NewPCG(3, 4))
			for range 8 {
				a := c.container()
				p := c.start("ADD", c.marshal(c.config(a)), c.vars(a))
				time.Sleep(time.Duration(random.IntN(120)) * time.Millisecond)
				c.succeeds(c.verb("DEL", a, nil))
				_, err := p.wait()
				require.NoError(c, err)
				assert.Empty(c, c.links(a))
				if c.suite.Left != nil {
					assert.Empty(c, c.suite.Left(c.T, c.network))
				}
			}
		},
	},
}

// each runs f for all attachments at a time.
func (c *call) each(all []attachment, f func(i int, a attachment)) {
	var g sync.WaitGroup
	for i, a := range all {
		g.Go(func() { f(i, a) })
	}
	g.Wait()
}
