package events

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/topology/fault"
)

// helperEnv makes the test's executable a process that writes a journal: what it is to
// do, and where.
const helperEnv = "BAIZE_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if mode, dir, ok := strings.Cut(os.Getenv(helperEnv), ":"); ok {
		os.Exit(helper(mode, dir))
	}
	goleak.VerifyTestMain(m)
}

func numbered(n int) event.Event {
	return event.Event{Kind: event.SwitchChanged, Subject: "Open vSwitch", Text: strconv.Itoa(n)}
}

// helper writes numbered events until it is killed, or until the file may not grow, and
// then goes on with a larger limit.
func helper(mode, dir string) int {
	j := NewJournal(dir, "host1")
	if mode == "killed" {
		for n := 0; ; n++ {
			if err := j.Add(numbered(n)); err != nil {
				fmt.Println(err)
				return 1
			}
			fmt.Println(n)
		}
	}
	signal.Ignore(unix.SIGXFSZ) // the kernel then answers EFBIG, after a part of a write
	limit := unix.Rlimit{Cur: 20_010, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		fmt.Println(err)
		return 1
	}
	refused := 0
	for n := range 500 {
		if n == 400 {
			limit.Cur = unix.RLIM_INFINITY
			_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &limit)
		}
		err := j.Add(numbered(n))
		if err == nil {
			continue
		}
		refused++
		if f := fault.Of(err); f.Code != fault.StateUnwritable || n >= 400 {
			fmt.Println(n, err)
			return 1
		}
		if list, err := j.Read(event.Query{}); err != nil || len(list) != n+1 {
			fmt.Println(n, len(list), err)
			return 1
		}
	}
	fmt.Println(refused)
	return 0
}

func texts(t *testing.T, dir string) []int {
	t.Helper()
	list, err := ReadDir(dir, event.Query{})
	require.NoError(t, err)
	var out []int
	last := int64(0)
	for _, e := range list {
		require.Greater(t, e.ID, last, "IDs grow")
		last = e.ID
		n, err := strconv.Atoi(e.Text)
		require.NoError(t, err)
		out = append(out, n)
	}
	return out
}

func upTo(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

func TestJournalSurvivesItsAgent(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), helperEnv+"=killed:"+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	written := -1
	for lines := bufio.NewScanner(out); written < 300 && lines.Scan(); {
		written, err = strconv.Atoi(lines.Text())
		require.NoError(t, err, lines.Text())
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	got := texts(t, dir)
	assert.GreaterOrEqual(t, len(got), written+1, "what it said that it had written")
	assert.Equal(t, upTo(len(got)), got)

	next := NewJournal(dir, "host1")
	require.NoError(t, next.Add(numbered(len(got))))
	require.NoError(t, next.Close())
	assert.Equal(t, upTo(len(got)+1), texts(t, dir))
}

func TestFullDiskLosesNothingThatFitsInMemory(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), helperEnv+"=full:"+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	refused, err := strconv.Atoi(strings.TrimSpace(string(out)))
	require.NoError(t, err)
	assert.Greater(t, refused, 200)
	assert.Equal(t, upTo(500), texts(t, dir), "each once, in order")
}

func TestTornLineCostsOnlyItself(t *testing.T) {
	for name, torn := range map[string]string{
		"a part of a line": `{"id":17,"time":"2026-01-`,
		"zeros":            strings.Repeat("\x00", 100),
		"no event":         "{}\nnull\n[]\n",
		"a long line":      strings.Repeat("x", 3*maxLine),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := NewJournal(dir, "host1")
			require.NoError(t, j.Add(numbered(0), numbered(1)))
			require.NoError(t, j.Close())
			f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteString(torn)
			require.NoError(t, errors.Join(err, f.Close()))

			next := NewJournal(dir, "host1")
			require.NoError(t, next.Add(numbered(2)))
			require.NoError(t, next.Close())
			assert.Equal(t, upTo(3), texts(t, dir))
		})
	}
}

func TestJournalIsBounded(t *testing.T) {
	dir := t.TempDir()
	j := NewJournal(dir, "host1")
	j.limit = 10_000
	for n := range 1000 {
		require.NoError(t, j.Add(numbered(n)))
	}
	require.NoError(t, j.Close())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2)
	for _, f := range files {
		info, err := f.Info()
		require.NoError(t, err)
		assert.LessOrEqual(t, info.Size(), j.limit)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	got := texts(t, dir)
	assert.Greater(t, len(got), 60, "more than one file")
	assert.Equal(t, upTo(1000)[1000-len(got):], got, "the newest")
}

// A file that somebody removed is made anew.
func TestJournalRemoved(t *testing.T) {
	dir := t.TempDir()
	j := NewJournal(dir, "host1")
	require.NoError(t, j.Add(numbered(7)))
	require.NoError(t, os.Remove(filepath.Join(dir, journalFile)))
	require.NoError(t, j.Add(numbered(8)))
	assert.Equal(t, []int{8}, texts(t, dir))
	require.NoError(t, j.Close())
}

// A directory that cannot be written to is a fault, and the rest stays in memory.
func TestJournalWithoutItsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	j := NewJournal(dir, "host1")
	err := j.Add(numbered(0))
	require.Error(t, err)
	assert.Equal(t, fault.StateUnwritable, fault.Of(err).Code)
	assert.Contains(t, err.Error(), journalFile)
	many := make([]event.Event, maxWaiting+10)
	for i := range many {
		many[i] = numbered(i + 1)
	}
	require.Error(t, j.Add(many...))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, j.Add(numbered(len(many)+1)))
	list, err := j.Read(event.Query{})
	require.NoError(t, err)
	require.Len(t, list, maxWaiting+1)
	assert.Equal(t, event.EventsLost, list[0].Kind)
	assert.Equal(t, "12 earlier events were not written", list[0].Text)
	assert.Equal(t, strconv.Itoa(len(many)+1), list[maxWaiting].Text)
	_, lost := j.Counts()
	assert.EqualValues(t, 12, lost)
	require.NoError(t, j.Close())
}

// However often a full disk was tried, what was given up is counted, and only that.
func TestFullDiskCountsWhatItLoses(t *testing.T) {
	dir := t.TempDir()
	j := NewJournal(dir, "host1")
	require.NoError(t, j.Add(numbered(0)))
	path := filepath.Join(dir, journalFile)
	require.NoError(t, j.file.Close())
	var err error
	j.file, err = os.Open(path) // takes no writes
	require.NoError(t, err)
	require.Error(t, j.Add(slices.Repeat([]event.Event{numbered(1)}, maxWaiting)...))
	for range 7 {
		require.Error(t, j.Add(numbered(1)))
	}
	list, err := j.Read(event.Query{Kinds: []string{string(event.EventsLost)}})
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, "7 earlier events were not written", list[0].Text)

	require.NoError(t, j.file.Close())
	j.file, err = os.OpenFile(path, os.O_APPEND|os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, j.Add(numbered(2)))
	_, lost := j.Counts()
	assert.EqualValues(t, 8, lost)
	list, err = j.Read(event.Query{Kinds: []string{string(event.EventsLost)}})
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, "8 earlier events were not written", list[0].Text)
	require.NoError(t, j.Close())
}

func TestEventsKeepTheirOwnTime(t *testing.T) {
	dir := t.TempDir()
	j := NewJournal(dir, "host1")
	at := time.Date(2026, 1, 2, 14, 3, 0, 0, time.UTC)
	late, early := numbered(2), numbered(1)
	late.Time, early.Time = at.Add(time.Second), at
	require.NoError(t, j.Add(late, early))
	assert.Equal(t, []string{"1", "2"}, func() (out []string) {
		list, err := j.Read(event.Query{})
		require.NoError(t, err)
		for _, e := range list {
			assert.Equal(t, "host1", e.Node)
			out = append(out, e.Text)
		}
		return out
	}(), "by time")
	require.NoError(t, j.Close())
	// A clock that was set back: IDs grow all the same.
	next := NewJournal(dir, "host1")
	next.last = time.Now().Add(time.Hour).UnixMicro()
	require.NoError(t, next.Add(numbered(3), numbered(4)))
	list, err := next.Read(event.Query{})
	require.NoError(t, err)
	assert.Equal(t, list[2].ID+1, list[3].ID)
	require.NoError(t, next.Close())
}
