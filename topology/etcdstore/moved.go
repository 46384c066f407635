package etcdstore

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"

	"google.golang.org/grpc/credentials"
)

// tracked are transport credentials that know the connections made by them.
type tracked struct {
	credentials.TransportCredentials
	conns *openConns
}

// ClientHandshake implements credentials.TransportCredentials.
func (t tracked) ClientHandshake(
	ctx context.Context, authority string, raw net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return t.conns.add(conn), info, nil
}

// Clone implements credentials.TransportCredentials.
func (t tracked) Clone() credentials.TransportCredentials {
	return tracked{t.TransportCredentials.Clone(), t.conns}
}

// openConns are connections that are open.
type openConns struct {
	mu  sync.Mutex
	all map[*trackedConn]bool
}

// trackedConn is a connection that says when it ends.
type trackedConn struct {
	net.Conn
	of *openConns
}

func (o *openConns) add(c net.Conn) net.Conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &trackedConn{c, o}
	o.all[t] = true
	return t
}

// Close implements net.Conn.
func (t *trackedConn) Close() error {
	t.of.mu.Lock()
	delete(t.of.all, t)
	t.of.mu.Unlock()
	return t.Conn.Close()
}

// moved closes the connections whose own address is this machine's no more.
func (o *openConns) moved() {
	o.mu.Lock()
	var gone []*trackedConn
	for c := range o.all {
		if a, ok := c.LocalAddr().(*net.TCPAddr); ok && !isLocal(a) {
			gone = append(gone, c)
		}
	}
	o.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}

// isLocal says whether an address is one of this machine's: nothing can be bound to another.
func isLocal(a *net.TCPAddr) bool {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.IP, Zone: a.Zone})
	if err != nil {
		return !errors.Is(err, syscall.EADDRNOTAVAIL)
	}
	_ = c.Close()
	return true
}

// Moved gives up the connections that were made from an address that this machine has no
// more: no answer comes back to it, and each request would wait for its deadline. It is
// quick where there are none.
func (s *Store) Moved() {
	select {
	case s.sem <- struct{}{}:
	default:
		return // it connects right now
	}
	c := s.client
	<-s.sem
	if n, ok := c.(*netClient); ok {
		n.open.moved()
	}
}
