package part_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology/fault"
)

func TestQueue(t *testing.T) {
	q, wake := part.NewQueue[int](3), part.NewSignal()
	q.Put(0)
	items, lost := q.Take()
	assert.Empty(t, items, "nobody takes yet: nothing is kept")
	assert.Zero(t, lost)

	q.Wakes(wake)
	for i := 1; i <= 5; i++ {
		q.Put(i)
	}
	assert.Len(t, wake, 1, "woken, and putting never blocked")
	items, lost = q.Take()
	assert.Equal(t, []int{3, 4, 5}, items)
	assert.Equal(t, 2, lost)
	items, lost = q.Take()
	assert.Empty(t, items)
	assert.Zero(t, lost)
}

func TestFaultsWakeWhenTheyChange(t *testing.T) {
	var faults part.Faults
	wake := part.NewSignal()
	faults.Wakes(wake)
	woken := func() bool {
		select {
		case <-wake:
			return true
		default:
			return false
		}
	}
	faults.Set(nil)
	assert.False(t, woken(), "none is what there was")
	one := []fault.Fault{{Code: fault.PortDead, Item: "port a", What: "dead"}}
	faults.Set(one)
	assert.True(t, woken())
	faults.Set(one)
	assert.False(t, woken(), "the same faults")
	faults.Set(append(one, fault.Fault{Code: fault.PortDead, Item: "port b", What: "dead"}))
	assert.True(t, woken(), "one more")
	faults.Set(one)
	assert.True(t, woken(), "one less")
}
