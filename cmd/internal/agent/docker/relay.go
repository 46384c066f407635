package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/topology"
)

// Between an engine and the agent stands a relay: a small process that holds
// the plugin's socket and outlives the agent. An engine that is refused gives a
// container up, even one that is to be restarted always, and one whose plugin
// hangs waits for ever while it holds the container's lock. So a request that
// finds no agent waits for the next one, as long as an engine itself would try
// again, and one that an agent left unfinished is sent to the next. Containers
// that end wait for less: the engine is told that it is done, and the agent
// hears of it when it is back.

const (
	// startPatience is how long what a container needs to start may wait for an
	// agent: what an engine waits for a plugin whose socket is not there (moby,
	// pkg/plugins, defaultTimeOut).
	startPatience = 30 * time.Second
	// endPatience is the same for what a container needs to end.
	endPatience = 3 * time.Second
	// again is how often an agent is looked for that is not there.
	again = 50 * time.Millisecond
	// askEvery is how often an agent that has not answered yet is asked whether it
	// lives, answerWithin what it has for that.
	askEvery, answerWithin = 2 * time.Second, time.Second
	// maxOwed bounds what an agent is to hear when it is back. It finds out by
	// itself what is not among it.
	maxOwed = 4096
)

// headerRequest names a request. One that is sent a second time has the name of
// the first, so that an address is not taken twice for one container.
const headerRequest = "Baize-Request"

// methods of an agent that change something. Those that end are done, for the
// engine, even if no agent is there.
var (
	endingMethods = []string{
		"NetworkDriver.DeleteNetwork", "NetworkDriver.DeleteEndpoint", "NetworkDriver.Leave",
		"IpamDriver.ReleasePool", "IpamDriver.ReleaseAddress",
	}
	startingMethods = []string{
		"NetworkDriver.CreateNetwork", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join",
		"NetworkDriver.EndpointOperInfo",
		"IpamDriver.RequestPool", "IpamDriver.RequestAddress",
	}
)

// relay passes requests on.
type relay struct {
	agent http.Client
	log   logrus.FieldLogger
	// name is that of its requests, and count how many there were.
	name  string
	count atomic.Int64
	// startPatience and endPatience are as the constants.
	startPatience, endPatience time.Duration
	// agents is how many follow the relay: one, or none.
	agents atomic.Int32

	mu sync.Mutex
	// missing is since when no agent answers; zero while one does.
	missing time.Time
	owed    []message
	// paying is held while what is owed is sent: nothing overtakes it.
	paying sync.Mutex
}

// message is a request of an engine.
type message struct {
	method, name string
	body         []byte
}

// reply is an agent's answer.
type reply struct {
	status int
	body   []byte
}

func newRelay(agentSocket, name string, log logrus.FieldLogger) *relay {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", agentSocket)
	}
	return &relay{
		agent: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
		log:   log, name: name, startPatience: startPatience, endPatience: endPatience,
	}
}

// handler answers an engine.
func (r *relay) handler() *http.ServeMux {
	mux := http.NewServeMux()
	(&Plugin{log: r.log}).constants(mux)
	for _, m := range startingMethods {
		mux.HandleFunc("POST /"+m, r.pass(m, r.startPatience, r.refuse))
	}
	for _, m := range endingMethods {
		mux.HandleFunc("POST /"+m, r.pass(m, r.endPatience, r.owe))
	}
	return mux
}

// pass passes requests of a method on. otherwise answers where no agent did.
func (r *relay) pass(
	method string, patience time.Duration, otherwise func(message, error) reply,
) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m := message{method, fmt.Sprintf("%s-%d", r.name, r.count.Add(1)), body}
		err = errAway
		var a reply
		if !r.owes() || slices.Contains(startingMethods, method) {
			a, err = r.send(req.Context(), m, patience)
		}
		if req.Context().Err() != nil {
			// The engine is gone, or this relay ends.
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			a = otherwise(m, err)
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
	}
}

// Reasons why no agent answers.
var (
	errAway  = errors.New("does not run on this host")
	errHangs = errors.New("does not answer")
)

// refuse is the answer to what cannot be done without an agent.
func (r *relay) refuse(m message, err error) reply {
	e := &topology.Error{
		Kind: topology.ErrUnavailable, Item: "baize agent",
		What: err.Error() + ": running containers go on, none can be started", Remedy: "'systemctl start baize'",
	}
	if errors.Is(err, errHangs) {
		e.Remedy = "'systemctl restart baize', which interrupts no traffic; 'journalctl -u baize' tells what it did last"
	}
	r.log.Warnf("Docker: %s refused: %v", m.method, e)
	body, _ := json.Marshal(refusal{e.Error()})
	return reply{http.StatusInternalServerError, body}
}

// owe is the answer to what an agent can do later. It comes at once where
// something is owed already: payLoop looks for an agent then.
func (r *relay) owe(m message, err error) reply {
	r.log.Infof("Docker: %s waits for the agent, which %v", m.method, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owed = append(r.owed, m)
	r.owed = r.owed[max(0, len(r.owed)-maxOwed):]
	return reply{http.StatusOK, []byte("{}\n")}
}

// pay sends what is owed, in order.
func (r *relay) pay(ctx context.Context, patience time.Duration) error {
	r.paying.Lock()
	defer r.paying.Unlock()
	for {
		r.mu.Lock()
		if len(r.owed) == 0 {
			r.mu.Unlock()
			return nil
		}
		m := r.owed[0]
		r.mu.Unlock()
		if _, err := r.deliver(ctx, m, patience); err != nil {
			return err
		}
		r.mu.Lock()
		r.owed = slices.DeleteFunc(r.owed, func(o message) bool { return o.name == m.name })
		r.mu.Unlock()
	}
}

// payLoop sends what is owed where no request comes that would.
func (r *relay) payLoop(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			_ = r.pay(ctx, 0) // it stays owed
		}
	}
}

// send delivers a message after all that is owed.
func (r *relay) send(ctx context.Context, m message, patience time.Duration) (reply, error) {
	if err := r.pay(ctx, patience); err != nil {
		return reply{}, err
	}
	return r.deliver(ctx, m, patience)
}

// deliver sends a message until an agent has answered it. It gives up when there
// has been none for as long as patience, be it that of earlier requests.
func (r *relay) deliver(ctx context.Context, m message, patience time.Duration) (reply, error) {
	for {
		a, err := r.ask(ctx, m, patience)
		if err == nil || errors.Is(err, errHangs) || ctx.Err() != nil {
			return a, err
		}
		// It is not there, or ended before it had answered.
		if r.missed() > patience {
			return a, errAway
		}
		select {
		case <-ctx.Done():
			return a, ctx.Err()
		case <-time.After(again):
		}
	}
}

// ask sends a message once. While it is not answered the agent is asked now and
// then whether it lives: a request may take its time, but one that hangs answers
// nothing.
func (r *relay) ask(ctx context.Context, m message, patience time.Duration) (reply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		reply
		err error
	}
	answered := make(chan result, 1)
	go func() {
		a, err := r.post(ctx, m)
		answered <- result{a, err}
	}()
	wait := askEvery
	if r.isMissing() {
		wait = answerWithin
	}
	for {
		select {
		case a := <-answered:
			if a.err == nil {
				r.answers()
			}
			return a.reply, a.err
		case <-time.After(wait):
		}
		wait = askEvery
		if r.hangs(ctx) && r.missed() > patience {
			return reply{}, errHangs
		}
	}
}

// hangs reports whether an agent that is there answers nothing at all.
func (r *relay) hangs(ctx context.Context) bool {
	limited, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := r.post(limited, message{method: "Plugin.Activate"})
	if err == nil {
		r.answers()
	}
	return err != nil && limited.Err() != nil && ctx.Err() == nil
}

// post is one request.
func (r *relay) post(ctx context.Context, m message) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/"+m.method, bytes.NewReader(m.body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set(headerRequest, m.name)
	resp, err := r.agent.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, body}, err
}

// answers notes that an agent is there.
func (r *relay) answers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missing = time.Time{}
}

// missed notes that none is there, and returns for how long there has been none.
func (r *relay) missed() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missing.IsZero() {
		r.missing = time.Now()
	}
	return time.Since(r.missing)
}

func (r *relay) owes() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.owed) > 0
}

func (r *relay) isMissing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.missing.IsZero()
}
