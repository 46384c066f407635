package command

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "Yes\n": true, "yes": true, "n\n": false, "\n": false, "": false, "yess\n": false,
	} {
		var out strings.Builder
		r := &runner{Streams: Streams{In: strings.NewReader(answer), Out: &out}}
		got, err := r.confirm("Do this?")
		require.NoError(t, err)
		assert.Equal(t, want, got, "%q", answer)
		assert.Contains(t, out.String(), "Do this? [y/N] ")
		assert.Equal(t, !want, strings.Contains(out.String(), "nothing was changed"), "%q", answer)
	}
}
