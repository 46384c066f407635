package topology

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

const (
	backupFormat  = "baize-backup"
	backupVersion = 1
)

// Backup is a topology as it was at one revision, to be kept in a file. Keys that
// running agents maintain by themselves (alive/, names/, claims/, keys with an expiry)
// are left out. Keys that cannot be decoded are included: nothing is lost.
type Backup struct {
	Format   string `json:"format"`  // "baize-backup"
	Version  int    `json:"version"` // 1
	Prefix   string `json:"prefix"`  // of the keys in etcd; for people
	Revision int64  `json:"revision"`
	// Count and SHA256 (of Keys and Text, see sum) show that a file is complete.
	Count  int    `json:"count"`
	SHA256 string `json:"sha256"`
	// Keys are the values that are JSON, by key relative to the prefix.
	Keys map[string]json.RawMessage `json:"keys"`
	// Text are the other values, by key.
	Text map[string]string `json:"text,omitempty"`
}

// NewBackup makes one of a raw snapshot (see NewRawSnapshot).
func NewBackup(raw *Snapshot, prefix string) Backup {
	b := Backup{
		Format: backupFormat, Version: backupVersion, Prefix: prefix, Revision: raw.Revision,
		Keys: map[string]json.RawMessage{}, Text: map[string]string{},
	}
	for key, kv := range raw.Raw {
		switch {
		case transient(kv):
		case json.Valid(kv.Value):
			b.Keys[key] = kv.Value
		default:
			b.Text[key] = string(kv.Value)
		}
	}
	b.Count, b.SHA256 = len(b.Keys)+len(b.Text), b.sum()
	return b
}

func transient(kv KV) bool {
	return kv.Lease != 0 || slices.ContainsFunc([]string{DirAlive, DirNames, DirClaims}, func(dir string) bool {
		return strings.HasPrefix(kv.Key, dir)
	})
}

// values returns the stored values, JSON without white space.
func (b Backup) values() map[string][]byte {
	out := make(map[string][]byte, len(b.Keys)+len(b.Text))
	for key, v := range b.Keys {
		var c bytes.Buffer
		_ = json.Compact(&c, v) // valid: decoded, or checked
		out[key] = c.Bytes()
	}
	for key, v := range b.Text {
		out[key] = []byte(v)
	}
	return out
}

// sum is the SHA-256 of all keys in order, each with the SHA-256 of its value,
// one a line.
func (b Backup) sum() string {
	h := sha256.New()
	values := b.values()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(h, "%s %x\n", key, sha256.Sum256(values[key]))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Write writes it as indented JSON, keys in order: two backups can be compared
// with diff(1).
func (b Backup) Write(w io.Writer) error {
	out, err := json.MarshalIndent(b, "", "  ")
	if err == nil {
		_, err = w.Write(append(out, '\n'))
	}
	return err
}

// ParseBackup reads what Write wrote. The error is of kind ErrInvalid.
func ParseBackup(in []byte) (Backup, error) {
	var b Backup
	bad := func(what, remedy string) (Backup, error) {
		return Backup{}, &Error{Kind: ErrInvalid, Item: "backup", What: what, Remedy: remedy}
	}
	if err := json.Unmarshal(in, &b); err != nil {
		return bad("incomplete, or no JSON: "+err.Error(), "use another one; 'baize backup' writes them")
	}
	switch {
	case b.Format != backupFormat:
		return bad(fmt.Sprintf("its format is %q, not %q", b.Format, backupFormat), "'baize backup' writes them")
	case b.Version != backupVersion:
		return bad(fmt.Sprintf("its version is %d, this program knows %d", b.Version, backupVersion),
			"use the program that wrote it, or a newer one")
	case len(b.Keys)+len(b.Text) != b.Count:
		return bad(fmt.Sprintf("it claims %d keys and has %d", b.Count, len(b.Keys)+len(b.Text)),
			"use another one; if you edited it on purpose, correct count and sha256, too")
	case b.sum() != b.SHA256:
		return bad("its SHA-256 is "+b.sum()+", it claims "+b.SHA256,
			"use another one; if you edited it on purpose, correct sha256, too")
	}
	return b, nil
}

// RestorePlan is the difference between a topology and a backup.
type RestorePlan struct {
	// Put are the keys to write, networks last: nodes find their subnets when
	// they see a network. Meta is that of the existing key; zero for none.
	Put []KV
	// Delete are the keys to remove, networks first.
	Delete []KV
	// Same counts the keys that are equal already.
	Same int
}

// Empty reports whether there is nothing to do.
func (p RestorePlan) Empty() bool { return len(p.Put)+len(p.Delete) == 0 }

// Snapshot is the topology of a backup on paper, as if its keys had been put in their
// order: which of two records is older, a backup does not say.
func (b Backup) Snapshot() *Snapshot {
	values := b.values()
	var kvs []KV
	for _, key := range slices.Sorted(maps.Keys(values)) {
		at := int64(len(kvs) + 1)
		kvs = append(kvs, KV{Key: key, Value: values[key], Meta: Meta{CreateRevision: at, ModRevision: at}})
	}
	return NewSnapshot(b.Revision, kvs)
}

// PlanRestore compares a backup with the present topology, a raw snapshot.
func (b Backup) PlanRestore(now *Snapshot) RestorePlan {
	var p RestorePlan
	want := b.values()
	networksLast := func(key string) int {
		if strings.HasPrefix(key, DirNetworks) {
			return 1
		}
		return 0
	}
	for key, value := range want {
		have, there := now.Raw[key]
		if there && bytes.Equal(have.Value, value) {
			p.Same++
			continue
		}
		p.Put = append(p.Put, KV{Key: key, Value: value, Meta: have.Meta})
	}
	for key, kv := range now.Raw {
		if _, wanted := want[key]; !wanted && !transient(kv) {
			p.Delete = append(p.Delete, kv)
		}
	}
	slices.SortFunc(p.Put, func(a, b KV) int {
		return 2*(networksLast(a.Key)-networksLast(b.Key)) + strings.Compare(a.Key, b.Key)
	})
	slices.SortFunc(p.Delete, func(a, b KV) int {
		return 2*(networksLast(b.Key)-networksLast(a.Key)) + strings.Compare(a.Key, b.Key)
	})
	return p
}

// AliveIn returns the nodes of a raw snapshot whose agents run.
func AliveIn(s *Snapshot) []string {
	var out []string
	for key := range s.Raw {
		if node, ok := strings.CutPrefix(key, DirAlive); ok {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}
