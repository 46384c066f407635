package scripts_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// promtool runs Prometheus' own checks in its folder.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Dir = "prometheus"
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "scripts/install-deps.sh test installs promtool: %s", out)
}

// alerts are the rules by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	readYAML(t, "alerts.yml", &file)
	out := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			require.NotContains(t, out, r.Alert)
			out[r.Alert] = r.Expr
			assert.Contains(t, []string{"warning", "critical"}, r.Labels["severity"], r.Alert)
			assert.NotEmpty(t, r.Annotations["summary"], r.Alert)
			assert.NotEmpty(t, r.Annotations["description"], r.Alert)
		}
	}
	require.NotEmpty(t, out)
	return out
}

func readYAML(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("prometheus", name))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(b, v))
}

// Each alert fires where it should, and nowhere else.
func TestAlertRules(t *testing.T) {
	promtool(t, "check", "rules", "alerts.yml")
	promtool(t, "test", "rules", "alerts_test.yml")
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []any `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	readYAML(t, "alerts_test.yml", &tests)
	fires := map[string]bool{}
	for _, x := range tests.Tests {
		for _, a := range x.AlertRuleTest {
			fires[a.Alertname] = fires[a.Alertname] || len(a.ExpAlerts) > 0
		}
	}
	for name := range alerts(t) {
		assert.True(t, fires[name], "alerts_test.yml does not show that %s fires", name)
	}
}

// expressions are those of the alert rules and of the dashboard.
func expressions(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, expr := range alerts(t) {
		out = append(out, expr)
	}
	b, err := os.ReadFile(filepath.Join("prometheus", "dashboard.json"))
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title, Type string
			ID          int
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &dashboard))
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		assert.False(t, ids[p.ID], "two panels have ID %d", p.ID)
		ids[p.ID] = true
		assert.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		assert.Equal(t, p.Type == "row", len(p.Targets) == 0, p.Title)
		for _, target := range p.Targets {
			out = append(out, target.Expr)
		}
	}
	require.Greater(t, len(out), 40)
	return out
}

var (
	metricName = regexp.MustCompile(`\bbaize_[a-z_]+`)
	metricRow  = regexp.MustCompile("(?m)^\\| `(baize_[a-z_]+)` \\| ([a-z]+) \\|")
)

// What the alert rules and the dashboard ask for is what an agent exports: the table of
// docs/metrics.md is compared with the agent by a test of its own.
func TestAlertsAndDashboardUseWhatThereIs(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	require.NoError(t, err)
	known := map[string]bool{}
	for _, row := range metricRow.FindAllStringSubmatch(string(page), -1) {
		known[row[1]] = true
		if row[2] == "summary" {
			known[row[1]+"_sum"], known[row[1]+"_count"] = true, true
		}
	}
	require.Greater(t, len(known), 30)
	var rules []map[string]string
	for _, expr := range expressions(t) {
		for _, name := range metricName.FindAllString(expr, -1) {
			assert.True(t, known[name], "no agent exports %s: %s", name, expr)
		}
		rules = append(rules, map[string]string{"record": "x", "expr": strings.ReplaceAll(expr, "$instance", ".*")})
	}
	// Prometheus can read each of them.
	b, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "all", "rules": distinct(rules)}}})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "rules.yml")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	promtool(t, "check", "rules", file)
}

// distinct gives each rule a name of its own: promtool warns of two that are one.
func distinct(rules []map[string]string) []map[string]string {
	for i := range rules {
		rules[i]["record"] += string(rune('a'+i/26)) + string(rune('a'+i%26))
	}
	return rules
}
