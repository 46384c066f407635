package names

import (
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswer: whatever a container sends to its name server is answered by something that
// can be sent, is an answer to that question, and fits.
func FuzzAnswer(f *testing.F) {
	for _, q := range []struct {
		name string
		kind uint16
	}{
		{"web.", dns.TypeA}, {"web.blue.", dns.TypeAAAA}, {"2.5.1.10.in-addr.arpa.", dns.TypePTR}, {"a.b.", dns.TypeANY},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.0.0.0.1.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR},
	} {
		m := new(dns.Msg)
		m.SetQuestion(q.name, q.kind)
		m.SetEdns0(1232, true)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return // the server of the library refuses it
		}
		m := Answer(known, []string{"blue", "red"}, q)
		if m.Id != q.Id || !m.Response {
			t.Fatalf("no answer to %v: %v", q, m)
		}
		m.Truncate(size(q))
		out, err := m.Pack()
		if err != nil {
			return // a question that cannot be packed again
		}
		if len(m.Question) <= 1 && len(out) > max(size(q), len(b)) {
			t.Fatalf("%d bytes, and %d fit", len(out), size(q))
		}
	})
}
