// Package settings says where a setting comes from: a flag, the environment, a
// context, the running agent, the settings file of the node, or the default; and
// which of these places wins. It reads the files, and knows neither etcd nor the
// command line.
package settings

import (
	"slices"
	"strings"
)

// The settings that say how a cluster's etcd is reached, by the names of their
// flags.
const (
	EtcdEndpoints = "etcd-endpoints"
	EtcdPrefix    = "etcd-prefix"
	EtcdCAFile    = "etcd-cafile"
	EtcdCertFile  = "etcd-certfile"
	EtcdKeyFile   = "etcd-keyfile"
	// EtcdUser is another form of the two that follow: NAME:PASSWORD.
	EtcdUser     = "etcd-user"
	EtcdUsername = "etcd-username"
	EtcdPassword = "etcd-password"
	// EtcdPasswordFile is a file with the password, EtcdPlainPassword, true, sends it
	// over a connection that is not encrypted.
	EtcdPasswordFile  = "etcd-password-file"
	EtcdPlainPassword = "etcd-plain-password"
	EtcdTimeout       = "etcd-timeout"
)

// Cluster lists them, in the order in which they are shown.
func Cluster() []string {
	return []string{
		EtcdEndpoints, EtcdPrefix, EtcdCAFile, EtcdCertFile, EtcdKeyFile, EtcdUsername, EtcdPassword,
		EtcdPasswordFile, EtcdPlainPassword, EtcdTimeout,
	}
}

// IsFile reports whether a setting is the path of a file.
func IsFile(name string) bool {
	return name == EtcdCAFile || name == EtcdCertFile || name == EtcdKeyFile || name == EtcdPasswordFile
}

// Source is the kind of place that a setting comes from.
type Source string

// The places, the strongest first.
const (
	Flag        Source = "flag"
	Environment Source = "environment"
	Context     Source = "context"
	Agent       Source = "agent"
	File        Source = "file"
	Default     Source = "default"
)

// Origin is where a setting comes from.
type Origin struct {
	Source Source `json:"source"`
	// Where is the flag, the variable, the context with file and line, the agent's
	// socket, or file and line. Empty for a default.
	Where string `json:"where,omitempty"`
}

// String is for people: "environment variable BAIZE_ETCD_ENDPOINTS".
func (o Origin) String() string {
	switch o.Source {
	case Environment:
		return "environment variable " + o.Where
	case File, Default:
		return strings.TrimSpace(o.Where + strings.TrimPrefix(string(o.Source), string(File)))
	case Agent:
		return "agent at " + o.Where
	}
	return string(o.Source) + " " + o.Where
}

// Phrase is an origin in the middle of a sentence: "from flag --etcd-endpoints",
// "the default".
func (o Origin) Phrase() string {
	if o.Source == Default {
		return "the default"
	}
	return "from " + o.String()
}

// Setting is a setting with its origin.
type Setting struct {
	Name string `json:"name"`
	// Value is a list with commas where there are several. See Public.
	Value  string `json:"value"`
	Secret bool   `json:"secret,omitempty"`
	// Set: there is a value, also where it is not shown.
	Set bool `json:"set"`
	Origin
}

// Public returns the setting as it may be shown: a secret without its value.
func (s Setting) Public() Setting {
	if s.Secret {
		s.Value = ""
	}
	return s
}

// Text is the value for people; of a secret, whether there is one.
func (s Setting) Text() string {
	switch {
	case s.Secret && s.Set:
		return "(set)"
	case s.Secret:
		return "(not set)"
	}
	return s.Value
}

// List returns the values of a setting that may have several.
func (s Setting) List() []string {
	if s.Value == "" {
		return nil
	}
	return split(s.Value)
}

func split(list string) []string {
	out := strings.Split(list, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

// Spec is what is known of a setting before anybody gives it a value.
type Spec struct {
	Name, Default string
	Secret        bool
	// With are settings that it belongs to, which stand before it. A context, an
	// agent or a file has it only for its own values of those: the password for one
	// etcd is not sent to another.
	With []string
}

// Value is a setting at a place.
type Value struct{ Text, Where string }

// Place is what one place says. A setting that is there with an empty text is
// one that the place leaves empty; the environment and files have none such.
type Place struct {
	Source Source
	Values map[string]Value
}

// own reports whether who runs the command wrote the place for it.
func (p Place) own() bool { return p.Source == Flag || p.Source == Environment }

// Resolved are settings by name. Secrets have their value.
type Resolved map[string]Setting

// Resolve takes each setting from the first place that has it.
func Resolve(specs []Spec, places []Place) Resolved {
	out, defaults := Resolved{}, map[string]string{}
	for _, s := range specs {
		defaults[s.Name] = s.Default
		chosen := Setting{Name: s.Name, Value: s.Default, Secret: s.Secret, Origin: Origin{Source: Default}}
		for _, p := range places {
			v, ok := p.Values[s.Name]
			if ok && (p.own() || out.sameIn(p, s.With, defaults)) {
				chosen.Value, chosen.Origin = v.Text, Origin{Source: p.Source, Where: v.Where}
				break
			}
		}
		chosen.Set = chosen.Value != ""
		out[s.Name] = chosen
	}
	return out
}

// sameIn reports whether a place has the chosen values of all these settings.
func (r Resolved) sameIn(p Place, names []string, defaults map[string]string) bool {
	for _, n := range names {
		v, ok := p.Values[n]
		if !ok {
			v.Text = defaults[n]
		}
		if !sameList(v.Text, r[n].Value) {
			return false
		}
	}
	return true
}

func sameList(a, b string) bool {
	x, y := split(a), split(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// SplitUser replaces EtcdUser by the two settings that it stands for. What
// contradicts it in the same place is returned as what is wrong; empty: nothing.
func SplitUser(p Place) (contradiction string) {
	user, ok := p.Values[EtcdUser]
	if !ok {
		return ""
	}
	delete(p.Values, EtcdUser)
	if _, both := p.Values[EtcdUsername]; both {
		return "--etcd-user and --etcd-username both name a user: give one of them"
	}
	name, password, inline := strings.Cut(user.Text, ":")
	p.Values[EtcdUsername] = Value{Text: name, Where: user.Where}
	if !inline {
		return ""
	}
	if _, both := p.Values[EtcdPassword]; both {
		return "--etcd-user and --etcd-password both give a password: give one of them"
	}
	p.Values[EtcdPassword] = Value{Text: password, Where: user.Where}
	return ""
}
