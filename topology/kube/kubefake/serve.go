package kubefake

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const nodesPath = "/api/v1/nodes"

// Handler serves clients that are given nothing but a URL.
func (c *Cluster) Handler() http.Handler { return http.HandlerFunc(c.answer) }

func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+token {
		refuse(w, http.StatusUnauthorized, "Unauthorized", "who are you?")
		return
	}
	c.answer(w, r)
}

func (c *Cluster) answer(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	verb := "list"
	switch {
	case r.Method == http.MethodPatch:
		verb = "patch"
	case r.Method != http.MethodGet:
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", r.Method)
		return
	case q.Get("watch") == "true" || q.Get("watch") == "1":
		verb = "watch"
	}
	c.mu.Lock()
	c.requests[verb]++
	denied := c.denied[verb]
	c.mu.Unlock()
	if denied {
		refuse(w, http.StatusForbidden, "Forbidden", fmt.Sprintf("nodes is forbidden: cannot %s resource \"nodes\"", verb))
		return
	}
	name, isStatus := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, nodesPath+"/"), "/status")
	switch {
	case verb == "patch" && isStatus:
		c.patch(w, r, name)
	case verb == "watch" && r.URL.Path == nodesPath:
		c.watch(w, r, q)
	case verb == "list" && r.URL.Path == nodesPath:
		c.list(w, q)
	default:
		refuse(w, http.StatusNotFound, "NotFound", r.Method+" "+r.URL.Path)
	}
}

// list serves one page of a listing, which is that of the first page's version.
func (c *Cluster) list(w http.ResponseWriter, q url.Values) {
	c.mu.Lock()
	defer c.mu.Unlock()
	version, rest := strconv.FormatInt(c.version, 10), c.sorted()
	if next := q.Get("continue"); next != "" {
		var begun bool
		if rest, begun = c.pages[next]; !begun {
			refuse(w, http.StatusGone, "Expired", "the provided continue parameter is too old")
			return
		}
		delete(c.pages, next)
		version, _, _ = strings.Cut(next, "/")
	}
	meta := Object{"resourceVersion": version}
	if limit, _ := strconv.Atoi(q.Get("limit")); limit > 0 && len(rest) > limit {
		next := fmt.Sprintf("%s/%d", version, len(rest)-limit)
		c.pages[next] = rest[limit:]
		rest = rest[:limit]
		meta["continue"] = next
	}
	reply(w, http.StatusOK, Object{"kind": "NodeList", "apiVersion": "v1", "metadata": meta, "items": rest})
}

// watch streams what happened after a version, and bookmarks where nothing does.
func (c *Cluster) watch(w http.ResponseWriter, r *http.Request, q url.Values) {
	from, err := strconv.ParseInt(q.Get("resourceVersion"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", "invalid resource version")
		return
	}
	seconds, _ := strconv.Atoi(q.Get("timeoutSeconds"))
	end := time.NewTimer(time.Duration(max(seconds, 1)) * time.Second)
	defer end.Stop()
	mark := time.NewTicker(time.Minute)
	defer mark.Stop()
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	send := func(kind string, o Object) bool {
		err := out.Encode(Object{"type": kind, "object": o})
		return err == nil && http.NewResponseController(w).Flush() == nil
	}
	_ = http.NewResponseController(w).Flush()
	for {
		c.mu.Lock()
		expired, changed, version := from < c.compacted, c.changed, c.version
		var news []event
		for _, e := range c.events {
			if e.version > from {
				news = append(news, e)
			}
		}
		c.mu.Unlock()
		if expired {
			send("ERROR", status(http.StatusGone, "Expired", fmt.Sprintf("too old resource version: %d", from)))
			return
		}
		for _, e := range news {
			if !send(e.kind, e.object) {
				return
			}
			from = e.version
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-end.C:
			return
		case <-mark.C:
			if q.Get("allowWatchBookmarks") == "true" && len(news) == 0 {
				from = max(from, version)
				send("BOOKMARK", Object{
					"kind": "Node", "apiVersion": "v1",
					"metadata": Object{"resourceVersion": strconv.FormatInt(from, 10)},
				})
			}
		}
	}
}

// patch applies a strategic merge patch to the status of a node. Annotations may be
// set that way, nothing of the spec.
func (c *Cluster) patch(w http.ResponseWriter, r *http.Request, name string) {
	if t := r.Header.Get("Content-Type"); t != "application/strategic-merge-patch+json" {
		refuse(w, http.StatusUnsupportedMediaType, "UnsupportedMediaType", t)
		return
	}
	body, err := io.ReadAll(r.Body)
	var patch struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Status struct {
			Conditions []Object `json:"conditions"`
		} `json:"status"`
	}
	if err == nil {
		err = json.Unmarshal(body, &patch)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.nodes[name]; !there {
		refuse(w, http.StatusNotFound, "NotFound", `nodes "`+name+`" not found`)
		return
	}
	c.patches = append(c.patches, string(body))
	n := c.changeLocked(name, func(n Object) {
		meta := n["metadata"].(Object)
		all, _ := meta["annotations"].(Object)
		if all == nil {
			all = Object{}
		}
		maps.Copy(all, toAny(patch.Metadata.Annotations))
		meta["annotations"] = all
		for _, x := range patch.Status.Conditions {
			setCondition(n, x)
		}
	})
	reply(w, http.StatusOK, n)
}

func conditions(n Object) []any {
	s, _ := n["status"].(Object)
	list, _ := s["conditions"].([]any)
	return list
}

// setCondition replaces the condition of the same type.
func setCondition(n Object, x Object) {
	kept := []any{}
	for _, have := range conditions(n) {
		if have.(Object)["type"] != x["type"] {
			kept = append(kept, have)
		}
	}
	n["status"] = Object{"conditions": append(kept, x)}
}

func toAny(m map[string]string) Object {
	out := Object{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func status(code int, reason, message string) Object {
	return Object{
		"kind": "Status", "apiVersion": "v1", "metadata": Object{}, "status": "Failure",
		"message": message, "reason": reason, "code": code,
	}
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	reply(w, code, status(code, reason, message))
}

func reply(w http.ResponseWriter, code int, o Object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}

func deepCopy(o Object) Object {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // it came as JSON
	}
	var out Object
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}
