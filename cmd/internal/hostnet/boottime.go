package hostnet

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// SinceBoot is CLOCK_BOOTTIME (clock_gettime(2)) in nanoseconds: all processes of the
// host share it, and nobody sets it.
func SinceBoot() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(os.NewSyscallError("clock_gettime", err)) // it is there since Linux 2.6.39
	}
	return t.Nano()
}

// StartTick is the unit of times in /proc (USER_HZ, proc(5)).
const StartTick = 10 * time.Millisecond

// ProcessStart is when this process was forked, by the clock of SinceBoot, rounded down to
// StartTick.
func ProcessStart() (int64, error) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	// The name, the second field, may have spaces and brackets in it; starttime is the 22nd.
	fields := bytes.Fields(b[bytes.LastIndex(b, []byte(") "))+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/self/stat has no start time: %q", b)
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	return ticks * int64(StartTick), err
}
