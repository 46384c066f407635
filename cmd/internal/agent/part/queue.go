package part

import "sync"

// Queue hands what happened from one part to another, in order. A cell has the newest
// value only; a queue is for what must not be missed. It never blocks who puts: where
// nobody takes, the oldest goes.
type Queue[T any] struct {
	limit int

	mu     sync.Mutex
	items  []T
	lost   int
	signal Signal
}

// NewQueue returns a queue of at most limit items.
func NewQueue[T any](limit int) *Queue[T] { return &Queue[T]{limit: limit} }

// Put adds an item, and wakes who takes. Before anybody takes it keeps nothing.
func (q *Queue[T]) Put(item T) {
	q.mu.Lock()
	if q.signal == nil {
		q.mu.Unlock()
		return
	}
	if len(q.items) == q.limit {
		q.items = q.items[1:]
		q.lost++
	}
	q.items = append(q.items, item)
	signal := q.signal
	q.mu.Unlock()
	signal.Wake()
}

// Wakes says who takes, and begins to keep items. There is one who does.
func (q *Queue[T]) Wakes(s Signal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signal = s
}

// Take returns what was put since the last call, and how many more there were.
func (q *Queue[T]) Take() (items []T, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	items, lost = q.items, q.lost
	q.items, q.lost = nil, 0
	return items, lost
}
