package secret

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		mode    os.FileMode
		refused bool
		warned  bool
	}{
		{"the owner's alone", 0o600, false, false},
		{"the group may read", 0o640, false, false},
		{"everybody may read", 0o644, false, true},
		{"the group may write", 0o660, true, false},
		{"everybody may write", 0o602, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte("hush\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			data, warning, err := Read(path)
			var mode *ModeError
			if errors.As(err, &mode) != tt.refused || (warning != "") != tt.warned {
				t.Fatalf("%q, %v", warning, err)
			}
			if !tt.refused && string(data) != "hush\n" {
				t.Errorf("%q", data)
			}
		})
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "gone"), large} {
		if _, _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
