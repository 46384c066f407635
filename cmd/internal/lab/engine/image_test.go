package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestImageIsBusyboxAndItsApplets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "busybox")
	require.NoError(t, os.WriteFile(file, []byte("ELF and so on"), 0o755))
	var b bytes.Buffer
	require.NoError(t, writeImage(&b, file, []string{"[", "ash", "busybox", "sh"}))
	got := map[string]string{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		got[h.Name] = h.Linkname + string(content)
	}
	assert.Equal(t, "ELF and so on", got["bin/busybox"], "and no link of that name in its place")
	assert.Equal(t, "busybox", got["bin/sh"])
	assert.Equal(t, "busybox", got["bin/["])
	assert.Contains(t, got, "tmp/")
	assert.Contains(t, got["etc/passwd"], "root:x:0:0")
}

// What an engine may answer while it is given the image.
func TestImageIsImportedOnce(t *testing.T) {
	busybox, err := staticBusybox()
	require.NoError(t, err)
	list := func(_ context.Context, argv ...string) (string, error) {
		assert.Equal(t, []string{busybox, "--list"}, argv)
		return "ash\nsh", nil
	}
	for name, tc := range map[string]struct {
		there  bool
		answer string
		fails  string
	}{
		"there":           {there: true},
		"imported":        {answer: `{"status":"sha256:1"}`},
		"failed half-way": {answer: `{"status":"reading"}` + "\n" + `{"error":"no space left"}`, fails: "no space left"},
		"not JSON":        {answer: "oops", fails: "oops"},
	} {
		t.Run(name, func(t *testing.T) {
			imported := 0
			engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodGet && r.URL.Path == "/images/busybox:latest/json":
					if !tc.there {
						w.WriteHeader(http.StatusNotFound)
					}
				case r.Method == http.MethodPost && r.URL.Path == "/images/create":
					imported++
					assert.Equal(t, "busybox", r.URL.Query().Get("repo"))
					_, err := tar.NewReader(r.Body).Next()
					assert.NoError(t, err)
					_, _ = io.WriteString(w, tc.answer)
				default:
					t.Errorf("unexpected %s %s", r.Method, r.URL)
				}
			}))
			defer engine.Close()
			c := &http.Client{Transport: redirect(strings.TrimPrefix(engine.URL, "http://"))}
			err := ensureImage(t.Context(), c, list)
			if tc.fails != "" {
				assert.ErrorContains(t, err, tc.fails)
			} else {
				assert.NoError(t, err)
			}
			assert.Equal(t, !tc.there, imported == 1)
		})
	}
}

// redirect sends every request to one server.
type redirect string

func (d redirect) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Host = string(d)
	return http.DefaultTransport.RoundTrip(r)
}
