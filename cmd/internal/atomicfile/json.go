package atomicfile

import (
	"encoding/json"
	"os"
)

// WriteJSON replaces a file, as Write does, by a value as indented JSON.
func WriteJSON(file string, v any, mode os.FileMode) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return Write(file, append(b, '\n'), mode)
}
