package topology

// MaxTxn is how many conditions, and how many changes, a transaction may have:
// etcd's own limit unless it is set otherwise.
const MaxTxn = 128

// Txn is a transaction on keys of any layout: all changes are made when every
// condition holds, else none. Keys are whole, the prefix of their layout
// included, so that one transaction may change two layouts.
type Txn struct {
	If   []Condition
	Then []Change
}

// Condition compares keys with what was read before.
type Condition struct {
	Key string
	// ModRevision is that of the key; 0: there must be no such key.
	ModRevision int64
	// Dir: Key ends in '/', and no key that begins with it was put after
	// ModRevision, a listing's revision. Deleted keys do not count.
	Dir bool
}

// Change puts or deletes one key.
type Change struct {
	Key    string
	Value  []byte
	Delete bool
	// Lease is the one that a put key is held under; 0: it does not expire.
	// KeepLease leaves it as it is.
	Lease     int64
	KeepLease bool
}

// Committed is what became of a transaction.
type Committed struct {
	// Done: the changes are there. A transaction whose answer was lost counts
	// only when its changes are found.
	Done bool
	// Revision is that of the changes.
	Revision int64
	// Unsure: not Done, but it was sent more than once. It may have been executed,
	// and changed by somebody since.
	Unsure bool
}
