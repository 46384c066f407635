package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/cwriter"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressDelay is how long a step may take in silence.
const progressDelay = time.Second

// Progress shows that a command is at work. A step of less than a second shows
// nothing. A slower one shows a spinner on a terminal, and one line elsewhere;
// both print a line when it is done.
//
// One step runs at a time, and nothing else writes meanwhile.
type Progress struct {
	w        io.Writer
	terminal bool
	delay    time.Duration
}

// NewProgress returns the progress shown on w, which is standard error as a
// rule: standard output is for results.
func NewProgress(w io.Writer) *Progress {
	f, ok := w.(*os.File)
	return &Progress{
		w: w, terminal: ok && IsTerminal(f) && os.Getenv("TERM") != "dumb", delay: progressDelay,
	}
}

// IsTerminal reports whether a person is at the other end of a file.
func IsTerminal(f *os.File) bool { return cwriter.IsTerminal(int(f.Fd())) }

// Step runs f and shows title while that takes long. It returns f's error.
func (p *Progress) Step(ctx context.Context, title string, f func(context.Context) error) error {
	return p.run(ctx, title, func(ctx context.Context, _ func(int)) error { return f(ctx) }, 0)
}

// Count is Step for a task of total parts: f calls done with the number of parts
// that are done.
func (p *Progress) Count(
	ctx context.Context, title string, total int, f func(ctx context.Context, done func(int)) error,
) error {
	return p.run(ctx, title, f, total)
}

func (p *Progress) run(ctx context.Context, title string, f func(context.Context, func(int)) error, total int) error {
	var count atomic.Int64
	begin := time.Now()
	label := func() string {
		if total > 0 {
			return fmt.Sprintf("%s %d/%d", title, count.Load(), total)
		}
		return title
	}
	over, shown := make(chan struct{}), make(chan bool)
	go func() { shown <- p.show(over, begin, label) }()
	// In a defer, so that a panic does not leave a spinner behind.
	finished := false
	var err error
	defer func() {
		if !finished {
			close(over)
			<-shown
		}
	}()
	err = f(ctx, func(n int) { count.Store(int64(n)) })
	finished = true
	close(over)
	if <-shown && err == nil {
		fmt.Fprintf(p.w, "%s: done in %s\n", title, time.Since(begin).Round(100*time.Millisecond))
	}
	return err
}

// show waits for a step to be over, and after the delay shows that it is not.
// It reports whether it showed anything.
func (p *Progress) show(over <-chan struct{}, begin time.Time, label func() string) bool {
	timer := time.NewTimer(p.delay)
	defer timer.Stop()
	select {
	case <-over:
		return false
	case <-timer.C:
	}
	if !p.terminal {
		fmt.Fprintln(p.w, label()+" ...")
		<-over
		return true
	}
	bars := mpb.New(mpb.WithOutput(p.w), mpb.WithAutoRefresh())
	bar := bars.New(0, mpb.SpinnerStyle(), mpb.BarWidth(2), mpb.BarRemoveOnComplete(), mpb.AppendDecorators(
		decor.Any(func(decor.Statistics) string {
			return fmt.Sprintf("%s %s", label(), time.Since(begin).Truncate(time.Second))
		}),
	))
	<-over
	bar.Abort(true)
	bars.Wait()
	return true
}
