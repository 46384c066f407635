package etcdstore

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials/insecure"
)

// from is a connection with an address of its own.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) LocalAddr() net.Addr { return f.addr }

// A connection from an address that this machine has no more is given up; all others stay.
func TestConnectionsOfAddressesThatAreGone(t *testing.T) {
	open := &openConns{all: map[*trackedConn]bool{}}
	creds := tracked{insecure.NewCredentials(), open}.Clone()
	ends := map[string]net.Conn{}
	for name, addr := range map[string]net.Addr{
		"gone":   &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40000},
		"there":  &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000},
		"socket": &net.UnixAddr{Name: "@", Net: "unix"},
		"ended":  &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40001},
	} {
		here, there := net.Pipe()
		conn, _, err := creds.ClientHandshake(t.Context(), "etcd", from{here, addr})
		require.NoError(t, err)
		ends[name] = there
		if name == "ended" {
			require.NoError(t, conn.Close())
			continue
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	open.moved()
	require.Len(t, open.all, 2)
	for c := range open.all {
		require.NotEqual(t, "192.0.2.1:40000", c.LocalAddr().String())
	}
	_, err := ends["gone"].Read(make([]byte, 1))
	require.Error(t, err, "it is closed")
}
