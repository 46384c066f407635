package cnitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience bounds one call of the plugin.
const patience = time.Minute

// call is a rule at work: it has one network, and makes containers in it.
type call struct {
	*testing.T
	suite   Suite
	version string
	network string
	// begun are the attachments that were asked for, to be ended with the test.
	begun []attachment
}

// attachment is an interface of a container, as a runtime knows it.
type attachment struct {
	container, netns, ifname string
	// extra are keys of the configuration, args is CNI_ARGS.
	extra map[string]any
	args  string
}

// answer is what a call of the plugin has printed.
type answer struct {
	stdout, stderr []byte
	code           int
}

var serial atomic.Int64

// container makes a container with a network namespace of its own.
func (c *call) container() attachment {
	c.Helper()
	name := fmt.Sprintf("cnitest-%d-%d", os.Getpid(), serial.Add(1))
	c.host("ip", "netns", "add", name)
	c.Cleanup(func() {
		cmd := c.suite.command(c.T, []string{"ip", "netns", "delete", name})
		// The test's context has ended.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		clean := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
		clean.Env = cmd.Env
		_ = clean.Run() // a test may have removed it
	})
	// The test's name is no part of it: an ID has 64 digits with most runtimes.
	return attachment{container: name, netns: "/run/netns/" + name, ifname: "eth0"}
}

// host runs a command in the runtime's namespace.
func (c *call) host(argv ...string) string {
	c.Helper()
	out, err := c.suite.command(c.T, argv).CombinedOutput()
	require.NoError(c, err, "%v: %s", argv, out)
	return string(out)
}

// inside runs a command in a container.
func (c *call) inside(a attachment, argv ...string) string {
	c.Helper()
	return c.host(append([]string{"nsenter", "--net=" + a.netns}, argv...)...)
}

// config is the configuration that a runtime passes.
func (c *call) config(a attachment) map[string]any {
	out := maps.Clone(c.suite.Config)
	if out == nil {
		out = map[string]any{}
	}
	out["cniVersion"], out["name"], out["type"] = c.version, c.network, c.suite.Type
	maps.Copy(out, a.extra)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == nil })
	return out
}

func (c *call) marshal(v any) []byte {
	c.Helper()
	b, err := json.Marshal(v)
	require.NoError(c, err)
	return b
}

// vars are the variables of an attachment's calls.
func (c *call) vars(a attachment) map[string]string {
	return map[string]string{
		"CNI_CONTAINERID": a.container, "CNI_NETNS": a.netns, "CNI_IFNAME": a.ifname, "CNI_ARGS": a.args,
	}
}

// verb calls the plugin for an attachment. prev is prevResult, or nil.
func (c *call) verb(verb string, a attachment, prev json.RawMessage) answer {
	c.Helper()
	config := c.config(a)
	if prev != nil {
		config["prevResult"] = prev
	}
	if verb == "ADD" {
		c.begun = append(c.begun, a)
	}
	return c.exec(verb, c.marshal(config), c.vars(a))
}

// exec starts the plugin. Variables that are empty are not set.
func (c *call) exec(verb string, stdin []byte, vars map[string]string) answer {
	c.Helper()
	out, err := c.start(verb, stdin, vars).wait()
	require.NoError(c, err)
	return out
}

// process is a call of the plugin at work.
type process struct {
	cmd            *exec.Cmd
	cancel         context.CancelFunc
	stdout, stderr bytes.Buffer
}

// start starts the plugin. It has begun when the function returns.
func (c *call) start(verb string, stdin []byte, vars map[string]string) *process {
	c.Helper()
	vars = maps.Clone(vars)
	if vars == nil {
		vars = map[string]string{}
	}
	if _, set := vars["CNI_PATH"]; !set {
		vars["CNI_PATH"] = strings.Join(c.suite.Path, ":")
	}
	vars["CNI_COMMAND"], vars["PATH"] = verb, os.Getenv("PATH")
	argv := []string{"env", "-i"}
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		if vars[k] != "" {
			argv = append(argv, k+"="+vars[k])
		}
	}
	begun := filepath.Join(c.TempDir(), fmt.Sprint("begun", serial.Add(1)))
	argv = append(argv, "sh", "-c", `: >"$0"; exec "$1"`, begun, c.plugin())
	p := &process{}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	whole := c.suite.command(c.T, argv)
	p.cmd, p.cancel = exec.CommandContext(ctx, whole.Path, whole.Args[1:]...), cancel
	p.cmd.Env, p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = whole.Env, bytes.NewReader(stdin), &p.stdout, &p.stderr
	require.NoError(c, p.cmd.Start())
	for !fileExists(begun) && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	return p
}

// wait returns what a process printed; err where it neither ended by itself nor was
// killed by the test.
func (p *process) wait() (answer, error) {
	defer p.cancel()
	err := p.cmd.Wait()
	if p.cmd.ProcessState != nil && p.cmd.ProcessState.Exited() {
		err = nil
	}
	return answer{p.stdout.Bytes(), p.stderr.Bytes(), p.cmd.ProcessState.ExitCode()}, err
}

// plugin finds the plugin's program.
func (c *call) plugin() string {
	c.Helper()
	for _, dir := range c.suite.Path {
		if file := filepath.Join(dir, c.suite.Type); fileExists(file) {
			return file
		}
	}
	require.Fail(c, "no plugin "+c.suite.Type, "looked in %v", c.suite.Path)
	return ""
}

func fileExists(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular()
}

// add calls ADD, which has to succeed, and returns its result.
func (c *call) add(a attachment) (*current.Result, json.RawMessage) {
	c.Helper()
	out := c.verb("ADD", a, nil)
	require.Zero(c, out.code, "ADD: %s%s", out.stdout, out.stderr)
	return c.result(out), out.stdout
}

// result decodes a result, which must be of the version that was asked for.
func (c *call) result(out answer) *current.Result {
	c.Helper()
	var v struct {
		Version string `json:"cniVersion"`
	}
	c.decode(out, &v)
	require.Equal(c, c.version, v.Version, "%s", out.stdout)
	r, err := create.Create(c.version, out.stdout)
	require.NoError(c, err, "%s", out.stdout)
	result, err := current.NewResultFromResult(r)
	require.NoError(c, err)
	return result
}

// decode reads what a successful call has printed.
func (c *call) decode(out answer, v any) {
	c.Helper()
	require.Zero(c, out.code, "%s%s", out.stdout, out.stderr)
	require.NoError(c, json.Unmarshal(out.stdout, v), "%s", out.stdout)
}

// succeeds is for verbs that have no result.
func (c *call) succeeds(out answer) {
	c.Helper()
	require.Zero(c, out.code, "%s%s", out.stdout, out.stderr)
	assert.Empty(c, string(bytes.TrimSpace(out.stdout)), "it prints nothing")
}

// fails expects an error of one of the codes, or of any where none is given. The words
// are in it.
func (c *call) fails(out answer, codes []uint, words ...string) {
	c.Helper()
	require.NotZero(c, out.code, "it succeeded: %s", out.stdout)
	var e struct {
		Version string `json:"cniVersion"`
		Code    *uint  `json:"code"`
		Msg     string `json:"msg"`
		Details string `json:"details"`
	}
	require.NoError(c, json.Unmarshal(out.stdout, &e), "an error is an object in JSON: %q %q", out.stdout, out.stderr)
	require.NotNil(c, e.Code, "%s", out.stdout)
	assert.NotEmpty(c, e.Msg, "%s", out.stdout)
	if c.suite.Strict {
		assert.NotEmpty(c, e.Version, "%s", out.stdout)
	}
	if len(codes) > 0 {
		assert.Contains(c, codes, *e.Code, "%s", out.stdout)
	}
	for _, w := range words {
		assert.Contains(c, e.Msg+" "+e.Details, w)
	}
}

// links are the interfaces in a container but lo.
func (c *call) links(a attachment) (out []string) {
	c.Helper()
	var list []struct {
		Name string `json:"ifname"`
	}
	require.NoError(c, json.Unmarshal([]byte(c.inside(a, "ip", "-j", "link")), &list))
	for _, l := range list {
		if l.Name != "lo" {
			out = append(out, l.Name)
		}
	}
	return out
}

// link is an interface in a container as the kernel has it.
type link struct {
	Name  string `json:"ifname"`
	MAC   string `json:"address"`
	MTU   int    `json:"mtu"`
	Addrs []struct {
		Local string `json:"local"`
		Len   int    `json:"prefixlen"`
		Scope string `json:"scope"`
	} `json:"addr_info"`
}

func (c *call) link(a attachment) link {
	c.Helper()
	var list []link
	require.NoError(c, json.Unmarshal([]byte(c.inside(a, "ip", "-j", "addr", "show", "dev", a.ifname)), &list))
	require.Len(c, list, 1)
	return list[0]
}

// addrs are a link's addresses, with their lengths, but for link-local ones.
func (l link) addrs() (out []string) {
	for _, a := range l.Addrs {
		if a.Scope == "global" {
			out = append(out, fmt.Sprintf("%s/%d", a.Local, a.Len))
		}
	}
	slices.Sort(out)
	return out
}

// expectNothingLeft ends what a rule has begun, and then nothing may be there any more.
func (c *call) expectNothingLeft() {
	for _, a := range slices.Backward(c.begun) {
		out := c.verb("DEL", a, nil)
		assert.Zero(c, out.code, "DEL: %s%s", out.stdout, out.stderr)
	}
	if c.suite.Left != nil && len(c.begun) > 0 {
		assert.Empty(c, c.suite.Left(c.T, c.network), "nothing is left")
	}
}
