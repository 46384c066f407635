package follow_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel/follow"
)

// socket gives what its channel is sent.
type socket struct {
	in   chan any // an error, or messages
	done chan struct{}
}

func (s *socket) Receive() ([]syscall.NetlinkMessage, *unix.SockaddrNetlink, error) {
	select {
	case <-s.done:
		return nil, nil, errors.New("closed")
	case x := <-s.in:
		if err, ok := x.(error); ok {
			return nil, nil, err
		}
		return x.([]syscall.NetlinkMessage), nil, nil
	}
}

func (s *socket) Close() {
	select {
	case <-s.done:
	default:
		close(s.done)
	}
}

// A watch of the kernel ended with an error, and the whole agent with it.
func TestRunRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan any)
		opens, fires := 0, 0
		var faults []string
		done := make(chan error, 1)
		go func() {
			done <- follow.Run(ctx, follow.Subscription{
				Open: func() (follow.Socket, error) {
					if opens++; opens == 2 {
						return nil, unix.EMFILE
					}
					return &socket{in, make(chan struct{})}, nil
				},
				Matters: func(m []syscall.NetlinkMessage) bool { return m[0].Header.Type == unix.RTM_NEWROUTE },
				Fire:    func() { fires++ },
				Failed: func(err error) {
					if err == nil {
						faults = append(faults, "well")
						return
					}
					faults = append(faults, err.Error())
				},
			})
		}()
		message := func(typ uint16) []syscall.NetlinkMessage {
			return []syscall.NetlinkMessage{{Header: syscall.NlMsghdr{Type: typ}}}
		}
		synctest.Wait()
		require.Equal(t, 1, fires, "at the start")
		in <- message(unix.RTM_NEWROUTE)
		in <- message(unix.RTM_NEWLINK)
		synctest.Wait()
		require.Equal(t, 2, fires, "only what matters")
		in <- unix.ENOBUFS
		in <- unix.EINTR
		synctest.Wait()
		require.Equal(t, 3, fires, "what was lost may have mattered")
		require.Empty(t, faults)

		in <- unix.EBADF
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []string{unix.EBADF.Error(), unix.EMFILE.Error(), "well"}, faults)
		require.Equal(t, 3, opens)
		require.Equal(t, 4, fires, "something may have been missed")
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

func TestRunPausesBetweenTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		opens := 0
		err := follow.Run(ctx, follow.Subscription{
			Open: func() (follow.Socket, error) { opens++; return nil, unix.EMFILE }, Fire: func() {},
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, opens, 35)
	})
}
