package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
)

const (
	// cacheAfter is how long a starting agent waits for etcd before it uses
	// what it saw last.
	cacheAfter = 3 * time.Second
	// cacheEvery bounds how often the topology is written to disk, cacheDelay
	// lets changes that come together be written together.
	cacheEvery = 10 * time.Second
	cacheDelay = time.Second
)

// cache is the last topology seen, in a file, so that containers can be
// started after a reboot while etcd is away. It is a hint: the first answer
// of etcd replaces it.
type cache struct{ file string }

type cachedTopology struct {
	Revision int64      `json:"revision"`
	Keys     []cachedKV `json:"keys"`
}

type cachedKV struct {
	Key    string          `json:"key"`
	Value  json.RawMessage `json:"value"`
	Create int64           `json:"create"`
	Mod    int64           `json:"mod"`
}

// saver writes the topology to disk some time after it changed. The last
// change counts: with an old copy, an agent that is started without etcd
// would undo what came after it.
type saver struct {
	cache
	warn func(error)

	mu    sync.Mutex
	next  *topology.Snapshot // not yet written
	saved time.Time
	timer *time.Timer
}

// put has s written soon.
func (w *saver) put(s *topology.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = s
	if w.timer == nil {
		w.timer = time.AfterFunc(max(cacheDelay, cacheEvery-time.Since(w.saved)), w.flush)
	}
}

// flush writes now what is not yet written.
func (w *saver) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	w.timer.Stop()
	w.timer = nil
	if err := w.save(w.next); err != nil {
		w.warn(err)
	}
	w.next, w.saved = nil, time.Now()
}

func (c cache) save(s *topology.Snapshot) error {
	t := cachedTopology{Revision: s.Revision}
	for _, kv := range s.KVs() {
		t.Keys = append(t.Keys, cachedKV{kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision})
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return writeFile(c.file, b)
}

func (c cache) load() (*topology.Snapshot, error) {
	return c.read(topology.NewSnapshot)
}

// read loads it into a snapshot of some layout.
func (c cache) read(decode func(int64, []topology.KV) *topology.Snapshot) (*topology.Snapshot, error) {
	b, err := os.ReadFile(c.file)
	if err != nil {
		return nil, err
	}
	var t cachedTopology
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("%s is ignored: %w", c.file, err)
	}
	kvs := make([]topology.KV, len(t.Keys))
	for i, k := range t.Keys {
		kvs[i] = topology.KV{Key: k.Key, Value: k.Value, Meta: topology.Meta{CreateRevision: k.Create, ModRevision: k.Mod}}
	}
	return decode(t.Revision, kvs), nil
}

// writeFile replaces a file in one step: a reader never sees half of it.
func writeFile(file string, b []byte) error { return atomicfile.Write(file, b, 0o600) }
