package ovs

import "strconv"

// DBChange is what one OVSDB transaction is to do.
type DBChange struct {
	// CreateBridge says that SetBridge is not there yet.
	CreateBridge bool
	// SetBridge is the bridge to create or to bring to this state; nil leaves
	// it. Keys of its maps that are not named are left alone.
	SetBridge *Bridge
	// DeleteBridge names a bridge to remove with all its ports.
	DeleteBridge string
	// AddPorts are new, UpdatePorts are there but differ.
	AddPorts, UpdatePorts []Port
	// RemovePorts are the names of ports to remove.
	RemovePorts []string
	// SetCollectors are to be as they are here, RemoveCollectors to go, by number.
	SetCollectors    []CollectorSet
	RemoveCollectors []uint32
	// SetSFlow is how the bridge is to tell of its packets; nil leaves it, RemoveSFlow
	// ends it.
	SetSFlow    *SFlow
	RemoveSFlow bool
}

// Empty reports whether there is nothing to do.
func (c DBChange) Empty() bool {
	return c.SetBridge == nil && c.DeleteBridge == "" && !c.sampling() &&
		len(c.AddPorts)+len(c.UpdatePorts)+len(c.RemovePorts) == 0
}

// sampling reports whether it concerns what is told of packets.
func (c DBChange) sampling() bool {
	return len(c.SetCollectors)+len(c.RemoveCollectors) > 0 || c.SetSFlow != nil || c.RemoveSFlow
}

// FlowID is how an installed flow is recognised: Baize never compares texts
// on the common path, because the switch prints them in its own form.
type FlowID struct {
	Table  int
	Cookie uint64
}

// BoundFlow is a flow with port numbers in place of names, and its cookie.
type BoundFlow struct {
	Flow
	Cookie uint64
}

// ID returns the flow's identity.
func (f BoundFlow) ID() FlowID { return FlowID{f.Table, f.Cookie} }

// CookieTag is the upper 16 bits of every cookie of Baize.
const CookieTag = 0xba12

// OwnCookie reports whether a flow with this cookie is one of Baize's.
func OwnCookie(cookie uint64) bool { return cookie>>48 == CookieTag }

// CookieOf returns the content-addressed cookie of a bound flow: CookieTag,
// then 48 bits of FNV-1a over its table, priority, match and actions. A flow
// that differs in anything has another cookie.
func CookieOf(f Flow) uint64 {
	var space [24]byte
	text := append(strconv.AppendInt(space[:0], int64(f.Table), 10), ' ')
	text = append(strconv.AppendInt(text, int64(f.Priority), 10), ' ')
	h := fnv1a(fnv1aBasis, text)
	h = fnv1a(h, f.Match)
	h = fnv1a(h, " ")
	return CookieTag<<48 | fnv1a(h, f.Actions)>>16
}

const fnv1aBasis = 14695981039346656037

// fnv1a goes on with a 64-bit FNV-1a hash. hash/fnv would copy every text.
func fnv1a[T string | []byte](h uint64, s T) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
