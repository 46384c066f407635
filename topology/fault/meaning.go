package fault

import (
	_ "embed"
	"regexp"
	"strings"
)

// codesSource is where each code has its meaning, for people who read the code,
// the documents and the command line.
//
//go:embed codes.go
var codesSource string

var (
	codeLine = regexp.MustCompile(`^\t\w+ +Code = "(BZ\d{4})"$`)
	areaLine = regexp.MustCompile(`^//\t(\d\d)  (.+)$`)
)

// Meanings returns what is wrong, by code: "etcd does not answer, or refuses the
// request".
func Meanings() map[Code]string {
	out := map[Code]string{}
	var comment []string
	for line := range strings.Lines(codesSource) {
		line = strings.TrimRight(line, "\n")
		text, isComment := strings.CutPrefix(line, "\t// ")
		switch m := codeLine.FindStringSubmatch(line); {
		case isComment:
			comment = append(comment, text)
			continue
		case m != nil:
			_, about, _ := strings.Cut(strings.Join(comment, " "), ": ")
			out[Code(m[1])] = strings.TrimSuffix(about, ".")
		}
		comment = nil
	}
	return out
}

// Area says where faults of a code are found: "the agent itself".
func (c Code) Area() string {
	for line := range strings.Lines(codesSource) {
		m := areaLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if len(m) > 0 && strings.HasPrefix(string(c), "BZ"+m[1]) {
			return m[2]
		}
	}
	return ""
}
