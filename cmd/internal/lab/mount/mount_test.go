package mount

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMountpoints(t *testing.T) {
	const info = `21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:4 net:[4026532177] /run/netns/a\040b rw shared:5 - nsfs nsfs rw
31 21 0:4 net:[4026532178] /run/netns/c rw - nsfs nsfs rw
32 21 0:40 / /tmp/nsfs rw - tmpfs nsfs rw
`
	assert.Equal(t, []string{"/run/netns/a b", "/run/netns/c"}, parseMountinfo(info, "nsfs"))
	assert.Len(t, parseMountinfo(info, ""), 4)
}
