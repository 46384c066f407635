package draw

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFoldNames(t *testing.T) {
	var even, random []string
	for i := range 200 {
		even = append(even, fmt.Sprintf("host%d", 2*i))
		random = append(random, fmt.Sprintf("machine-%c%c", 'a'+i/26, 'a'+i%26))
	}
	for _, tc := range []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"host1"}, "host1"},
		{[]string{"host1", "host2", "host3", "host7"}, "host[1-3,7]"},
		{[]string{"host9", "host10"}, "host[9-10]"},
		{[]string{"host09", "host10"}, "host[09-10]"},
		{[]string{"host9", "host010"}, "host[9,010]"},
		{[]string{"a1.dc2.net", "a1.dc3.net", "a2.dc3.net"}, "a1.dc[2-3].net, a2.dc3.net"},
		{[]string{"alpha", "beta"}, "alpha, beta"},
		{[]string{"a", "a1", "a2"}, "a, a[1-2]"},
		{[]string{"n99999999999999999998", "n99999999999999999999"}, "n99999999999999999998 and 1 more"},
		{even, "host[0,2,4,6,8,10,12] and 193 more"},
		{random, "machine-aa, machine-ab and 198 more"},
		{[]string{"a-name-that-is-longer-than-the-line-itself", "b"}, "a-name-that-is-longer-than-the-line-itself and 1 more"},
	} {
		assert.Equal(t, tc.want, foldNames(tc.names, 36), "%v", tc.names)
	}
}
