package part

// Lock is a mutex for what may take long, such as writing a file. Who waits for one does
// so as for a channel, so that virtual time passes meanwhile (testing/synctest).
type Lock chan struct{}

// NewLock returns one that nobody holds.
func NewLock() Lock { return make(Lock, 1) }

// Lock waits until nobody holds it.
func (l Lock) Lock() { l <- struct{}{} }

// Unlock lets the next one in.
func (l Lock) Unlock() { <-l }
