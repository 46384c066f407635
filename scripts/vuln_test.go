package scripts

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// A check that could not be made does not look like one that found nothing.
func TestVuln(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		exit string
		code int
		want string
	}{
		"none":        {"No vulnerabilities found.", "0", 0, "no known vulnerability is reached"},
		"some":        {"Vulnerability #1: GO-2026-0001", "3", 3, "update the modules named above"},
		"no database": {`govulncheck: fetching vulnerabilities: Get "https://db": no such host`, "1", 1, "the database https://db"},
		"broken":      {"govulncheck: loading packages: there are errors", "1", 1, "NOT CHECKED: govulncheck failed"},
	} {
		t.Run(name, func(t *testing.T) {
			fakes := map[string]string{"go": `case "$*" in
"tool -modfile=scripts/tools/go.mod govulncheck -db https://db ./cmd/baize ./cmd/baize-cni") ;;
*) echo "unexpected: go $*"; exit 9 ;;
esac
echo '` + c.says + `'; exit ` + c.exit}
			out, code := run(t, "vuln.sh", []string{"dirname", "mktemp", "rm", "cat", "grep"}, fakes, []string{"GOVULNDB=https://db"})
			assert.Equal(t, c.code, code, out)
			assert.Contains(t, out, c.says)
			assert.Contains(t, out, c.want)
		})
	}
}
