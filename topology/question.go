package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// The directories of what is asked and answered. '~' sorts after every letter and
// digit, so that they are behind all that belongs to the topology: an agent that
// follows the topology does not get what others ask and answer.
const (
	DirQuestions = "~questions/"
	DirAnswers   = "~answers/"
	// TopologyEnd is the first key, below the cluster's prefix, that is not part of
	// the topology any more.
	TopologyEnd = "~"
)

// Limits of a question and its answers.
const (
	// MaxArguments is the longest Question.Arguments, in bytes.
	MaxArguments = 4 << 10
	// MaxAnswer is the longest NodeAnswer.Body, in bytes: a question to a thousand nodes
	// fills a small part of etcd's database.
	MaxAnswer = 48 << 10
	// MaxQuestionSeconds is the longest time a question may take.
	MaxQuestionSeconds = 60
)

// Question asks agents for something that they alone know: key ~questions/<id>.
// It only reads: an agent changes nothing to answer it. It is held under an etcd
// lease, so that it vanishes when whoever asked has gone; each answer under one of its
// own, because etcd lets nobody put a key under a lease that holds keys of others.
type Question struct {
	// ID is unique in the cluster: random letters and digits.
	ID string `json:"-"`
	// Kind says what is asked; an agent answers the kinds it knows: "doctor".
	Kind string `json:"kind"`
	// Arguments are those of the kind.
	Arguments json.RawMessage `json:"arguments,omitempty"`
	// From says who asks, for the agents' logs: "root@host1".
	From string `json:"from,omitempty"`
	// Nodes are those that are asked; none: all.
	Nodes []string `json:"nodes,omitempty"`
	// Seconds is how long an agent may take. It is a duration and no time of day,
	// because clocks differ.
	Seconds int `json:"seconds"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// Asks reports whether a node is asked.
func (q Question) Asks(node string) bool {
	return len(q.Nodes) == 0 || slices.Contains(q.Nodes, node)
}

// Key returns the question's key.
func (q Question) Key() string { return DirQuestions + q.ID }

// NodeAnswer is what one node answers: key ~answers/<node>/<question>. The node comes
// first, so that etcd's roles, which are by range of keys, can keep a node from
// answering for another one.
type NodeAnswer struct {
	Question string `json:"-"`
	Node     string `json:"-"`
	// Body is the answer; what is in it depends on the question's kind.
	Body json.RawMessage `json:"body,omitempty"`
	// Error says why there is no answer.
	Error string `json:"error,omitempty"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// Key returns the answer's key.
func (a NodeAnswer) Key() string { return AnswersDir(a.Node) + a.Question }

// AnswersDir returns the directory of a node's answers.
func AnswersDir(node string) string { return DirAnswers + node + "/" }

// Check says what is wrong with a question.
func (q Question) Check() error {
	bad := func(what string) error {
		return &Error{Kind: ErrInvalid, Code: fault.RecordMalformed, Item: "question " + q.ID, What: what}
	}
	switch {
	case !nameRE.MatchString(q.ID):
		return bad("its ID is not a name")
	case q.Kind == "":
		return bad("it does not say what it asks for")
	case len(q.Arguments) > MaxArguments:
		return bad(fmt.Sprintf("its arguments have more than %d bytes", MaxArguments))
	case q.Seconds < 1 || q.Seconds > MaxQuestionSeconds:
		return bad(fmt.Sprintf("it gives agents %d seconds; 1 to %d are possible", q.Seconds, MaxQuestionSeconds))
	}
	return nil
}

// Bounded returns the answer as it may be stored: one that is too long becomes an
// error that says so.
func (a NodeAnswer) Bounded() NodeAnswer {
	if len(a.Body) > MaxAnswer {
		a.Error = fmt.Sprintf("the answer has %d bytes, and %d are possible", len(a.Body), MaxAnswer)
		a.Body = nil
	}
	return a
}

func decodeQuestion(id string, kv KV) (Record, error) {
	q := Question{ID: id, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &q, &q.Extra); err != nil {
		return nil, err
	}
	return q, q.Check()
}

func decodeAnswer(rest string, kv KV) (Record, error) {
	node, question, _ := strings.Cut(rest, "/")
	if question == "" || CheckName("node", node) != nil {
		return nil, errors.New("the key is not " + DirAnswers + "<node>/<question>")
	}
	a := NodeAnswer{Question: question, Node: node, Meta: kv.Meta}
	if err := decodeValue(kv.Value, &a, &a.Extra); err != nil {
		return nil, err
	}
	return a, nil
}
