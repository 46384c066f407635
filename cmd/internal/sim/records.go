package sim

import (
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
)

// spoilt are values that no record has.
var spoilt = []string{"", "{", "null", `{"node": 7}`, "\x00\xff", strings.Repeat("[", 10000)}

// restore starts etcd with the data of a backup, or with none, mostly as a
// cluster of its own, and sometimes written past what the agents saw.
func (w *World) restore(b etcdfake.Backup) {
	var meanwhile func(put func(key, value string))
	if w.rng.IntN(2) == 0 {
		meanwhile = func(put func(key, value string)) {
			for range 1000 {
				put("/somebody/else", "x")
			}
		}
	}
	w.Etcd.Restore(b, w.rng.IntN(3) > 0, meanwhile)
}

// pickKey is one of Baize's keys, or one that nobody has where there is none.
func (w *World) pickKey() string {
	keys := sortedKeys(w.Etcd.Keys(topology.DefaultPrefix + "/"))
	if len(keys) == 0 {
		return topology.DefaultPrefix + "/nothing"
	}
	key := keys[w.rng.IntN(len(keys))]
	w.note("  … %s", key)
	return key
}

// vanished are the networks' records that etcd has not, or not as they were.
func (w *World) vanished() []string {
	have := w.Etcd.Keys(topology.DefaultPrefix + "/")
	return slices.DeleteFunc(sortedKeys(w.records), func(key string) bool { return have[key] == w.records[key] })
}

// putBack is what an operator does with what the agents do not have to mend: the
// networks' records are put back, and what cannot be read is deleted.
func (w *World) putBack() {
	have := w.Etcd.Keys(topology.DefaultPrefix + "/")
	for _, key := range w.vanished() {
		w.note("  … %s is put back", key)
		w.Etcd.Put(key, w.records[key])
	}
	for _, key := range sortedKeys(have) {
		kv := topology.KV{Key: strings.TrimPrefix(key, topology.DefaultPrefix+"/"), Value: []byte(have[key])}
		if _, err := topology.Decode(kv); err != nil && w.records[key] == "" {
			w.note("  … %s is deleted: %v", key, err)
			w.Etcd.Delete(key, false)
		}
	}
}
