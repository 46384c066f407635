package settings

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// As systemd reads it: what a shell would do with $, ` or ; does not happen.
func TestParseEnvironment(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want []Variable
	}{
		"empty":                      {"", nil},
		"comments":                   {"# A=1\n; B=2\n  # C=3\n", nil},
		"plain":                      {"A=1\n", []Variable{{"A", "1", 1}}},
		"no newline at the end":      {"A=1", []Variable{{"A", "1", 1}}},
		"blanks around":              {"  A = one two  \n", []Variable{{"A", "one two", 1}}},
		"empty value":                {"A=\nB=2", []Variable{{"A", "", 1}, {"B", "2", 2}}},
		"equals sign in the value":   {"A=b=c", []Variable{{"A", "b=c", 1}}},
		"nothing is executed":        {"A=$(id);`id` $HOME", []Variable{{"A", "$(id);`id` $HOME", 1}}},
		"hash in the value":          {"A=1 # no comment", []Variable{{"A", "1 # no comment", 1}}},
		"single quotes":              {`A=' a\n"b" '`, []Variable{{"A", ` a\n"b" `, 1}}},
		"double quotes":              {`A=" a\n\"b\\ \$x\` + "`" + ` "`, []Variable{{"A", ` a\n"b\ $x` + "` ", 1}}},
		"quoted and bare":            {`A="a b"c' d'`, []Variable{{"A", "a bc' d'", 1}}},
		"quoted parts":               {`A="a" 'b'`, []Variable{{"A", "ab", 1}}},
		"escapes":                    {`A=a\ b\\c\  `, []Variable{{"A", `a b\c `, 1}}},
		"continued line":             {"A=a\\\nb\nC=1", []Variable{{"A", "ab", 1}, {"C", "1", 3}}},
		"continued in quotes":        {"A=\"a\\\nb\nc\"\nC=1", []Variable{{"A", "ab\nc", 1}, {"C", "1", 4}}},
		"comments are not continued": {"# a \\\nA=1", []Variable{{"A", "1", 2}}},
		"quote that does not end":    {"A='b\nC=1", []Variable{{"A", "b\nC=1", 1}}},
		"line that is none":          {"nonsense\nA=1\n", []Variable{{"A", "1", 2}}},
		"name that is none":          {"export A=1\n1B=2\nC-D=3\nE=4", []Variable{{"E", "4", 4}}},
		"DOS line ends":              {"A=1\r\nB=2\r\n", []Variable{{"A", "1", 1}, {"B", "2", 2}}},
		"several of one name":        {"A=1\nA=2", []Variable{{"A", "1", 1}, {"A", "2", 2}}},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, tc.want, ParseEnvironment(tc.in)) })
	}
}

func FuzzParseEnvironment(f *testing.F) {
	f.Add("A=\"x\\\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, v := range ParseEnvironment(text) {
			assert.NotEmpty(t, v.Name)
			assert.Positive(t, v.Line)
		}
	})
}

func TestReadEnvironment(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadEnvironment(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	file := filepath.Join(dir, "baize")
	require.NoError(t, os.WriteFile(file, []byte("A=\xff"), 0o600))
	_, err = ReadEnvironment(file)
	require.ErrorIs(t, err, topology.ErrInvalid)
	assert.Contains(t, err.Error(), file)
}
