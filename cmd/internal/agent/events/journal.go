package events

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// journalFile, in the state directory, has the newest events, earlierFile those
	// before them; each one event of JSON a line.
	journalFile = "events.jsonl"
	earlierFile = "events.1.jsonl"
	// maxFile bounds each of the two, in bytes.
	maxFile = 4 << 20
	// maxWaiting bounds the events that wait for a disk that takes none.
	maxWaiting = 4096
	// recent is how many events are kept in memory, for those who follow.
	recent = 512
	// maxLine bounds one event.
	maxLine = 64 << 10
)

// Journal keeps the events of a node in two files of bounded size. Nothing is synced:
// what was written survives the end of the agent, and all but the last moments that of
// the machine. A line that was written in part costs only itself.
type Journal struct {
	dir, node string
	// limit is maxFile, but for tests.
	limit int64

	mu   sync.Mutex
	file *os.File
	size int64
	// torn: the file does not end with a whole line.
	torn bool
	last int64
	// waiting were not written yet, lost is how many before them were given up.
	waiting []event.Event
	lost    int
	newest  []event.Event
	counts  map[event.Kind]uint64
	missed  uint64

	changed *part.Cell[int64]
}

// NewJournal returns the journal of a node in its state directory. Nothing is opened.
func NewJournal(dir, node string) *Journal {
	return &Journal{
		dir: dir, node: node, limit: maxFile, counts: map[event.Kind]uint64{},
		changed: part.NewCell(func(a, b int64) bool { return a == b }),
	}
}

// Add writes events, which get their ID, their node and, where they have none, the
// time. Those that cannot be written are kept, as far as there is room, and written by
// the next call. The error is a *topology.Error.
func (j *Journal) Add(events ...event.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.open(); err != nil {
		j.take(events)
		return j.failed(err)
	}
	j.take(events)
	err := j.flush()
	j.changed.Set(j.last)
	return j.failed(err)
}

// take numbers events and puts them with those that wait.
func (j *Journal) take(events []event.Event) {
	for _, e := range events {
		now := time.Now()
		if e.Time.IsZero() {
			e.Time = now
		}
		j.last = max(j.last+1, now.UnixMicro())
		e.ID, e.Node, e.Time = j.last, j.node, e.Time.UTC().Round(time.Microsecond)
		j.counts[e.Kind]++
		j.waiting = append(j.waiting, e)
		j.newest = append(j.newest, e)
	}
	if over := len(j.waiting) - maxWaiting; over > 0 {
		j.waiting = slices.Delete(j.waiting, 0, over)
		j.lost += over
		j.missed += uint64(over)
	}
	if over := len(j.newest) - recent; over > 0 {
		j.newest = slices.Delete(j.newest, 0, over)
	}
}

// flush writes what waits.
func (j *Journal) flush() error {
	for len(j.waiting) > 0 {
		// Not more at a time than one rotation is for.
		n := min(len(j.waiting), 256)
		if err := j.write(append(j.givenUp(), j.waiting[:n]...)); err != nil {
			return err
		}
		j.lost, j.waiting = 0, slices.Delete(j.waiting, 0, n)
	}
	j.waiting = nil
	return nil
}

// givenUp is the event that stands for those that were given up, where any were. It is
// made when it is written: until then there may be more of them.
func (j *Journal) givenUp() []event.Event {
	if j.lost == 0 {
		return nil
	}
	return []event.Event{{
		ID: j.waiting[0].ID - 1, Time: j.waiting[0].Time, Node: j.node, Kind: event.EventsLost, Subject: "journal",
		Text: fmt.Sprintf("%d earlier events were not written", j.lost), Cause: "the disk took none",
	}}
}

// write appends lines in one write(2).
func (j *Journal) write(events []event.Event) error {
	var b bytes.Buffer
	if j.torn {
		b.WriteByte('\n')
	}
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil || len(line) >= maxLine {
			continue // nothing an event has can do that
		}
		b.Write(append(line, '\n'))
	}
	if j.size > 0 && j.size+int64(b.Len()) > j.limit {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	n, err := j.file.Write(b.Bytes())
	if err != nil && n > 0 && j.file.Truncate(j.size) == nil {
		return err // they are all written again
	}
	j.size += int64(n)
	if n > 0 {
		j.torn = b.Bytes()[n-1] != '\n'
	}
	return err
}

// open opens the file, goes on with its numbers, and finds whether its last line is
// whole. A file that somebody removed is made anew.
func (j *Journal) open() error {
	path := filepath.Join(j.dir, journalFile)
	if j.file != nil {
		if have, err := j.file.Stat(); err == nil {
			if at, err := os.Stat(path); err == nil && os.SameFile(have, at) {
				return nil
			}
		}
		_ = j.file.Close()
		j.file = nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.file, j.size = f, info.Size()
	return j.readEnd()
}

// readEnd finds out how the file ends, and which event it has last.
func (j *Journal) readEnd() error {
	end := make([]byte, min(j.size, maxLine))
	if _, err := j.file.ReadAt(end, j.size-int64(len(end))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	j.torn = len(end) > 0 && end[len(end)-1] != '\n'
	for line := range bytes.Lines(end) {
		var e event.Event
		if json.Unmarshal(line, &e) == nil {
			j.last = max(j.last, e.ID)
		}
	}
	return nil
}

// rotate makes the file the earlier one, and begins another.
func (j *Journal) rotate() error {
	path := filepath.Join(j.dir, journalFile)
	if err := os.Rename(path, filepath.Join(j.dir, earlierFile)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	err = j.file.Close()
	j.file, j.size, j.torn = f, 0, false
	return err
}

func (j *Journal) failed(err error) error {
	if err == nil {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.StateUnwritable, Item: filepath.Join(j.dir, journalFile),
		What:   fmt.Sprintf("the journal of events cannot be written: %v; the newest events are kept in memory", err),
		Remedy: "look at the disk: 'df'",
	}
}

func (j *Journal) paths() []string {
	return []string{filepath.Join(j.dir, earlierFile), filepath.Join(j.dir, journalFile)}
}

// Read returns the events that a query chooses, by time.
func (j *Journal) Read(q event.Query) ([]event.Event, error) {
	j.mu.Lock()
	waiting := append(j.givenUp(), j.waiting...)
	files, err := openAll(j.paths()) // none is renamed meanwhile
	j.mu.Unlock()
	if err != nil {
		return nil, err
	}
	events, err := readAll(files)
	events = append(events, waiting...)
	event.Sort(events)
	return q.Choose(events), err
}

// ReadDir returns the events in a state directory that a query chooses, by time, where
// no agent answers.
func ReadDir(dir string, q event.Query) ([]event.Event, error) {
	return NewJournal(dir, "").Read(q)
}

// after returns the events above an ID, in the order of IDs.
func (j *Journal) after(id int64) ([]event.Event, error) {
	j.mu.Lock()
	newest := slices.Clone(j.newest)
	j.mu.Unlock()
	if len(newest) == 0 || newest[0].ID > id+1 {
		all, err := j.Read(event.Query{After: id})
		slices.SortFunc(all, func(a, b event.Event) int { return int(a.ID - b.ID) })
		return all, err
	}
	return slices.DeleteFunc(newest, func(e event.Event) bool { return e.ID <= id }), nil
}

// Counts are the events since the agent started, by kind, and how many were not written.
func (j *Journal) Counts() (counts map[event.Kind]uint64, lost uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	counts = make(map[event.Kind]uint64, len(j.counts))
	for k, n := range j.counts {
		counts[k] = n
	}
	return counts, j.missed
}

// Close ends writing, until the next Add.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

func openAll(paths []string) (files []*os.File, err error) {
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// readAll reads events, and closes the files. A line that is no event is left out.
func readAll(files []*os.File) (events []event.Event, err error) {
	for _, f := range files {
		lines := bufio.NewReaderSize(f, maxLine)
		for {
			line, rerr := lines.ReadSlice('\n')
			var e event.Event
			if json.Unmarshal(line, &e) == nil && e.Kind != "" {
				events = append(events, e)
			}
			if rerr != nil && !errors.Is(rerr, bufio.ErrBufferFull) {
				if !errors.Is(rerr, io.EOF) {
					err = errors.Join(err, rerr)
				}
				break
			}
		}
		_ = f.Close()
	}
	return events, err
}
