package command

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
)

func TestCaptureUsage(t *testing.T) {
	t.Setenv("BAIZE_SOCKET", filepath.Join(t.TempDir(), "agent.sock"))
	for _, x := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "needs POINT"},
		{[]string{"c1", "--host", "web"}, 2, "neither an address nor a prefix"},
		{[]string{"c1", "--proto", "sctp"}, 2, "tcp"},
		{[]string{"c1", "--port", "70000"}, 2, "no port"},
		{[]string{"c1", "--duration", "48h"}, 2, "too long"},
		{[]string{"c1", "--snaplen", "0"}, 2, "out of range"},
		{[]string{"c1", "--rate", "1000000"}, 2, "out of range"},
		{[]string{"c1", "--write", "/no/such/directory/file"}, 2, "name another file"},
		{[]string{"c1"}, 5, "without an agent, 'ovs-vsctl list-ports br-baize' names the ports"},
	} {
		res := baize(t, append([]string{"capture"}, x.args...)...)
		assert.Equal(t, x.code, res.code, "%v: %s", x.args, res.err)
		assert.Contains(t, res.err, x.want, x.args)
	}
}

// A capture that does not begin leaves the file as it was.
func TestCaptureKeepsTheFile(t *testing.T) {
	t.Setenv("BAIZE_SOCKET", filepath.Join(t.TempDir(), "agent.sock"))
	file := filepath.Join(t.TempDir(), "c.pcapng")
	require.NoError(t, os.WriteFile(file, []byte("of yesterday"), 0o600))
	require.Equal(t, 5, baize(t, "capture", "c1", "--write", file).code)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "of yesterday", string(b))
}

func TestPacketLine(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.Local)
	endpoint := api.Point{Node: "host1", Name: "c1", Kind: api.PointEndpoint, Network: "blue"}
	tunnel := api.Point{Node: "host1", Name: "host2", Kind: api.PointTunnel}
	for _, x := range []struct {
		point  api.Point
		packet capture.Packet
		want   string
	}{
		{endpoint, capture.Packet{Time: at, Out: true, Network: "blue"}, "03:02:01.123456  host1/c1     out  what"},
		{tunnel, capture.Packet{Time: at, Network: "blue", Encap: "gre"}, "03:02:01.123456  host1/host2  in   what (blue, gre)"},
		{tunnel, capture.Packet{Time: at, Out: true}, "03:02:01.123456  host1/host2  out  what (no tunnel)"},
	} {
		require.Equal(t, x.want, packetLine(x.point, x.packet, "what", len("host1/host2")))
	}
}

// Packets that come after enough of them are neither shown nor counted.
func TestCaptureCount(t *testing.T) {
	var out, said bytes.Buffer
	flags := flag.NewFlagSet("capture", flag.ContinueOnError)
	flags.Int("count", 2, "")
	c := ucli.NewContext(ucli.NewApp(), flags, nil)
	x := capturing{
		r: &runner{Streams: Streams{Out: &out, Err: &said}}, c: c,
		spots: []spot{{
			point: api.Point{Node: "host1", Name: "c1", Kind: api.PointEndpoint},
			run: func(ctx context.Context, emit func(capture.Packet)) (capture.Counts, error) {
				for range 5 {
					emit(capture.Packet{})
				}
				<-ctx.Done()
				return capture.Counts{Captured: 5}, nil
			},
		}},
	}
	ctx, stop := context.WithCancel(t.Context())
	require.NoError(t, x.run(ctx, stop, &captureOutput{}))
	assert.Equal(t, 2, bytes.Count(out.Bytes(), []byte("\n")), out.String())
	assert.Contains(t, said.String(), "host1/c1: 2 packets captured")
}
