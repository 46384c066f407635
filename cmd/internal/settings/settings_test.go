package settings

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func specs() []Spec {
	with := []string{EtcdEndpoints}
	return []Spec{
		{Name: EtcdEndpoints, Default: "http://127.0.0.1:2379"},
		{Name: EtcdPrefix, Default: "/baize/v1", With: with},
		{Name: EtcdUsername, With: with},
		{Name: EtcdPassword, Secret: true, With: []string{EtcdEndpoints, EtcdUsername}},
	}
}

// at makes a place of pairs.
func at(s Source, pairs ...string) Place {
	p := Place{Source: s, Values: map[string]Value{}}
	for i := 0; i < len(pairs); i += 2 {
		p.Values[pairs[i]] = Value{Text: pairs[i+1], Where: "here"}
	}
	return p
}

func TestResolve(t *testing.T) {
	file := at(
		File, EtcdEndpoints, "http://b:1, http://a:1", EtcdPrefix, "/x", EtcdUsername, "node", EtcdPassword, "secret",
	)
	for name, tc := range map[string]struct {
		places []Place
		want   map[string]string // value and source
	}{
		"nobody says anything": {nil, map[string]string{
			EtcdEndpoints: "http://127.0.0.1:2379 default", EtcdPassword: " default", EtcdPrefix: "/baize/v1 default",
		}},
		"the first place wins": {
			[]Place{at(Flag, EtcdPrefix, "/f"), at(Environment, EtcdPrefix, "/e", EtcdEndpoints, "http://e:1")},
			map[string]string{EtcdPrefix: "/f flag", EtcdEndpoints: "http://e:1 environment"},
		},
		"a file has it all": {[]Place{at(Flag), file}, map[string]string{
			EtcdEndpoints: "http://b:1, http://a:1 file", EtcdUsername: "node file", EtcdPassword: "secret file",
		}},
		"the password of one etcd is not for another": {
			[]Place{at(Flag, EtcdEndpoints, "http://c:1"), file},
			map[string]string{
				EtcdEndpoints: "http://c:1 flag", EtcdUsername: " default", EtcdPassword: " default",
				EtcdPrefix: "/baize/v1 default",
			},
		},
		"for the same etcd it is": {[]Place{at(Flag, EtcdEndpoints, "http://a:1,http://b:1"), file}, map[string]string{
			EtcdUsername: "node file", EtcdPassword: "secret file", EtcdPrefix: "/x file",
		}},
		"the password of one user is not for another": {[]Place{at(Flag, EtcdUsername, "me"), file}, map[string]string{
			EtcdEndpoints: "http://b:1, http://a:1 file", EtcdUsername: "me flag", EtcdPassword: " default",
		}},
		"who runs the command may give the password alone": {[]Place{at(Environment, EtcdPassword, "mine"), file},
			map[string]string{EtcdUsername: "node file", EtcdPassword: "mine environment"}},
		"what an agent leaves empty is empty, what it withholds is not": {
			[]Place{at(Agent, EtcdEndpoints, "http://a:1,http://b:1", EtcdPrefix, "", EtcdUsername, "node"), file},
			map[string]string{EtcdPrefix: " agent", EtcdUsername: "node agent", EtcdPassword: "secret file"},
		},
		"a place without endpoints means the default ones": {
			[]Place{at(Flag, EtcdEndpoints, "http://c:1"), at(File, EtcdPrefix, "/x")},
			map[string]string{EtcdPrefix: "/baize/v1 default"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Resolve(specs(), tc.places)
			for key, want := range tc.want {
				assert.Equal(t, want, got[key].Value+" "+string(got[key].Source), key)
				assert.Equal(t, got[key].Value != "", got[key].Set, key)
			}
		})
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	s := Resolve(specs(), []Place{at(Flag, EtcdPassword, "secret")})[EtcdPassword]
	assert.Equal(t, "secret", s.Value)
	assert.Empty(t, s.Public().Value)
	assert.True(t, s.Public().Set)
	assert.Equal(t, "(set)", s.Text())
	assert.Equal(t, "(not set)", Setting{Secret: true}.Text())
}

func TestSplitUser(t *testing.T) {
	p := at(Flag, EtcdUser, "ops:a:b")
	require.Empty(t, SplitUser(p))
	assert.Equal(t, at(Flag, EtcdUsername, "ops", EtcdPassword, "a:b"), p, "a password may have a colon")
	p = at(Flag, EtcdUser, "ops", EtcdPassword, "x")
	require.Empty(t, SplitUser(p))
	assert.Equal(t, at(Flag, EtcdUsername, "ops", EtcdPassword, "x"), p)
	assert.Contains(t, SplitUser(at(Flag, EtcdUser, "ops:x", EtcdPassword, "y")), "both give a password")
	assert.Contains(t, SplitUser(at(Flag, EtcdUser, "ops", EtcdUsername, "y")), "both name a user")
}

func TestOrigin(t *testing.T) {
	for _, tc := range []struct {
		o           Origin
		text, inner string
	}{
		{Origin{Flag, "--x"}, "flag --x", "from flag --x"},
		{Origin{Environment, "BAIZE_X"}, "environment variable BAIZE_X", "from environment variable BAIZE_X"},
		{Origin{Context, "prod (f:3)"}, "context prod (f:3)", "from context prod (f:3)"},
		{Origin{Agent, "/run/s"}, "agent at /run/s", "from agent at /run/s"},
		{Origin{File, "/etc/default/baize:3"}, "/etc/default/baize:3", "from /etc/default/baize:3"},
		{Origin{Source: Default}, "default", "the default"},
	} {
		assert.Equal(t, tc.text, tc.o.String())
		assert.Equal(t, tc.inner, tc.o.Phrase())
	}
}
