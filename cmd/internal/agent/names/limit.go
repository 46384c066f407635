package names

import (
	"net"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"
)

// A container may ask as much as it likes, and costs the agent no more than this.
const (
	// queriesPerSecond is how many queries of one container are answered, and
	// queriesAtOnce how many that come together. Docker's resolver asks again, and then
	// the next server.
	queriesPerSecond, queriesAtOnce = 500, 100
	// connections is how many of a container's TCP connections are served at a time.
	connections = 8
)

// limitedReader lets through as many datagrams as are to be answered. The rest is read
// and forgotten before anything is done for it, a goroutine included.
type limitedReader struct {
	dns.Reader
	limit *rate.Limiter
}

func (r limitedReader) ReadUDP(conn *net.UDPConn, timeout time.Duration) ([]byte, *dns.SessionUDP, error) {
	for {
		b, s, err := r.Reader.ReadUDP(conn, timeout)
		if err != nil || r.limit.Allow() {
			return b, s, err
		}
	}
}
