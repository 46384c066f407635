package hub

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/source"
)

const (
	// CacheAfter is how long a starting agent waits for the store before it uses
	// what it saw last.
	CacheAfter = 3 * time.Second
	// cacheDelay lets changes that come together be written to disk together. What
	// comes then waits for cacheShare times what writing took, for cacheEvery at most:
	// a large topology on a slow disk is not written all the time.
	cacheDelay = 300 * time.Millisecond
	cacheShare = 50
	cacheEvery = 10 * time.Second
)

// Cache keeps the last topology seen in a file, so that containers can be
// started after a reboot while the store is away. It is a hint: the first answer
// of the store replaces it. The last change counts: with an old copy, an agent
// that is started without the store would undo what came after it.
type Cache struct {
	file   string
	decode func(int64, []topology.KV) *topology.Snapshot
	warn   func(error)
	disk   atomicfile.Writer
	// writing is held while the file is written, mu never.
	writing part.Lock

	mu   sync.Mutex
	next *topology.Snapshot // not yet written
	// written is what the file has; nil where that is not known.
	written *topology.Snapshot
	// again is when the next one is written at the earliest.
	again time.Time
	timer *time.Timer
}

var _ source.Cache = (*Cache)(nil)

// NewCache returns a cache of snapshots that decode makes; warn gets what cannot
// be written.
func NewCache(file string, decode func(int64, []topology.KV) *topology.Snapshot, warn func(error)) *Cache {
	return &Cache{file: file, decode: decode, warn: warn, disk: atomicfile.Write, writing: part.NewLock()}
}

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

// Save implements source.Cache.
func (c *Cache) Save(s *topology.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil && c.written != nil && sameFile(c.written, s) {
		return // agents come and go more often than anything else, and are not kept
	}
	c.next = s
	if c.timer == nil {
		c.timer = time.AfterFunc(max(cacheDelay, time.Until(c.again)), c.Flush)
	}
}

// FlushSoon is Flush at this moment for somebody who does not wait for the disk.
func (c *Cache) FlushSoon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer = time.AfterFunc(0, c.Flush)
}

// Flush implements source.Cache.
func (c *Cache) Flush() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	next := c.next
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.timer = nil; next == nil {
		c.mu.Unlock()
		return
	}
	c.next, c.written = nil, nil
	c.mu.Unlock()
	began := time.Now()
	err := c.write(next)
	c.mu.Lock()
	if c.again = time.Now().Add(min(cacheEvery, cacheShare*time.Since(began))); err == nil {
		c.written = next
	}
	c.mu.Unlock()
	if err != nil {
		c.warn(fmt.Errorf("keep a copy of the topology: %w", err))
	}
}

// sameFile compares what is written of a topology, by identity.
func sameFile(a, b *topology.Snapshot) bool {
	return samePointer(a.Networks, b.Networks) && samePointer(a.Nodes, b.Nodes) && samePointer(a.Subnets, b.Subnets) &&
		samePointer(a.Pins, b.Pins) && samePointer(a.Names, b.Names) && samePointer(a.Raw, b.Raw)
}

func (c *Cache) write(s *topology.Snapshot) error {
	t := cachedTopology{Revision: s.Revision}
	for _, kv := range s.KVs() {
		t.Keys = append(t.Keys, cachedKV{kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision})
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return c.disk(c.file, b, 0o600)
}

// Load implements source.Cache.
func (c *Cache) Load() (*topology.Snapshot, error) {
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
	return c.decode(t.Revision, kvs), nil
}

// File implements source.Cache.
func (c *Cache) File() string { return c.file }
