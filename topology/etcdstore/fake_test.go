package etcdstore_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// The tests of this file run in virtual time, on an etcd in memory.

func openFake(t *testing.T, h *etcdfake.Host) *etcdstore.Store {
	t.Helper()
	s, err := etcdstore.Open(t.Context(), etcdstore.Config{Backend: h, Endpoints: []string{"fake"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// follow runs Watch and returns the newest update.
func follow(t *testing.T, s *etcdstore.Store) *etcdstore.Update {
	t.Helper()
	var last etcdstore.Update
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(u etcdstore.Update) { last = u }) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return &last
}

// pass lets virtual time go by, and what was started come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// red is a network's record as it is stored.
var red = string(topology.Encode(topology.Network{Name: "red", VNI: 200, IPv4: prefix("10.2.0.0/16")}.Defaults()))

// Etcd is restored from an old backup and written past the watch's
// revision before the watch is back, so that nothing in it goes back in time.
func TestRestoredAndWrittenPastTheWatch(t *testing.T) {
	for name, newID := range map[string]bool{"same cluster ID": false, "another cluster ID": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := etcdfake.New()
				s := openFake(t, cluster.Host("a"))
				old := cluster.Backup()
				mustCreate(t, s, blue())
				last := follow(t, s)
				pass(20 * time.Second)
				require.Contains(t, last.Snapshot.Networks, "blue")
				cluster.Restore(old, newID, func(put func(string, string)) {
					for range 10 {
						put(topology.DefaultPrefix+"/networks/red", red)
					}
				})
				pass(6 * time.Second)
				require.NoError(t, last.Err)
				require.Contains(t, last.Snapshot.Networks, "red")
				require.NotContains(t, last.Snapshot.Networks, "blue", "it is not in the backup")
			})
		})
	}
}

// An idle cluster answers no question for progress of a watch that begins in
// the future: each agent listed everything every ten seconds.
func TestAnIdleWatchDoesNotListAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		s := openFake(t, cluster.Host("a"))
		mustCreate(t, s, blue())
		last := follow(t, s)
		pass(time.Minute)
		before := cluster.Reads()
		pass(time.Hour)
		require.NoError(t, last.Err)
		// Every audit interval, ten minutes.
		require.LessOrEqual(t, cluster.Reads()-before, 7)
	})
}

// An audit that finds what is known already leaves it as it is: what compares by
// identity has nothing to do then, nor at the next change.
func TestAListingThatSaysNothingNewIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		s := openFake(t, cluster.Host("a"))
		mustCreate(t, s, blue())
		last := follow(t, s)
		pass(time.Minute)
		before := last.Snapshot
		pass(time.Hour)
		cluster.Put(topology.DefaultPrefix+"/alive/host1", `{"id": "id-host1"}`)
		pass(time.Minute)
		require.Contains(t, last.Snapshot.Alive, "host1")
		same := func(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
		require.True(t, same(before.Networks, last.Snapshot.Networks))
		require.False(t, same(before.Alive, last.Snapshot.Alive))

		// Nor does an outage.
		cluster.Stop()
		pass(time.Minute)
		require.Error(t, last.Err)
		cluster.Start()
		pass(time.Minute)
		require.NoError(t, last.Err)
		require.True(t, same(before.Networks, last.Snapshot.Networks))
	})
}

// A question is asked once, also where etcd does not answer for a while.
func TestQuestionsOverAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		s := openFake(t, cluster.Host("a"))
		asked := map[string]int{}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Questions(ctx, func(q topology.Question) { asked[q.ID]++ }) }()
		put := func(id string) {
			cluster.Put(topology.DefaultPrefix+"/~questions/"+id, `{"kind": "echo", "seconds": 60}`)
			pass(time.Minute)
		}
		put("q1")
		cluster.Stop()
		pass(time.Minute)
		cluster.Start()
		pass(time.Minute)
		put("q2")
		cancel()
		require.NoError(t, <-ended)
		require.Equal(t, map[string]int{"q1": 1, "q2": 1}, asked)
	})
}

// A full etcd is told from one that is down.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		s := openFake(t, cluster.Host("a"))
		cluster.SetNoSpace(true)
		_, err := s.CreateNetwork(t.Context(), blue())
		refused(t, err, topology.ErrUnavailable, "database is full")
		require.Equal(t, fault.StoreFull, fault.Of(err).Code)
		_, err = s.Snapshot(t.Context())
		require.NoError(t, err)
	})
}

// Every write is done once, however often its answer is lost.
func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		h := cluster.Host("a")
		s := openFake(t, h)
		lossy := func(f func() error) {
			t.Helper()
			before := cluster.Revision()
			h.Set(etcdfake.Faults{LoseAnswers: true})
			time.AfterFunc(4*time.Second, func() { h.Set(etcdfake.Faults{}) })
			require.NoError(t, f())
			require.LessOrEqual(t, cluster.Revision(), before+1)
		}
		lossy(func() error { _, err := s.CreateNetwork(t.Context(), blue()); return err })
		lossy(func() error { _, err := s.RegisterNode(t.Context(), node("n1")); return err })
		lossy(func() error { _, err := s.LeaseSubnet(t.Context(), "blue", "n1", topology.IPv4, false); return err })
		pin := topology.Pin{Network: "blue", Addr: prefix("10.1.200.9/32").Addr(), Node: "n1", MAC: "02:42:0a:01:c8:09"}
		lossy(func() error { _, err := s.PutPin(t.Context(), pin); return err })
		lossy(func() error { return s.DeletePin(t.Context(), pin) })
		snap, err := s.Snapshot(t.Context())
		require.NoError(t, err)
		require.Len(t, snap.Subnets, 1)
		require.Empty(t, snap.Pins)
	})
}

// Two machines with one node ID, one disk being a copy of the other's. The
// first one keeps its name, and the second is refused with both hosts named.
func TestAClonedMachineIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		first := topology.Liveness{Node: "n", ID: "id", Hostname: "first", Epoch: "boot1"}
		copied := topology.Liveness{Node: "n", ID: "id", Hostname: "copy", Epoch: "boot2"}
		const ttl = 10 * time.Second
		states := 0
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- openFake(t, cluster.Host("a")).KeepAlive(ctx, first, ttl, func(error) { states++ })
		}()
		pass(time.Minute)
		b := openFake(t, cluster.Host("b"))
		revision := cluster.Revision()
		ctx2, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := b.KeepAlive(ctx2, copied, ttl, nil)
		refused(t, err, topology.ErrConflict, "host first", "copy", "one node ID")
		require.Equal(t, fault.NodeDuplicate, fault.Of(err).Code)
		record := node("n")
		record.ID, record.Epoch = "id", "boot2"
		_, err = b.RegisterNode(t.Context(), record)
		refused(t, err, topology.ErrConflict, "host first")
		pass(time.Minute)
		require.Equal(t, 1, states, "the first one never noticed")
		require.Equal(t, revision, cluster.Revision(), "and nothing was written")
		stop()
		require.NoError(t, <-ended)

		// The machine itself may come back at once from a crash.
		cluster.Put(topology.DefaultPrefix+"/"+first.Key(), string(topology.Encode(first)))
		ctx, stop = context.WithCancel(t.Context())
		defer stop()
		held := make(chan error, 10)
		time.AfterFunc(5*time.Second, func() { cluster.Delete(topology.DefaultPrefix+"/"+first.Key(), false) })
		go func() { ended <- b.KeepAlive(ctx, copied, ttl, func(err error) { held <- err }) }()
		require.NoError(t, <-held)
		stop()
		require.NoError(t, <-ended)
	})
}

// A member without a leader, or one that stalls, is noticed and overcome.
func TestWatchSurvives(t *testing.T) {
	for name, c := range map[string]struct {
		harm, heal func(*etcdfake.Cluster, *etcdfake.Host)
	}{
		"no leader": {
			func(c *etcdfake.Cluster, _ *etcdfake.Host) { c.SetLeader(false) },
			func(c *etcdfake.Cluster, _ *etcdfake.Host) { c.SetLeader(true) },
		},
		"stopped": {
			func(c *etcdfake.Cluster, _ *etcdfake.Host) { c.Stop() },
			func(c *etcdfake.Cluster, _ *etcdfake.Host) { c.Start() },
		},
		"cut off": {
			func(_ *etcdfake.Cluster, h *etcdfake.Host) { h.Set(etcdfake.Faults{Cut: true}) },
			func(_ *etcdfake.Cluster, h *etcdfake.Host) { h.Set(etcdfake.Faults{}) },
		},
		"refused": {
			func(_ *etcdfake.Cluster, h *etcdfake.Host) { h.Set(etcdfake.Faults{Refused: true}) },
			func(_ *etcdfake.Cluster, h *etcdfake.Host) { h.Set(etcdfake.Faults{}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := etcdfake.New()
				h := cluster.Host("a")
				s := openFake(t, h)
				last := follow(t, s)
				pass(30 * time.Second)
				require.NoError(t, last.Err)
				c.harm(cluster, h)
				pass(40 * time.Second)
				require.Error(t, last.Err)
				require.NotEmpty(t, fault.Of(last.Err).Code)
				cluster.Put(topology.DefaultPrefix+"/networks/red", red)
				cluster.Compact(0)
				c.heal(cluster, h)
				pass(20 * time.Second)
				require.NoError(t, last.Err)
				require.Contains(t, last.Snapshot.Networks, "red")
			})
		})
	}
	t.Run("a watch that stalls", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cluster := etcdfake.New()
			h := cluster.Host("a")
			last := follow(t, openFake(t, h))
			pass(30 * time.Second)
			h.Set(etcdfake.Faults{StallWatches: true})
			cluster.Put(topology.DefaultPrefix+"/networks/red", red)
			pass(20 * time.Second)
			require.NoError(t, last.Err)
			require.Contains(t, last.Snapshot.Networks, "red", "requests are answered: it lists anew")
		})
	})
}

// What another program writes below the prefix costs nobody a topology.
func TestJunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		last := follow(t, openFake(t, cluster.Host("a")))
		cluster.Put(topology.DefaultPrefix+"/networks/red", red)
		cluster.Put(topology.DefaultPrefix+"/networks/blue", strings.Repeat("[", 1000))
		pass(time.Second)
		require.Contains(t, last.Snapshot.Networks, "red")
		require.Contains(t, last.Snapshot.Malformed, "networks/blue")
	})
}

// However long the lease lasts, a copied machine is refused once it cannot be
// this one's earlier boot any more, and the machine itself gets its name back.
func TestAClonedMachineIsRefusedWithALongLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdfake.New()
		first := topology.Liveness{Node: "n", ID: "id", Hostname: "first", Epoch: "boot1"}
		copied := topology.Liveness{Node: "n", ID: "id", Hostname: "copy", Epoch: "boot2"}
		const ttl = 10 * time.Minute
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- openFake(t, cluster.Host("a")).KeepAlive(ctx, first, ttl, nil) }()
		pass(time.Minute)
		b := openFake(t, cluster.Host("b"))
		limited, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began, states := time.Now(), 0
		err := b.KeepAlive(limited, copied, ttl, func(error) { states++ })
		refused(t, err, topology.ErrConflict, "host first", "copy")
		require.InDelta(t, (2 * ttl).Seconds(), time.Since(began).Seconds(), 5)
		require.Zero(t, states, "it was a matter of waiting")
		stop()
		require.NoError(t, <-ended)
	})
}

// torn is a backend whose requests are answered by two clusters in turn.
type torn struct {
	etcdstore.Backend
	gets uint64
}

type tornClient struct {
	etcdstore.Client
	b *torn
}

func (b *torn) Connect(ctx context.Context) (etcdstore.Client, error) {
	c, err := b.Backend.Connect(ctx)
	return tornClient{c, b}, err
}

func (c tornClient) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := c.Client.Get(ctx, key, opts...)
	if err == nil {
		c.b.gets++
		resp.Header.ClusterId += c.b.gets % 2
		resp.More = c.b.gets%2 == 1
	}
	return resp, err
}

// A listing whose pages never fit together ends, and does not press etcd.
func TestListingOfTwoClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &torn{Backend: etcdfake.New().Host("a")}
		s, err := etcdstore.Open(t.Context(), etcdstore.Config{Backend: b, Endpoints: []string{"fake"}})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		mustCreate(t, s, blue())
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err = s.Snapshot(ctx)
		refused(t, err, topology.ErrUnavailable, "another etcd cluster", "members of one cluster")
		require.Less(t, b.gets, uint64(100))
	})
}
