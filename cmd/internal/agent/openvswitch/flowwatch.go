package openvswitch

import "sync"

// flowWatch says whether flow tables may have changed by somebody else's hand. A held
// OpenFlow connection reports that (FlowTables.Monitor).
type flowWatch struct {
	mu  sync.Mutex
	now flowView
}

// flowView is what the watch knew at a moment: where two are equal and watched, nobody
// has changed a flow between them, as far as the switch has told.
type flowView struct {
	watched bool
	events  uint64
}

func (w *flowWatch) view() flowView {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// event notes a change, or that the connection stands anew; lost that it ended.
func (w *flowWatch) event() { w.set(true) }
func (w *flowWatch) lost()  { w.set(false) }

func (w *flowWatch) set(watched bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = flowView{watched, w.now.events + 1}
}
