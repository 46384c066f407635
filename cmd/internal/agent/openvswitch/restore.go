package openvswitch

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology/fault"
)

// An ovs-vswitchd that starts throws the kernel's flows away and begins with
// empty tables: until the agent has filled them, nothing is forwarded. With
// other_config:flow-restore-wait it keeps the kernel's flows instead, and takes
// no new ones. So the agent sets it the moment ovs-vswitchd is gone, and clears
// it when the tables are right again. It holds every bridge of that
// ovs-vswitchd, others' too: each way out of here clears it.
const (
	// restoreGone bounds it in all, and from the end of one ovs-vswitchd to the
	// next.
	restoreGone = 30 * time.Second
	// restoreBack bounds it from the next one's start: by then a pass should
	// be putting the flows back. While one is at work it may go on: to clear it
	// then is to throw the kernel's flows away before there are others.
	restoreBack = 5 * time.Second
	// restoreRetry is the wait after a clearing that failed, restoreTimeout
	// bounds one.
	restoreRetry   = 250 * time.Millisecond
	restoreTimeout = 2 * time.Second
)

// restoreDB is what the database can do about it, as ovs/vswitch serves it.
type restoreDB interface {
	SetRestoreWait(ctx context.Context) error
	ClearRestoreWait(ctx context.Context) (cleared bool, err error)
}

// restoreWait decides when flow-restore-wait is wanted. Other goroutines tell
// it what happens; run acts on it.
type restoreWait struct {
	wake part.Signal

	mu        sync.Mutex
	wanted    bool
	until     time.Time // it is not wanted any longer, but for a pass at work
	last      time.Time // nor for that
	working   bool
	connected bool
	epoch     int // counts the connections to ovs-vswitchd
	set       bool
}

// newRestoreWait begins as if it were set: an agent that was killed may have
// left it, and ovs-vswitchd may be waiting now.
func newRestoreWait() *restoreWait {
	now := time.Now()
	return &restoreWait{
		wake:   part.NewSignal(),
		wanted: true,
		set:    true,
		until:  now.Add(restoreBack),
		last:   now.Add(restoreGone),
	}
}

// lost says that the connection to ovs-vswitchd ended. keep is false where
// there is nothing in the kernel that is worth keeping.
func (r *restoreWait) lost(keep bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connected && keep {
		r.wanted, r.last = true, time.Now().Add(restoreGone)
		r.until = r.last
	}
	r.connected = false
	r.wake.Wake()
}

// back says that there is a connection again: from here on time counts, also
// for an agent that has just started.
func (r *restoreWait) back() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected = true
	r.epoch++
	if r.until = time.Now().Add(restoreBack); r.until.After(r.last) {
		r.until = r.last
	}
	r.wake.Wake()
}

// token is to be taken before a pass; restored takes it after one that put all
// flows in place. A pass that began with the ovs-vswitchd before counts for
// nothing.
func (r *restoreWait) token() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.connected {
		return 0
	}
	return r.epoch
}

func (r *restoreWait) restored(token int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connected && token == r.epoch && r.wanted {
		r.wanted = false
		r.wake.Wake()
	}
}

// atWork says that a pass has begun or, after restored, that it has ended.
func (r *restoreWait) atWork(working bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.working = working
	if r.wanted {
		r.wake.Wake()
	}
}

// state says what is to be done, and how long that holds.
func (r *restoreWait) state() (wanted, set, expired bool, left time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := r.until
	if r.working {
		until = r.last
	}
	left = time.Until(until)
	if r.wanted && left <= 0 {
		r.wanted, expired = false, true
	}
	return r.wanted, r.set, expired, left
}

func (r *restoreWait) setTo(set bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set = set
}

// run keeps the database as wanted until ctx is done. What is set then is for
// clearLast.
func (r *restoreWait) run(ctx context.Context, db restoreDB, log *logrus.Entry) {
	var since time.Time // zero: set before this agent began
	late := false
	for {
		wanted, set, expired, left := r.state()
		late = late || expired
		next := time.Hour
		switch {
		case wanted && !set:
			// Even if no answer comes it may have been done.
			r.setTo(true)
			since, late = time.Now(), false
			if err := r.call(ctx, func(ctx context.Context) error { return db.SetRestoreWait(ctx) }); err != nil {
				log.Warnf("ovs-vswitchd is gone, and its successor cannot be told to keep the kernel's flows: %v", err)
			} else {
				log.Info("ovs-vswitchd is gone; the kernel keeps forwarding what it knows, also past the restart " +
					"(flow-restore-wait)")
			}
			continue
		case !wanted && set:
			var cleared bool
			err := r.call(ctx, func(ctx context.Context) (err error) { cleared, err = db.ClearRestoreWait(ctx); return err })
			if err != nil {
				log.Debugf("clear flow-restore-wait: %v", err)
				next = restoreRetry
				break
			}
			r.setTo(false)
			logCleared(log, cleared, late, since)
			continue
		case wanted:
			next = left
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-r.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

func (r *restoreWait) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	return f(ctx)
}

func logCleared(log *logrus.Entry, cleared, late bool, since time.Time) {
	switch {
	case !cleared:
	case since.IsZero() && late:
		log.Warn(
			"cleared the flow-restore-wait that an agent before this one left, although the flows are not back yet: nothing " +
				"is to hang on it",
		)
	case since.IsZero():
		log.Warn("cleared the flow-restore-wait that an agent before this one left")
	case late:
		log.Warnf(
			"cleared flow-restore-wait after %s although the flows are not back yet: nothing is to hang on it",
			time.Since(since).Round(time.Millisecond),
		)
	default:
		log.Infof("the flows are back; cleared flow-restore-wait after %s", time.Since(since).Round(time.Millisecond))
	}
}

// clearLast clears what the agent would leave behind.
func (r *restoreWait) clearLast(db restoreDB, log *logrus.Entry) {
	if _, set, _, _ := r.state(); !set {
		return
	}
	err := r.call(context.Background(), func(ctx context.Context) error { _, err := db.ClearRestoreWait(ctx); return err })
	if err != nil {
		log.Errorf("flow-restore-wait may still be set (%v): the next start of the agent clears it", err)
	}
}

// restoreProblems reports a flow-restore-wait that is not ours to clear.
func restoreProblems(o ovs.Observed) []fault.Fault {
	if !o.RestoreWait || o.RestoreWaitOwned {
		return nil
	}
	return []fault.Fault{{
		Code: fault.RestoreWaitForeign, Severity: fault.Warning,
		Item: "Open_vSwitch other_config:" + ovs.RestoreWait,
		What: "somebody set it: an ovs-vswitchd that starts forwards nothing new until it is removed",
		// ovs-ctl sets it for the seconds of a restart.
		Remedy: "if it stays, 'ovs-vsctl remove Open_vSwitch . other_config " + ovs.RestoreWait + "'",
	}}
}
