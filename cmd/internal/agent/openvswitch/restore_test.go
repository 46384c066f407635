package openvswitch

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
)

// restoreFake is a database with the one flag. With a mutex for the race
// detector: fake time already keeps its users apart.
type restoreFake struct {
	mu   sync.Mutex
	flag bool
	err  error
	sets int
}

func (f *restoreFake) SetRestoreWait(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets++
	f.flag = f.flag || f.err == nil
	return f.err
}

func (f *restoreFake) ClearRestoreWait(context.Context) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.flag
	f.flag = f.flag && f.err != nil
	return was && !f.flag, f.err
}

func (f *restoreFake) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// isSet waits until everybody is idle.
func (f *restoreFake) isSet() bool {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flag
}

// restoring runs f beside an agent's restoreWait, in fake time.
func restoring(t *testing.T, db *restoreFake, f func(r *restoreWait)) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	synctest.Test(t, func(t *testing.T) {
		r := newRestoreWait()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.run(ctx, db, logrus.NewEntry(log)) }()
		synctest.Wait()
		f(r)
		cancel()
		<-ended
	})
}

// forwarding brings r to where an agent is that has worked for a while.
func forwarding(r *restoreWait) {
	r.back()
	r.restored(r.token())
	synctest.Wait()
}

func TestRestoreWaitOverARestart(t *testing.T) {
	db := &restoreFake{}
	restoring(t, db, func(r *restoreWait) {
		forwarding(r)
		before := r.token()
		r.lost(true)
		assert.True(t, db.isSet(), "at once")
		time.Sleep(3 * time.Second)
		r.restored(before)
		r.restored(r.token())
		assert.True(t, db.isSet(), "there is no ovs-vswitchd yet")
		r.back()
		r.restored(before)
		assert.True(t, db.isSet(), "that pass began before the restart")
		r.restored(r.token())
		assert.False(t, db.isSet())
		assert.Equal(t, 1, db.sets)

		// And again.
		r.lost(true)
		assert.True(t, db.isSet())
		r.back()
		r.restored(r.token())
		assert.False(t, db.isSet())
	})
}

func TestRestoreWaitIsNeverLeftOn(t *testing.T) {
	for name, c := range map[string]struct {
		f     func(db *restoreFake, r *restoreWait)
		after time.Duration // at the latest
	}{
		"no ovs-vswitchd comes":      {func(_ *restoreFake, r *restoreWait) { r.lost(true) }, restoreGone},
		"the flows do not come back": {func(_ *restoreFake, r *restoreWait) { r.lost(true); r.back() }, restoreBack},
		"every ovs-vswitchd dies": {
			func(_ *restoreFake, r *restoreWait) { r.lost(true); r.back(); r.lost(true) }, restoreGone,
		},
		"connected late": {
			func(_ *restoreFake, r *restoreWait) { r.lost(true); time.Sleep(28 * time.Second); r.back() }, 2 * time.Second,
		},
		"a pass never ends": {
			func(_ *restoreFake, r *restoreWait) { r.lost(true); r.back(); r.atWork(true) }, restoreGone,
		},
		"a pass ends in vain": {func(_ *restoreFake, r *restoreWait) {
			r.lost(true)
			r.back()
			r.atWork(true)
			time.AfterFunc(2*restoreBack, func() { r.atWork(false) })
		}, 2 * restoreBack},
		"the database is away a time": {func(db *restoreFake, r *restoreWait) {
			r.lost(true)
			synctest.Wait()
			db.fail(errors.New("away"))
			time.AfterFunc(time.Minute, func() { db.fail(nil) })
		}, time.Minute + restoreRetry},
		"no answer to the setting": {func(db *restoreFake, r *restoreWait) {
			db.fail(errors.New("timeout"))
			r.lost(true)
			synctest.Wait()
			db.fail(nil)
			_ = db.SetRestoreWait(context.Background()) // it was done all the same
			r.back()
		}, restoreBack},
	} {
		t.Run(name, func(t *testing.T) {
			db := &restoreFake{}
			restoring(t, db, func(r *restoreWait) {
				forwarding(r)
				c.f(db, r)
				assert.True(t, db.isSet())
				time.Sleep(c.after + time.Millisecond)
				assert.False(t, db.isSet())
			})
		})
	}
}

// A predecessor may have been killed with the flag set, and ovs-vswitchd may be
// waiting: the first pass ends that, or a timer.
func TestRestoreWaitOfAPredecessor(t *testing.T) {
	db := &restoreFake{flag: true}
	restoring(t, db, func(r *restoreWait) {
		assert.True(t, db.isSet(), "the kernel's flows are better than none")
		forwarding(r)
		assert.False(t, db.isSet())
	})
	db = &restoreFake{flag: true}
	restoring(t, db, func(*restoreWait) {
		time.Sleep(restoreBack + time.Millisecond)
		assert.False(t, db.isSet())
	})
	assert.Zero(t, db.sets)

	// Time counts from the connection.
	db = &restoreFake{flag: true}
	restoring(t, db, func(r *restoreWait) {
		time.Sleep(restoreBack - time.Millisecond)
		r.back()
		time.Sleep(restoreBack - time.Millisecond)
		assert.True(t, db.isSet())
		time.Sleep(2 * time.Millisecond)
		assert.False(t, db.isSet())
	})
}

// A pass that takes its time, on a slow machine or with many flows, is not
// overtaken: the kernel keeps its flows until there are others.
func TestRestoreWaitForAPassAtWork(t *testing.T) {
	for name, before := range map[string]func(r *restoreWait){
		"over a restart":   func(r *restoreWait) { forwarding(r); r.lost(true); r.back() },
		"of a predecessor": func(r *restoreWait) { r.back() },
	} {
		t.Run(name, func(t *testing.T) {
			db := &restoreFake{flag: true}
			restoring(t, db, func(r *restoreWait) {
				before(r)
				r.atWork(true)
				token := r.token()
				time.Sleep(3 * restoreBack)
				assert.True(t, db.isSet())
				r.restored(token)
				r.atWork(false)
				assert.False(t, db.isSet())
			})
		})
	}
}

func TestRestoreWaitIsNotForEverybody(t *testing.T) {
	db := &restoreFake{}
	restoring(t, db, func(r *restoreWait) {
		forwarding(r)
		r.lost(false)
		assert.False(t, db.isSet())
		r.lost(true) // a connection that never stood
		assert.False(t, db.isSet())
	})
	assert.Zero(t, db.sets)
}

func TestRestoreProblems(t *testing.T) {
	assert.Empty(t, restoreProblems(ovs.Observed{}))
	assert.Empty(t, restoreProblems(ovs.Observed{RestoreWait: true, RestoreWaitOwned: true}))
	p := restoreProblems(ovs.Observed{RestoreWait: true})
	require.Len(t, p, 1)
	assert.Contains(t, p[0].Remedy, "ovs-vsctl remove Open_vSwitch . other_config flow-restore-wait")
}
