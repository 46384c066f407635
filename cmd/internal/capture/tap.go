package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// ring is the room for packets that were not read yet, in bytes. What does not fit is
// lost to the capture; nobody else waits.
const ring = 8 << 20

// frame is what a tap saw. data is the reader's until it returns.
type frame struct {
	time     time.Time
	length   int // before the filter cut it
	outgoing bool
	data     []byte
}

// tap is a packet socket on a device.
type tap struct {
	device string
	conn   *packet.Conn
	raw    syscall.RawConn
	buf    []byte
	oob    []byte
}

// openTap taps a device. The program chooses frames, and cuts them, before they are
// copied.
func openTap(device string, program []bpf.RawInstruction) (*tap, error) {
	i, err := interfaceOf(device)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(i, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: program})
	if errors.Is(err, os.ErrPermission) {
		return nil, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "device " + device, What: "capturing is not permitted",
			Remedy: "run as root, or with CAP_NET_RAW",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", device, err)
	}
	t := &tap{device: device, conn: conn, buf: make([]byte, MaxSnapLen+maxOuter), oob: make([]byte, 256)}
	t.raw, err = conn.SyscallConn()
	if err == nil {
		err = t.prepare()
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("device %s: %w", device, err)
	}
	return t, nil
}

// prepare asks for times, lengths and VLAN tags, and for room.
func (t *tap) prepare() (err error) {
	cerr := t.raw.Control(func(fd uintptr) {
		err = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		)
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ring) != nil {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, ring))
		}
	})
	return errors.Join(err, cerr)
}

func (t *tap) close() { _ = t.conn.Close() }

// run calls take with frames until ctx ends, closes the tap, and returns how many the
// kernel had no room for.
func (t *tap) run(ctx context.Context, take func(frame)) (lost uint64, err error) {
	defer t.close()
	defer context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		f, err := t.read()
		if ctx.Err() != nil || err != nil {
			var dropped uint64
			if s, serr := t.conn.Stats(); serr == nil {
				dropped = uint64(s.Drops)
			}
			if ctx.Err() != nil {
				err = nil
			}
			return dropped, t.explain(err)
		}
		take(f)
	}
}

func (t *tap) explain(err error) error {
	if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: "device " + t.device, What: "went down, or is gone", Remedy: "capture again",
		}
	}
	if err != nil {
		return fmt.Errorf("device %s: %w", t.device, err)
	}
	return nil
}

// read waits for a frame.
func (t *tap) read() (f frame, err error) {
	var n, oobn int
	var from unix.Sockaddr
	rerr := t.raw.Read(func(fd uintptr) bool {
		n, oobn, _, from, err = unix.Recvmsg(int(fd), t.buf, t.oob, 0)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err := errors.Join(rerr, err); err != nil {
		return f, err
	}
	f = frame{time: time.Now(), length: n, data: t.buf[:n]}
	if link, ok := from.(*unix.SockaddrLinklayer); ok {
		f.outgoing = link.Pkttype == unix.PACKET_OUTGOING
	}
	messages, err := unix.ParseSocketControlMessage(t.oob[:oobn])
	if err != nil {
		return f, fmt.Errorf("what the kernel says of a frame: %w", err)
	}
	for _, m := range messages {
		f.note(m)
	}
	return f, nil
}

// etherAddrs is where an Ethernet header has its type, or its tag.
const etherAddrs = 12

// note reads what the kernel says of a frame.
func (f *frame) note(m unix.SocketControlMessage) {
	switch {
	case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS:
		var ts struct{ Seconds, Nanoseconds int64 }
		if binary.Read(bytes.NewReader(m.Data), binary.NativeEndian, &ts) == nil {
			f.time = time.Unix(ts.Seconds, ts.Nanoseconds)
		}
	case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA:
		var aux unix.TpacketAuxdata
		if binary.Read(bytes.NewReader(m.Data), binary.NativeEndian, &aux) != nil {
			return
		}
		f.length = max(f.length, int(aux.Len))
		if aux.Status&unix.TP_STATUS_VLAN_VALID == 0 || len(f.data) < etherAddrs {
			return
		}
		// The kernel keeps a tag beside the frame; on the wire it is in it.
		tag := make([]byte, 4)
		binary.BigEndian.PutUint16(tag, unix.ETH_P_8021Q)
		if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			binary.BigEndian.PutUint16(tag, aux.Vlan_tpid)
		}
		binary.BigEndian.PutUint16(tag[2:], aux.Vlan_tci)
		f.data = append(append(append([]byte{}, f.data[:etherAddrs]...), tag...), f.data[etherAddrs:]...)
		f.length += len(tag)
	}
}
