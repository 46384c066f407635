package part

import (
	"sync"
	"time"
)

// Passes count what a reconciler's loop did since the agent started.
type Passes struct {
	Done, Failed uint64
	// Took is the time of all passes together, LastSuccess when one that did not fail
	// began last; zero where there was none.
	Took        time.Duration
	LastSuccess time.Time
}

// Stats counts the passes of a Loop.
type Stats struct {
	mu     sync.Mutex
	passes Passes
}

// Passes returns the counts.
func (s *Stats) Passes() Passes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passes
}

func (s *Stats) add(began time.Time, err error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passes.Took += time.Since(began)
	if err != nil {
		s.passes.Failed++
		return
	}
	s.passes.Done++
	s.passes.LastSuccess = began
}

// Reconciler is a part whose loop is counted.
type Reconciler interface {
	Passes() Passes
}
